"""Requests of the server API's methods. Unknown fields are ignored, and null is treated as absent."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from roomcast.auth.shapes import OverrideShape
from roomcast.bodies import faults
from roomcast.brokers.interface import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH
from roomcast.model import json
from roomcast.model.channel_patterns import MAX_PATTERN_LENGTH
from roomcast.model.channels import check_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json
from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.model.positions import MAX_OFFSET
from roomcast.presence.interface import MAX_PAGE_LENGTH

MAX_BROADCAST = 1000
MAX_BATCH = 1000

Wanted = TypeVar("Wanted", bound="ApiRequest")


def _check_json(value: Json) -> Json:
    try:
        json.dumps(value)
    except json.InvalidJson as exc:
        raise ValueError(str(exc)) from None
    return value


def _check_info(value: Json) -> Json:
    try:
        json.loads(json.dumps(value))  # nodes parse it: a number beyond a double is valid only in data
    except json.InvalidJson as exc:
        raise ValueError(str(exc)) from None
    return value


ChannelName = Annotated[str, AfterValidator(check_channel), Field(description="for example room:lobby")]
_Json = Annotated[Json, AfterValidator(_check_json)]
_Info = Annotated[Json, AfterValidator(_check_info)]
_Client = Annotated[str, Field(max_length=255)]


def example(wanted: dict[str, Json]) -> ConfigDict:
    """Return the configuration of a request with this example in its documentation."""
    return ConfigDict(json_schema_extra={"examples": [wanted]})


class ApiRequest(BaseModel):
    """The base of all requests."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, wanted: Json) -> Json:
        if not isinstance(wanted, dict):
            return wanted
        return {name: value for name, value in wanted.items() if value is not None or name == "data"}


class Position(ApiRequest):
    """A position in a history. epoch: received together with the offset; empty: the current one."""

    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    epoch: str = Field("", max_length=32)


class _Payload(ApiRequest):
    data: Json = Field(None, description="any JSON value; subscribers receive it as compact JSON text")
    b64data: str = Field("", description="instead of data: bytes in base64; sent as a binary message unless it is JSON")
    tags: dict[str, str] = Field(default_factory=dict, description="subscribers can filter by them")
    skip_history: bool = Field(default=False, description="only for current subscribers, not added to the history")
    idempotency_key: str = Field(
        "", max_length=MAX_KEY_LENGTH, description="the same key in a channel within 5 minutes publishes once"
    )
    delta: bool = Field(default=False, description="accepted and ignored: deltas are an option of the namespace")
    version: int | None = Field(
        None, ge=0, le=MAX_VERSION, description="dropped unless higher than the newest version; 0: none"
    )
    version_epoch: str = Field("", max_length=MAX_VERSION_EPOCH_LENGTH, description="a new one restarts the versions")

    @model_validator(mode="after")
    def _has_payload(self) -> _Payload:
        if "data" not in self.model_fields_set and not self.b64data:
            raise ValueError("data: Field required")
        return self


class PublishRequest(_Payload):
    """A publication to one channel."""

    model_config = example({"channel": "room:lobby", "data": {"text": "hi"}})

    channel: ChannelName


class BroadcastRequest(_Payload):
    """A publication to many channels."""

    model_config = example({"channels": ["user:ada", "user:bob"], "data": {"text": "hi"}})

    channels: list[str] = Field(min_length=1, max_length=MAX_BROADCAST, description="each has its own result")


class HistoryRequest(ApiRequest):
    """A part of a channel's history."""

    model_config = example({"channel": "room:lobby", "limit": 10, "reverse": True})

    channel: ChannelName
    limit: int = Field(
        0, ge=-1, le=MAX_RECOVERED, description=f"maximum number; 0: only the position; -1: {MAX_RECOVERED}"
    )
    since: Position | None = Field(None, description="publications after it, with reverse before it")
    reverse: bool = Field(default=False, description="newest first")


class ChannelRequest(ApiRequest):
    """The channel of `history_remove` and `presence_stats`."""

    model_config = example({"channel": "room:lobby"})

    channel: ChannelName


class _PagedRequest(ApiRequest):
    """A request for everything, or with `limit` or `cursor` for a page."""

    @property
    def is_paged(self) -> bool:
        """Return whether it is for a page."""
        return not self.model_fields_set.isdisjoint({"limit", "cursor"})


class PresenceRequest(_PagedRequest):
    """The clients in a channel: all, or with limit or cursor a page."""

    model_config = example({"channel": "room:lobby"})

    channel: ChannelName
    limit: int = Field(100, ge=1, le=MAX_PAGE_LENGTH, description="approximate number; a page may have some more")
    cursor: str = Field("", description="from the previous page; empty for the first one")


class _UserRequest(ApiRequest):
    """The connections of a user, or one by its client or session id."""

    user: str = Field(max_length=255, description='"" is anonymous, and requires client or session')
    client: _Client = Field("", description="only the connection of this client id")
    session: _Client = Field("", description="only the connection of this session id")

    @model_validator(mode="after")
    def _selects_connections(self) -> _UserRequest:
        if not (self.user or self.client or self.session):
            raise ValueError("user is empty: name a client or session")
        return self


class SubscribeRequest(_UserRequest):
    """A server-side subscription of a user's connections."""

    model_config = example({"user": "ada", "channel": "room:lobby"})

    channel: ChannelName
    info: _Info = Field(None, description="JSON about the client for others in this channel")
    b64info: str = Field("", description="instead of info: bytes in base64")
    data: _Json = Field(None, description="for the client")
    b64data: str = Field("", description="instead of data: bytes in base64")
    expire_at: int = Field(0, ge=0, description="when the subscription expires, seconds since 1970; 0: never")
    recover_since: Position | None = Field(None, description="the client recovers publications after it")
    override: OverrideShape | None = None


class UnsubscribeRequest(_UserRequest):
    """The end of a user's subscriptions to a channel."""

    model_config = example({"user": "ada", "channel": "room:lobby"})

    channel: ChannelName


class DisconnectCode(ApiRequest):
    """Close code and reason for the client; 0 is 3503, force disconnect."""

    code: int = Field(0, description="3000 to 4999")
    reason: str = ""

    @model_validator(mode="after")
    def _fits_a_close_frame(self) -> DisconnectCode:
        if self.code and not 3000 <= self.code <= 4999:
            raise ValueError("code is 3000 to 4999")
        if len(self.reason.encode()) > 123:
            raise ValueError("reason has at most 123 bytes")
        return self


class DisconnectRequest(_UserRequest):
    """The end of a user's connections."""

    model_config = example({"user": "ada", "disconnect": {"code": 4500, "reason": "banned"}})

    whitelist: list[_Client] = Field(
        default_factory=list, max_length=1000, description="client ids that are not disconnected"
    )
    disconnect: DisconnectCode | None = Field(None, description="default: 3503, force disconnect")


class RefreshRequest(_UserRequest):
    """A new expiration time of a user's connections."""

    model_config = example({"user": "ada", "expire_at": 1900000000})

    expired: bool = Field(default=False, description="the connections expire now (3005)")
    expire_at: int = Field(0, ge=0, description="seconds since 1970; 0: never")
    info: _Info = Field(None, description="new JSON about the client for others")
    b64info: str = Field("", description="instead of info: bytes in base64")


class ChannelsRequest(_PagedRequest):
    """The channels that match: all, or with limit or cursor a page."""

    model_config = example({"pattern": "room:*"})

    pattern: str = Field(
        "", max_length=MAX_PATTERN_LENGTH, description="* any text, ? one character, [a-c], [!a-c], {room,game}"
    )
    limit: int = Field(100, ge=1, le=MAX_PAGE_LENGTH, description="maximum number")
    cursor: str = Field("", max_length=255, description="from the previous page; empty for the first one")


class InfoRequest(ApiRequest):
    """No parameters."""

    model_config = example({})


class RpcRequest(ApiRequest):
    """A call of one of the application's procedures."""

    model_config = example({"method": "sum", "params": [1, 2]})

    method: str = Field(min_length=1, max_length=255)
    params: _Json = Field(None, description="any JSON value")


class BatchRequest(ApiRequest):
    """Many commands, each `{"<method>": {its request}}`."""

    model_config = example(
        {
            "commands": [
                {"publish": {"channel": "room:lobby", "data": {"text": "hi"}}},
                {"presence_stats": {"channel": "room:lobby"}},
            ]
        }
    )

    commands: list[dict[str, Json]] = Field(max_length=MAX_BATCH)
    parallel: bool = Field(default=False, description="run at once, in any order, instead of one after the other")


def validated(model: type[Wanted], wanted: Json) -> Wanted:
    """Return the request. Raises: ClientError 107 that names the invalid field."""
    try:
        return model.model_validate(wanted)
    except ValidationError as exc:
        place, message = faults(exc)[0]
        raise ClientError(ErrorCode.BAD_REQUEST, f"{place or 'the request'}: {message}") from None
