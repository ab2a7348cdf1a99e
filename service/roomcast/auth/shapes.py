"""JSON shapes of subscription options, as tokens, the server API and the proxy send them."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, StrictStr

from roomcast.auth import InvalidToken, Override, SubscriptionOptions
from roomcast.model import json
from roomcast.model.client_info import MAX_INFO_BYTES
from roomcast.model.json import Json
from roomcast.model.payloads import decode_base64


class Shape(BaseModel):
    """JSON whose unknown members are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Flag(Shape):
    """An option that is overridden."""

    value: StrictBool | None = None  # absent and null are false, as in proto3, which the protocol is written in


class OverrideShape(Shape):
    """Options of a namespace that are overridden for one subscription."""

    presence: Flag | None = None
    join_leave: Flag | None = None
    force_push_join_leave: Flag | None = None
    # The second names are those of before 2022.
    force_positioning: Flag | None = Field(default=None, validation_alias=AliasChoices("force_positioning", "position"))
    force_recovery: Flag | None = Field(default=None, validation_alias=AliasChoices("force_recovery", "recover"))

    def override(self) -> Override:
        """Return the options."""
        return Override(
            presence=_bool(self.presence),
            join_leave=_bool(self.join_leave),
            push_join_leave=_bool(self.force_push_join_leave),
            position=_bool(self.force_positioning),
            recover=_bool(self.force_recovery),
        )


class OptionsShape(Shape):
    """How a client is subscribed; `b64info` and `b64data` hold JSON in base64, and take precedence."""

    info: Json = None
    b64info: StrictStr | None = None
    data: Json = None
    b64data: StrictStr | None = None
    override: OverrideShape | None = None

    def info_bytes(self, place: str = "") -> bytes:
        """Return the info. Raises: InvalidToken that names it, after `place`."""
        info = _bytes(self.info, self.b64info, f"{place}info")
        if info:
            _check_info(info, place)
        if len(info) > MAX_INFO_BYTES:
            raise InvalidToken(f"{place}info: {len(info)} bytes, at most {MAX_INFO_BYTES} are allowed")
        return info

    def options(self, place: str = "") -> SubscriptionOptions:
        """Return the options. Raises: InvalidToken that names the member, after `place`."""
        return SubscriptionOptions(
            info=self.info_bytes(place),
            data=_bytes(self.data, self.b64data, f"{place}b64data"),
            override=None if self.override is None else self.override.override(),
        )


def dump(value: Json, name: str) -> bytes:
    """Return a member as JSON, empty for null. Raises: InvalidToken that names it."""
    try:
        return b"" if value is None else json.dumps(value)
    except json.InvalidJson as exc:
        raise InvalidToken(f"{name}: {exc}") from None


def _bytes(value: Json, encoded: str | None, name: str) -> bytes:
    if not encoded:
        return dump(value, name)
    try:
        return json.dumps(json.loads(decode_base64(encoded)))
    except ValueError:  # clients that speak JSON receive it
        raise InvalidToken(f"{name}: not JSON in base64") from None


def _check_info(info: bytes, place: str) -> None:
    try:
        json.loads(info)  # nodes parse it: a number beyond a double is valid only in data
    except json.InvalidJson as exc:
        raise InvalidToken(f"{place}info: {exc}") from None


def _bool(flag: Flag | None) -> bool | None:
    return None if flag is None else bool(flag.value)
