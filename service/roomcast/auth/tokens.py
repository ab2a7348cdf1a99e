"""Checking tokens: JWTs that the application signed, and nobody else."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jwt
import orjson
from jwt.exceptions import DecodeError, ExpiredSignatureError, InvalidSignatureError, PyJWTError

from roomcast.auth import ExpiredToken, InvalidToken
from roomcast.auth.claims import connection_claims, subscription_claims
from roomcast.auth.jwks import KeySet
from roomcast.auth.keys import PUBLIC_KEY_ALGORITHMS, local_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roomcast.auth import ConnectionClaims, SubscriptionClaims
    from roomcast.auth.keys import Key
    from roomcast.config import Settings

# Others allow as much; whoever needs more wants an id in the token, and the rest by that id.
MAX_TOKEN_BYTES = 16 * 1024

# PyJWT quotes some of what a token says before anybody knows who has signed it, and reasons are logged.
_MAX_REASON_LENGTH = 120


class TokenVerifier:
    """Says what a token says, if it is signed with a key of ours and holds now.

    A coroutine only for the sake of a key that must be fetched first: with the keys at hand nothing is waited for. An
    HS256 token of 255 bytes takes some 50 us (tests/bench/tokens.py).
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        key_set: KeySet | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        leeway_s: float = 0.0,
    ) -> None:
        self._keys = keys
        self._key_set = key_set
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._jwt = _StrictJwt()

    async def connection(self, token: str) -> ConnectionClaims:
        """Return what a connection token says. Raises: InvalidToken, ExpiredToken, KeysUnavailable."""
        return connection_claims(await self.payload(token))

    async def subscription(self, token: str) -> SubscriptionClaims:
        """Return what a subscription token says; who compares its user and channel is the caller.

        Raises: InvalidToken, ExpiredToken, KeysUnavailable.
        """
        return subscription_claims(await self.payload(token))

    async def aclose(self) -> None:
        """Let go of what fetches keys."""
        if self._key_set is not None:
            await self._key_set.aclose()

    async def payload(self, token: str) -> dict[str, Any]:  # Any: JSON
        """Return all claims of a token, as they are. Raises: InvalidToken, ExpiredToken, KeysUnavailable."""
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken(f"{len(token)} characters, at most {MAX_TOKEN_BYTES} are allowed")
        algorithm, key_id = _header_of(token)
        is_known = False
        for key in self._keys:
            if algorithm in key.algorithms:
                is_known = True
                with suppress(InvalidSignatureError):
                    return self._decode(token, key)
        if self._key_set is not None and algorithm in PUBLIC_KEY_ALGORITHMS:
            is_known = True
            key_of_set = await self._key_set.find(key_id, algorithm)
            if key_of_set is not None:
                with suppress(InvalidSignatureError):
                    return self._decode(token, key_of_set)
        if not is_known:
            raise InvalidToken(f"signed with {algorithm[:16]!r}, for which there is no key here")
        raise InvalidToken("signed with a key that is none of ours")

    def _decode(self, token: str, key: Key) -> dict[str, Any]:  # Any: JSON
        """Return the claims. Raises: InvalidToken, ExpiredToken, and PyJWT's InvalidSignatureError."""
        try:
            return self._jwt.decode(
                token,
                key.material,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
            )
        except InvalidSignatureError:
            raise
        except ExpiredSignatureError:
            raise ExpiredToken from None
        except PyJWTError as exc:
            raise InvalidToken(str(exc)[:_MAX_REASON_LENGTH]) from None


def read_verifier(settings: Settings) -> TokenVerifier:
    """Return what checks tokens as the settings say; keys are fetched with the first token that needs them.

    Raises: ConfigError for a secret or a file that holds no usable key.
    """
    return TokenVerifier(
        local_keys(settings),
        key_set=KeySet(settings.jwks_url) if settings.jwks_url else None,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        leeway_s=settings.token_leeway_s,
    )


class _StrictJwt(jwt.PyJWT):
    """PyJWT, with a parser that takes JSON alone: no NaN, and no text or number that could not be written again."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        try:
            payload = orjson.loads(decoded["payload"])
        except orjson.JSONDecodeError as exc:
            raise DecodeError(f"the claims are not JSON: {exc}") from None
        if not isinstance(payload, dict):
            raise DecodeError("the claims are not a JSON object")
        return payload


def _header_of(token: str) -> tuple[str, str | None]:
    """Return a token's algorithm and key id, for choosing the key; the key then says what is taken.

    Raises: InvalidToken.
    """
    segment = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        algorithm, key_id = header["alg"], header.get("kid")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidToken("not a JWT") from None
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None) or not token.isascii():
        raise InvalidToken("not a JWT")
    return algorithm, key_id
