"""Requests of the server API's methods for maps."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from roomcast.api.request_models import ApiRequest, ChannelName, example
from roomcast.brokers.interface import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH
from roomcast.model.json import Json
from roomcast.model.maps import KeyMode, check_key
from roomcast.model.positions import MAX_OFFSET

MAX_ENTRIES = 1000
# Of a whole map: the result is made in memory.
MAX_KEYS = 10_000

_MapChannel = Annotated[ChannelName, Field(description="for example state:board")]
_Key = Annotated[str, AfterValidator(check_key), Field(description="1 to 255 bytes without control characters")]
_Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
_Epoch = Annotated[str, Field(max_length=32)]


def _check_cursor(value: str) -> str:
    return check_key(value) if value else ""


_Cursor = Annotated[str, AfterValidator(_check_cursor)]


class _WriteRequest(ApiRequest):
    channel: _MapChannel
    key: _Key
    idempotency_key: str = Field(
        "", max_length=MAX_KEY_LENGTH, description="the same key in a channel within 5 minutes writes once"
    )
    expected_offset: _Offset | None = Field(
        None, description="only if this is the offset of the key's last write; 0: only if the key is absent"
    )
    expected_epoch: str = Field(
        "", max_length=32, pattern="^[0-9A-Za-z]*$", description="received together with the offset; empty: any"
    )

    @model_validator(mode="after")
    def _expects_an_offset(self) -> _WriteRequest:
        if self.expected_epoch and self.expected_offset is None:
            raise ValueError("expected_epoch needs expected_offset")
        return self


class MapPublishRequest(_WriteRequest):
    """A value for a key of a map."""

    model_config = example({"channel": "state:board", "key": "a1", "data": {"color": "red"}})

    data: Json = Field(None, description="any JSON value; without data and b64data the key has no value")
    b64data: str = Field("", description="instead of data: bytes in base64")
    tags: dict[str, str] = Field(default_factory=dict, description="subscribers can filter by them")
    key_mode: KeyMode = Field(KeyMode.REPLACE, description="if_new: only if the key is absent; if_exists: only if not")
    version: int = Field(
        0, ge=0, le=MAX_VERSION, description="dropped unless higher than the version of the key; 0: none"
    )
    version_epoch: str = Field("", max_length=MAX_VERSION_EPOCH_LENGTH, description="a new one restarts the versions")
    delta: bool = Field(default=False, description="accepted and ignored: deltas are an option of the namespace")

    @property
    def has_data(self) -> bool:
        """Return whether the key gets a value; `null` is one."""
        return "data" in self.model_fields_set or bool(self.b64data)


class MapRemoveRequest(_WriteRequest):
    """A key of a map that is removed."""

    model_config = example({"channel": "state:board", "key": "a1"})


class MapReadStateRequest(ApiRequest):
    """Entries of a map: one, a page, or all."""

    model_config = example({"channel": "state:board", "limit": 100})

    channel: _MapChannel
    key: _Cursor = Field("", description="only the entry of this key")
    cursor: _Cursor = Field("", description="from the previous page; empty for the first one")
    limit: int = Field(
        0, ge=-1, le=MAX_ENTRIES, description=f"maximum number; 0: only the position; -1: all, at most {MAX_KEYS}"
    )
    revision_offset: _Offset = Field(0, description="accepted and ignored")
    revision_epoch: _Epoch = Field("", description="of an earlier page: error 112 if the epoch is another one now")


class MapReadStreamRequest(ApiRequest):
    """Changes of a map."""

    model_config = example({"channel": "state:board", "limit": 100, "since_offset": 1, "since_epoch": "5f0c2a91"})

    channel: _MapChannel
    since_offset: _Offset = Field(0, description="changes after it, with reverse before it; 0: all")
    since_epoch: _Epoch = Field("", description="received together with the offset: error 112 if it is another one now")
    limit: int = Field(0, ge=-1, le=MAX_ENTRIES, description=f"maximum number; 0: only the position; -1: {MAX_ENTRIES}")
    reverse: bool = Field(default=False, description="newest first")


class MapRequest(ApiRequest):
    """The map of `map_stats` and `map_clear`."""

    model_config = example({"channel": "state:board"})

    channel: _MapChannel
