"""`roomcast token`: makes tokens for development, and checks whether this deployment accepts a token."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click
import jwt
import orjson

from roomcast.auth import ExpiredToken, InvalidToken, KeysUnavailable
from roomcast.auth.claims import connection_claims, subscription_claims
from roomcast.auth.tokens import MAX_TOKEN_BYTES, read_verifier
from roomcast.cli.terminal import configure_cli_logging
from roomcast.config import ENV_PREFIX, ConfigError, Settings, read_settings, require_auth

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_MAX_TTL_S = 10 * 366 * 24 * 3600


@click.command("token")
@click.option("--user", help="The user, its claim `sub`; '' for an anonymous one.")
@click.option("--channel", help="Make a subscription token, for this channel.")
@click.option("--ttl", default="1h", show_default=True, help="Lifetime: 90s, 15m, 1h, 7d.")
@click.option("--info", metavar="JSON", help="Information that other clients see.")
@click.option("--permit", "permits", multiple=True, metavar="PATTERN=ACTIONS", help="Permit actions; repeatable.")
@click.option("--check", metavar="TOKEN", help="Print the claims of a token and its validity; - reads stdin.")
def token_command(
    *, user: str | None, channel: str | None, ttl: str, info: str | None, permits: tuple[str, ...], check: str | None
) -> None:
    """Print a token signed with ROOMCAST_SECRET, or check one.

    For example: roomcast token --user 42 --permit 'room:*=subscribe,publish'
    """
    settings = _settings()
    if check is not None:
        if (user, channel, info, permits) != (None, None, None, ()):
            raise click.UsageError("--check looks at a token that is there, and takes no other option")
        token = sys.stdin.read(MAX_TOKEN_BYTES + 2) if check == "-" else check
        asyncio.run(_check(token.strip(), settings))
        return
    if user is None:
        raise click.UsageError("say whose token it is, with --user (or which one to look at, with --check)")
    click.echo(_make(settings, user, channel, ttl_s=_seconds(ttl), info=info, permits=permits))


def _settings() -> Settings:
    try:
        settings = read_settings()
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/settings.md)") from exc
    configure_cli_logging(settings)
    return settings


def _make(
    settings: Settings, user: str, channel: str | None, *, ttl_s: int, info: str | None, permits: tuple[str, ...]
) -> str:
    """Return a new token, after checking that a node would accept its claims."""
    if settings.secret is None:
        raise click.ClickException(f"{ENV_PREFIX}SECRET is not set: export the one that the nodes have")
    now_s = int(time.time())
    payload: dict[str, Any] = {"sub": user, "iat": now_s, "exp": now_s + ttl_s}  # Any: JSON
    named = {"aud": settings.token_audience, "iss": settings.token_issuer, "channel": channel}
    payload |= {name: value for name, value in named.items() if value is not None}
    if info is not None:
        try:
            payload["info"] = orjson.loads(info)
        except orjson.JSONDecodeError as exc:
            raise click.UsageError(f"--info is not JSON ({exc.msg})") from exc
    if permits:
        if channel is not None:
            raise click.UsageError("--permit is for connection tokens; one with --channel is for that channel alone")
        payload["permissions"] = [_permission(text) for text in permits]
    try:
        subscription_claims(payload) if channel is not None else connection_claims(payload)
    except InvalidToken as exc:
        raise click.UsageError(f"no node would take this token: {exc.reason}") from exc
    token = jwt.encode(payload, settings.secret.get_secret_value(), "HS256")
    if len(token) > MAX_TOKEN_BYTES:
        raise click.UsageError(f"the token has {len(token)} bytes, at most {MAX_TOKEN_BYTES} are allowed")
    return token


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _MAX_TTL_S:
        raise click.UsageError(f"--ttl {text!r} is no time such as 90s, 15m, 1h or 7d, ten years at most")
    return seconds


def _permission(text: str) -> dict[str, list[str]]:
    pattern, separator, actions = text.rpartition("=")
    if not separator:
        raise click.UsageError(f"--permit {text}: write it as 'room:*=subscribe,publish'")
    return {"channels": [pattern], "allow": actions.split(",")}


async def _check(token: str, settings: Settings) -> None:
    """Print the header and claims of a token. Raises: ClickException with the reason if it is not accepted."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError) as exc:
        raise click.ClickException(f"not accepted: not a JWT ({exc})") from exc
    click.echo(json.dumps({"header": parts["header"], "claims": parts["payload"]}, indent=2))
    try:
        require_auth(settings)
        if settings.insecure:
            raise click.ClickException(f"{ENV_PREFIX}INSECURE is set: no token is looked at here")
        verifier = read_verifier(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/auth.md)") from exc
    try:
        is_subscription = "channel" in parts["payload"]
        claims = await (verifier.subscription(token) if is_subscription else verifier.connection(token))
    except ExpiredToken as exc:
        raise click.ClickException(f"not accepted: {exc.detail}") from exc
    except (InvalidToken, KeysUnavailable) as exc:
        raise click.ClickException(f"not accepted: {exc.reason}") from exc
    finally:
        await verifier.aclose()
    at_s = claims.expire_at_s
    ends = "never ends" if at_s is None else f"ends at {datetime.fromtimestamp(at_s, UTC).isoformat()}"
    click.echo(f"accepted: what it opens {ends}")
