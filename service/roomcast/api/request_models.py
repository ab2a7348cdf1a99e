"""What each method of the server API takes. Fields that are not known are ignored, and null is as good as absent."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from roomcast.auth.shapes import OverrideShape
from roomcast.bodies import faults
from roomcast.brokers import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH
from roomcast.model.channel_patterns import MAX_PATTERN_LENGTH
from roomcast.model.channels import check_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.model.positions import MAX_OFFSET
from roomcast.presence import MAX_PAGE_LENGTH

MAX_BROADCAST = 1000
MAX_BATCH = 1000

Wanted = TypeVar("Wanted", bound="ApiRequest")


def _check_json(value: Any) -> Any:  # Any: JSON
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError as exc:
        raise ValueError(str(exc)) from None
    return value


_Channel = Annotated[str, AfterValidator(check_channel), Field(description="for example room:lobby")]
_Json = Annotated[Any, AfterValidator(_check_json)]  # Any: JSON
_Client = Annotated[str, Field(max_length=255)]


def example(wanted: dict[str, Any]) -> ConfigDict:  # Any: JSON
    """Return the configuration of a request with an example for its documentation."""
    return ConfigDict(json_schema_extra={"examples": [wanted]})


class ApiRequest(BaseModel):
    """What the requests have in common."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, wanted: Any) -> Any:  # Any: whatever was sent
        if not isinstance(wanted, dict):
            return wanted
        return {name: value for name, value in wanted.items() if value is not None or name == "data"}


class Position(ApiRequest):
    """A place in a history. epoch: the text that came with the offset; empty: the present one."""

    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    epoch: str = Field("", max_length=32)


class _Payload(ApiRequest):
    data: Any = Field(None, description="any JSON value; subscribers get it as compact JSON text")  # Any: JSON
    b64data: str = Field("", description="instead of data: bytes in base64; what is no JSON goes as a binary message")
    tags: dict[str, str] = Field(default_factory=dict, description="what subscribers can filter by")
    skip_history: bool = Field(default=False, description="for those who are subscribed now; not kept")
    idempotency_key: str = Field(
        "", max_length=MAX_KEY_LENGTH, description="the same key in a channel within 5 minutes publishes once"
    )
    delta: bool = Field(default=False, description="taken and ignored: the namespace says whether there are deltas")
    version: int | None = Field(None, ge=0, le=MAX_VERSION, description="not higher than the newest: dropped; 0: none")
    version_epoch: str = Field(
        "", max_length=MAX_VERSION_EPOCH_LENGTH, description="another one begins counting versions anew"
    )

    @model_validator(mode="after")
    def _has_payload(self) -> _Payload:
        if "data" not in self.model_fields_set and not self.b64data:
            raise ValueError("data: Field required")
        return self


class PublishRequest(_Payload):
    """What is to be published, and where."""

    model_config = example({"channel": "room:lobby", "data": {"text": "hi"}})

    channel: _Channel


class BroadcastRequest(_Payload):
    """What is to be published, and in which channels."""

    model_config = example({"channels": ["user:ada", "user:bob"], "data": {"text": "hi"}})

    channels: list[str] = Field(min_length=1, max_length=MAX_BROADCAST, description="each answered by itself")


class HistoryRequest(ApiRequest):
    """What is wanted of a history."""

    model_config = example({"channel": "room:lobby", "limit": 10, "reverse": True})

    channel: _Channel
    limit: int = Field(
        0, ge=-1, le=MAX_RECOVERED, description=f"so many at most; 0: the position alone; -1: {MAX_RECOVERED}"
    )
    since: Position | None = Field(None, description="those after this position, with reverse before it")
    reverse: bool = Field(default=False, description="the newest ones, newest first")


class HistoryRemoveRequest(ApiRequest):
    """Which channel's history is removed."""

    model_config = example({"channel": "room:lobby"})

    channel: _Channel


class _PagedRequest(ApiRequest):
    """What may be asked for in pages: by `limit` or `cursor`."""

    @property
    def is_paged(self) -> bool:
        """Return whether a page is wanted."""
        return not self.model_fields_set.isdisjoint({"limit", "cursor"})


class PresenceRequest(_PagedRequest):
    """Which channel's clients are asked for: all, or with limit or cursor a page of them."""

    model_config = example({"channel": "room:lobby"})

    channel: _Channel
    limit: int = Field(100, ge=1, le=MAX_PAGE_LENGTH, description="about how many; a page may hold some more")
    cursor: str = Field("", description="of the page before; empty for the first one")


class PresenceStatsRequest(ApiRequest):
    """Which channel's clients are counted."""

    model_config = example({"channel": "room:lobby"})

    channel: _Channel


class _UserRequest(ApiRequest):
    """Whose connections are meant: all of a user's, or one by its client or session id."""

    user: str = Field(max_length=255, description='who it is; "" is who has no name, and needs client or session')
    client: _Client = Field("", description="only the connection of this client id")
    session: _Client = Field("", description="only the connection of this session id")

    @model_validator(mode="after")
    def _names_somebody(self) -> _UserRequest:
        if not (self.user or self.client or self.session):
            raise ValueError("user is empty: name a client or session")
        return self


class SubscribeRequest(_UserRequest):
    """Who is subscribed, and to what."""

    model_config = example({"user": "ada", "channel": "room:lobby"})

    channel: _Channel
    info: _Json = Field(None, description="goes with the subscription, for others to see")
    b64info: str = Field("", description="instead of info: bytes in base64")
    data: _Json = Field(None, description="for the client")
    b64data: str = Field("", description="instead of data: bytes in base64")
    expire_at: int = Field(0, ge=0, description="when the subscription expires, seconds since 1970; 0: never")
    recover_since: Position | None = Field(None, description="the client has what came up to here")
    override: OverrideShape | None = None


class UnsubscribeRequest(_UserRequest):
    """Whose subscription ends."""

    model_config = example({"user": "ada", "channel": "room:lobby"})

    channel: _Channel


class DisconnectCode(ApiRequest):
    """The close code and the reason that a client is told; 0 is 3503, force disconnect."""

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
    """Whose connections end, and how."""

    model_config = example({"user": "ada", "disconnect": {"code": 4500, "reason": "banned"}})

    whitelist: list[_Client] = Field(default_factory=list, max_length=1000, description="client ids that stay")
    disconnect: DisconnectCode | None = Field(None, description="3503, force disconnect, if it is absent")


class RefreshRequest(_UserRequest):
    """Whose connections expire at another time, or now."""

    model_config = example({"user": "ada", "expire_at": 1900000000})

    expired: bool = Field(default=False, description="the connection ends now (3005)")
    expire_at: int = Field(0, ge=0, description="seconds since 1970; 0: never")
    info: _Json = Field(None, description="goes with the connection from now on, for others to see")
    b64info: str = Field("", description="instead of info: bytes in base64")


class ChannelsRequest(_PagedRequest):
    """Which channels are listed: all that match, or with limit or cursor a page of them."""

    model_config = example({"pattern": "room:*"})

    pattern: str = Field(
        "", max_length=MAX_PATTERN_LENGTH, description="* any text, ? one character, [a-c], [!a-c], {room,game}"
    )
    limit: int = Field(100, ge=1, le=MAX_PAGE_LENGTH, description="so many at most")
    cursor: str = Field("", max_length=255, description="of the page before; empty for the first one")


class InfoRequest(ApiRequest):
    """Nothing."""

    model_config = example({})


class RpcRequest(ApiRequest):
    """Which of the application's procedures is called."""

    model_config = example({"method": "sum", "params": [1, 2]})

    method: str = Field(min_length=1, max_length=255)
    params: _Json = Field(None, description="any JSON value")


class BatchRequest(ApiRequest):
    """Many methods at once, each as `{"<method>": {its request}}`."""

    model_config = example(
        {
            "commands": [
                {"publish": {"channel": "room:lobby", "data": {"text": "hi"}}},
                {"presence_stats": {"channel": "room:lobby"}},
            ]
        }
    )

    commands: list[dict[str, Any]] = Field(max_length=MAX_BATCH)  # Any: JSON
    parallel: bool = Field(default=False, description="at once and in any order, and not one after the other")


def validated(model: type[Wanted], wanted: object) -> Wanted:
    """Return what was asked for. Raises: ClientError 107 that names what is wrong."""
    try:
        return model.model_validate(wanted)
    except ValidationError as exc:
        place, message = faults(exc)[0]
        raise ClientError(ErrorCode.BAD_REQUEST, f"{place or 'the request'}: {message}") from None
