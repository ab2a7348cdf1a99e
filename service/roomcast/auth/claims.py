"""Claims of tokens: validates the payload of a token whose signature was verified."""

from __future__ import annotations

from typing import Annotated, TypeVar

from annotated_types import Len
from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, StrictStr, ValidationError

from roomcast.auth import ConnectionClaims, InvalidToken, SubscriptionClaims, SubscriptionOptions
from roomcast.auth.permissions import Action, Grant
from roomcast.auth.shapes import OptionsShape, Shape, dump
from roomcast.bodies import faults
from roomcast.model.channels import MAX_CHANNEL_BYTES, check_channel, check_name
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject

# All are matched against the channel for each action.
MAX_GRANTS = 64
# The year 9999: later times are mistakes, such as milliseconds, and datetime rejects them.
_MAX_TIME_S = 253_402_300_799

_Time = Annotated[FiniteFloat, Field(ge=0, le=_MAX_TIME_S)]


class _Permission(Shape):
    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: list[Annotated[StrictStr, Len(1, MAX_CHANNEL_BYTES)]]
    allow: frozenset[Action]


def _own(permissions: Json) -> Json:
    """Return the permissions of this format. Identity providers have others in this claim: Auth0 a list of strings."""
    if not isinstance(permissions, list):
        return []
    return [each for each in permissions if isinstance(each, dict) and each.keys() & {"channels", "allow"}]


class _Common(OptionsShape):
    sub: StrictStr | None = None
    exp: _Time | None = None
    expire_at: _Time | None = None

    @property
    def expire_at_s(self) -> int | None:
        """Return when the connection or subscription expires: `expire_at`, 0 is never; without it `exp`."""
        at_s = self.exp if self.expire_at is None else self.expire_at
        return int(at_s) if at_s else None


class _Connection(_Common):
    channel: StrictStr | None = None
    channels: list[StrictStr] | None = None
    subs: dict[str, OptionsShape | None] | None = None
    meta: Json = None
    permissions: Annotated[list[_Permission], BeforeValidator(_own)] = Field([])


class _Subscription(_Common):
    channel: StrictStr | None = None


_S = TypeVar("_S", bound=Shape)


def connection_claims(payload: JsonObject) -> ConnectionClaims:
    """Return the claims of a connection token. Raises: InvalidToken that names the claim."""
    claims = _validated(_Connection, payload)
    if claims.channel is not None:
        raise InvalidToken("this is a subscription token: it names a channel")
    return ConnectionClaims(
        user=_user(claims.sub),
        expire_at_s=claims.expire_at_s,
        info=claims.info_bytes(),
        channels=tuple(_channel(channel, "channels") for channel in claims.channels or ()),
        subs={
            _channel(channel, "subs"): (each or OptionsShape()).options("subs: ")
            for channel, each in (claims.subs or {}).items()
        },
        meta=dump(claims.meta, "meta"),
        grants=_grants(claims.permissions),
    )


def subscription_claims(payload: JsonObject) -> SubscriptionClaims:
    """Return the claims of a subscription token. Raises: InvalidToken that names the claim."""
    claims = _validated(_Subscription, payload)
    if not claims.channel:
        raise InvalidToken("channel: a subscription token must name one")
    options = claims.options()
    return SubscriptionClaims(
        user=_user(claims.sub),
        channel=_channel(claims.channel, "channel"),
        expire_at_s=claims.expire_at_s,
        info=options.info,
        data=options.data,
        override=options.override,
    )


def subscription_options(params: JsonObject) -> SubscriptionOptions:
    """Return how a service wants a client to be subscribed. Raises: ClientError 107."""
    try:
        return _validated(OptionsShape, params).options("subs: ")
    except InvalidToken as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, exc.reason) from None


def _validated(shape: type[_S], payload: JsonObject) -> _S:
    try:
        return shape.model_validate(payload)
    except ValidationError as exc:
        place, message = faults(exc)[0]
        raise InvalidToken(f"{place}: {message}") from None


def _user(name: str | None) -> str:
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
