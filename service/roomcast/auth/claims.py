"""What claims may say: the payload of a token, whose signature is checked already, becomes values."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import orjson
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictStr, ValidationError

from roomcast.auth import ConnectionClaims, InvalidToken, Override, SubscriptionClaims, SubscriptionOptions
from roomcast.auth.permissions import Action, Grant
from roomcast.model.channels import MAX_CHANNEL_BYTES, check_channel, check_name
from roomcast.model.client_info import MAX_INFO_BYTES
from roomcast.model.errors import ClientError

# Each is tried for each action in a channel.
MAX_GRANTS = 64
# The year 9999: later ones are mistakes, such as milliseconds, and no clock takes them.
_MAX_TIME_S = 253_402_300_799

# Any JSON: what it says is between the application and its pages.
_Json = Any
_Time = Annotated[FiniteFloat, Field(ge=0, le=_MAX_TIME_S)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Value(_Shape):
    value: StrictBool = False


class _Override(_Shape):
    presence: _Value | None = None
    join_leave: _Value | None = None
    force_push_join_leave: _Value | None = None
    # The newer names, and those of before 2022.
    force_positioning: _Value | None = None
    position: _Value | None = None
    force_recovery: _Value | None = None
    recover: _Value | None = None


class _Options(_Shape):
    info: _Json = None
    b64info: StrictStr = ""
    data: _Json = None
    b64data: StrictStr = ""
    override: _Override | None = None


class _Permission(_Shape):
    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: list[Annotated[StrictStr, Len(1, MAX_CHANNEL_BYTES)]]
    allow: frozenset[Action]


class _Common(_Options):
    sub: StrictStr = ""
    exp: _Time | None = None
    expire_at: _Time | None = None

    @property
    def expire_at_s(self) -> int | None:
        """Return when what the token opens ends: `expire_at`, 0 is never; without it `exp`."""
        at_s = self.exp if self.expire_at is None else self.expire_at
        return int(at_s) if at_s else None


class _Connection(_Common):
    channel: StrictStr | None = None
    channels: list[StrictStr] | None = None
    subs: dict[str, _Options] | None = None
    meta: _Json = None
    permissions: list[_Permission] | None = None


class _Subscription(_Common):
    channel: StrictStr = ""


_Claims = TypeVar("_Claims", bound=_Common)


def connection_claims(payload: Mapping[str, Any]) -> ConnectionClaims:
    """Return what a connection token says. Raises: InvalidToken that names the claim."""
    claims = _checked(_Connection, payload)
    if claims.channel is not None:
        raise InvalidToken("this is a subscription token: it names a channel")
    return ConnectionClaims(
        user=_user(claims.sub),
        expire_at_s=claims.expire_at_s,
        info=_info(claims, "info"),
        channels=tuple(_channel(channel, "channels") for channel in claims.channels or ()),
        subs={_channel(channel, "subs"): _options(options) for channel, options in (claims.subs or {}).items()},
        meta=_dump(claims.meta, "meta"),
        grants=_grants(claims.permissions or []),
    )


def subscription_claims(payload: Mapping[str, Any]) -> SubscriptionClaims:
    """Return what a subscription token says. Raises: InvalidToken that names the claim."""
    claims = _checked(_Subscription, payload)
    if not claims.channel:
        raise InvalidToken("channel: a subscription token must name one")
    return SubscriptionClaims(
        user=_user(claims.sub),
        channel=_channel(claims.channel, "channel"),
        expire_at_s=claims.expire_at_s,
        info=_info(claims, "info"),
        data=_bytes(claims.data, claims.b64data, "b64data"),
        override=_override(claims.override),
    )


def subscription_options(params: Mapping[str, Any]) -> SubscriptionOptions:
    """Return how a service wants a client to be subscribed: the members of `subs`. Raises: InvalidToken."""
    try:
        return _options(_Options.model_validate(params))
    except ValidationError as exc:
        raise InvalidToken(_first_error(exc)) from None


def _first_error(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def _checked(shape: type[_Claims], payload: Mapping[str, Any]) -> _Claims:
    try:
        return shape.model_validate(payload)
    except ValidationError as exc:
        raise InvalidToken(_first_error(exc)) from None


def _user(name: str) -> str:
    try:
        return check_name(name, "user") if name else ""
    except ClientError as exc:
        raise InvalidToken(f"sub: {exc.detail}") from None


def _channel(name: str, claim: str) -> str:
    try:
        return check_channel(name)
    except ClientError as exc:
        raise InvalidToken(f"{claim}: {exc.detail}") from None


def _grants(permissions: list[_Permission]) -> tuple[Grant, ...]:
    grants = tuple(
        Grant(pattern, permission.allow) for permission in permissions for pattern in dict.fromkeys(permission.channels)
    )
    if len(grants) > MAX_GRANTS:
        raise InvalidToken(f"permissions: {len(grants)} patterns, at most {MAX_GRANTS} are allowed")
    return grants


def _options(options: _Options) -> SubscriptionOptions:
    return SubscriptionOptions(
        info=_info(options, "subs: info"),
        data=_bytes(options.data, options.b64data, "subs: b64data"),
        override=_override(options.override),
    )


def _override(override: _Override | None) -> Override | None:
    if override is None:
        return None
    return Override(
        presence=_bool(override.presence),
        join_leave=_bool(override.join_leave),
        push_join_leave=_bool(override.force_push_join_leave),
        position=_bool(override.force_positioning or override.position),
        recover=_bool(override.force_recovery or override.recover),
    )


def _bool(value: _Value | None) -> bool | None:
    return None if value is None else value.value


def _info(options: _Options, claim: str) -> bytes:
    info = _bytes(options.info, options.b64info, claim)
    if len(info) > MAX_INFO_BYTES:
        raise InvalidToken(f"{claim}: {len(info)} bytes, at most {MAX_INFO_BYTES} are allowed")
    return info


def _bytes(value: _Json, encoded: str, claim: str) -> bytes:
    """Return JSON that a claim holds, or holds in base64. Raises: InvalidToken."""
    if not encoded:
        return _dump(value, claim)
    try:
        return orjson.dumps(orjson.loads(base64.b64decode(encoded, validate=True)))
    except (ValueError, orjson.JSONEncodeError):  # other clients are shown it as JSON
        raise InvalidToken(f"{claim}: not JSON in base64") from None


def _dump(value: _Json, claim: str) -> bytes:
    try:
        return b"" if value is None else orjson.dumps(value)
    except orjson.JSONEncodeError as exc:  # it reads 1024 levels, and writes 254
        raise InvalidToken(f"{claim}: {exc}") from None
