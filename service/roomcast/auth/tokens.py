"""Validation of clients' tokens: JWTs with the signature of a known key."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import jwt
import orjson
from jwt.exceptions import (
    DecodeError,
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidSignatureError,
    PyJWTError,
)
from jwt.types import Options
from typing_extensions import override

from roomcast.auth import ConnectionClaims, ExpiredToken, InvalidToken, SubscriptionClaims
from roomcast.auth.claims import connection_claims, subscription_claims
from roomcast.auth.jwks import KeySet
from roomcast.auth.keys import PUBLIC_KEY_ALGORITHMS, Key, local_keys
from roomcast.config import Settings
from roomcast.model import json
from roomcast.model.json import Json, JsonObject

# Other servers of this kind allow as much. Larger data belongs into the application, under an id in the token.
MAX_TOKEN_BYTES = 16 * 1024

# PyJWT quotes parts of a token before its signature is verified, and reasons are logged.
_MAX_REASON_LENGTH = 120

# A time of issue in the future only shows that clocks differ; RFC 7519 4.1.6 rejects no token because of it. `sub` is
# validated with the other claims, `jti` is not used.
_OPTIONS: Options = {"verify_iat": False, "verify_sub": False, "verify_jti": False}

C = TypeVar("C")


class TokenVerifier:
    """Returns the claims of a token that is signed with a known key and valid now.

    A coroutine only because a key may have to be fetched: with known keys it does not wait. An HS256 token of 255 bytes
    takes about 50 us (tests/bench/tokens.py).

    Args:
        counts: invalid tokens are counted here, as `refused_tokens`.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        key_set: KeySet | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        leeway_s: float = 0.0,
        counts: Counter[str] | None = None,
    ) -> None:
        self._counts = Counter() if counts is None else counts
        self._keys = keys
        self._key_set = key_set
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._jwt = _StrictJwt()

    async def connection(self, token: str) -> ConnectionClaims:
        """Return the claims of a connection token. Raises: InvalidToken, ExpiredToken, KeysUnavailable."""
        return await self._claims(token, connection_claims)

    async def subscription(self, token: str) -> SubscriptionClaims:
        """Return the claims of a subscription token; the caller compares user and channel. Raises: as `connection`."""
        return await self._claims(token, subscription_claims)

    async def aclose(self) -> None:
        """Close the connections that fetch keys."""
        if self._key_set is not None:
            await self._key_set.aclose()

    async def payload(self, token: str) -> JsonObject:
        """Return all claims of a token, not validated; those that are null are missing.

        Raises: InvalidToken, ExpiredToken, KeysUnavailable.
        """
        token = token.strip()  # files and shells leave a line end behind it
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

    async def _claims(self, token: str, read: Callable[[JsonObject], C]) -> C:
        try:
            return read(await self.payload(token))
        except InvalidToken:
            self._counts["refused_tokens"] += 1
            raise

    def _decode(self, token: str, key: Key) -> JsonObject:
        """Return the claims. Raises: InvalidToken, ExpiredToken, and PyJWT's InvalidSignatureError."""
        try:
            return self._jwt.decode(
                token,
                key.material,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options=_OPTIONS,
            )
        except InvalidSignatureError:
            raise
        except ExpiredSignatureError:
            raise ExpiredToken from None
        except ImmatureSignatureError:
            raise ExpiredToken("not valid yet (nbf)") from None
        except PyJWTError as exc:
            raise InvalidToken(str(exc)[:_MAX_REASON_LENGTH]) from None


def read_verifier(settings: Settings, counts: Counter[str] | None = None) -> TokenVerifier:
    """Return the verifier that the settings describe; keys are fetched with the first token that needs them.

    Raises: ConfigError for a secret or a file without a usable key.
    """
    return TokenVerifier(
        local_keys(settings),
        key_set=KeySet(settings.jwks_url) if settings.jwks_url else None,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        leeway_s=settings.token_leeway_s,
        counts=counts,
    )


class _StrictJwt(jwt.PyJWT):
    """PyJWT with a strict JSON parser: no NaN, and only payloads may have what orjson rejects."""

    @override
    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Json]:  # Any: PyJWT's parts of a token
        try:
            payload = json.loads(decoded["payload"], keep=("info", "data", "meta"))
        except json.InvalidJson as exc:
            raise DecodeError(f"the claims are not JSON: {exc}") from None
        if not isinstance(payload, dict):
            raise DecodeError("the claims are not a JSON object")
        return {name: value for name, value in payload.items() if value is not None}


def _header_of(token: str) -> tuple[str, str | None]:
    """Return the algorithm and key id of a token, which only select the key. Raises: InvalidToken."""
    segment = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        algorithm, key_id = header["alg"], header.get("kid")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidToken("not a JWT") from None
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None) or not token.isascii():
        raise InvalidToken("not a JWT")
    return algorithm, key_id
