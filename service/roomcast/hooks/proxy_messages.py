"""Requests and replies of Centrifugo's proxy protocol, in JSON.

Source: centrifugal/centrifugo internal/proxyproto/proxy.proto, and the "proxy" page of its documentation.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import override

from roomcast.auth.shapes import OverrideShape
from roomcast.bodies import faults
from roomcast.hooks.interface import (
    Caller,
    ConnectAnswer,
    Hook,
    MapPublishAnswer,
    MapRemoveAnswer,
    NoAnswer,
    NoConnectAnswer,
    PublishAnswer,
    RefreshAnswer,
    SubscribeAnswer,
)
from roomcast.model import json
from roomcast.model.errors import ApplicationError, ClientError, Disconnect, ErrorCode, Refused
from roomcast.model.json import Json
from roomcast.model.maps import KeyMode
from roomcast.model.payloads import decode_base64

M = TypeVar("M", bound="_Model")


def question(event: Any) -> bytes:  # Any: an event
    """Return the body of a request: the caller, and the fields of the event that are not empty.

    Bytes are data of the client: `data` if they are JSON, or `b64data`. The info of a token is not in the protocol.
    """
    caller: Caller = event.caller
    body: dict[str, object] = {
        "client": caller.client,
        "transport": caller.transport,
        "protocol": caller.encoding,
        "encoding": "json" if caller.encoding == "json" else "binary",
    }
    if caller.user:
        body["user"] = caller.user
    if caller.meta:
        body["meta"] = orjson.Fragment(caller.meta)
    for name, value in event._asdict().items():
        if not value or name in {"caller", "info"}:
            continue
        if isinstance(value, bytes):
            body |= _data_field(name, value)
        else:
            body[name] = value
    return orjson.dumps(body)


def read_reply(reply: bytes, kind: type[M]) -> M:
    """Return the result. Raises: ApplicationError, ClientError, Refused for an error; NoAnswer for an invalid reply."""
    try:
        envelope = _Envelope.model_validate(json.loads(reply, keep=("data", "info", "meta")))
        if envelope.error is not None:
            raise envelope.error.exception()
        if envelope.disconnect is not None:
            raise Refused(Disconnect(envelope.disconnect.code, envelope.disconnect.reason))
        return kind.without_result() if envelope.result is None else kind.model_validate(envelope.result)
    except json.InvalidJson as exc:
        raise NoAnswer(f"not JSON: {exc}") from None
    except ValidationError as exc:
        raise NoAnswer("; ".join(f"{place or 'the reply'}: {message}" for place, message in faults(exc)[:5])) from None
    except ValueError as exc:  # of ApplicationError and Refused
        raise NoAnswer(str(exc)) from None


def _data_field(name: str, value: bytes) -> dict[str, object]:
    try:
        json.check(value)
    except json.InvalidJson:
        return {f"b64{name}": base64.b64encode(value).decode()}
    return {name: orjson.Fragment(value)}


def _decode(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return decode_base64(value)


def _key_mode(value: object) -> KeyMode:
    try:
        return KeyMode(value)
    except ValueError:
        raise ValueError("must be if_new or if_exists") from None


_Base64 = Annotated[bytes, BeforeValidator(_decode)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: object) -> object:
        """Return the members that are not null: in the JSON of proto3, null is the default, also of the result."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def without_result(cls) -> Self:
        """Return the result of a reply that has none."""
        return cls()


class _Error(_Model):
    code: int
    message: str = ""
    temporary: bool = False

    def exception(self) -> ApplicationError | ClientError:
        """Return the exception to raise: for a code of `ErrorCode`, or the application's own. Raises: ValueError."""
        known = ErrorCode.of(self.code)
        if known is not None:
            return ClientError(known, self.message or "the application says so")
        return ApplicationError(self.code, self.message, is_temporary=self.temporary)


class _Disconnect(_Model):
    code: int
    reason: str = ""


class _Envelope(_Model):
    result: dict[str, Json] | None = None
    error: _Error | None = None
    disconnect: _Disconnect | None = None


class _WithInfo(_Model):
    info: Json = None
    b64info: _Base64 = b""


class _WithData(_Model):
    data: Json = None
    b64data: _Base64 = b""


class SubscribeResult(_WithInfo, _WithData):
    """The result of `/subscribe`, and of `/connect` for each channel in `subs`."""

    expire_at: int = 0
    override: OverrideShape = OverrideShape()

    def answer(self) -> SubscribeAnswer:
        """Return the answer of a handler."""
        return SubscribeAnswer(
            info=_payload(self.info, self.b64info) or b"",
            data=_payload(self.data, self.b64data) or b"",
            expire_at_s=self.expire_at,
            override=self.override.override(),
        )


class ConnectResult(_WithInfo, _WithData):
    """The result of `/connect`."""

    user: str | None = None
    expire_at: int | None = None
    meta: Json = None
    channels: list[str] = Field(default_factory=list)
    subs: dict[str, SubscribeResult | None] = Field(default_factory=dict)

    @classmethod
    @override
    def without_result(cls) -> ConnectResult:
        return _NoConnectResult()

    def answer(self) -> ConnectAnswer:
        """Return the answer of a handler."""
        return ConnectAnswer(
            user=self.user,
            info=_payload(self.info, self.b64info),
            data=_payload(self.data, self.b64data) or b"",
            meta=_payload(self.meta, b""),
            channels={
                **dict.fromkeys(self.channels, SubscribeAnswer()),
                **{channel: (options or SubscribeResult()).answer() for channel, options in self.subs.items()},
            },
            expire_at_s=self.expire_at,
        )


class _NoConnectResult(ConnectResult):
    @override
    def answer(self) -> ConnectAnswer:
        return NoConnectAnswer()


class PublishResult(_WithData):
    """The result of `/publish`."""

    skip_history: bool = False

    def answer(self) -> PublishAnswer:
        """Return the answer of a handler."""
        return PublishAnswer(data=_payload(self.data, self.b64data), skip_history=self.skip_history)


class MapPublishResult(_WithData):
    """The result of `/map_publish`."""

    key: str = ""
    tags: dict[str, str] | None = None
    key_mode: Annotated[KeyMode, BeforeValidator(_key_mode)] = KeyMode.REPLACE
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""

    def answer(self) -> MapPublishAnswer:
        """Return the answer of a handler."""
        return MapPublishAnswer(
            key=self.key,
            data=_payload(self.data, self.b64data),
            tags=self.tags,
            key_mode=self.key_mode,
            idempotency_key=self.idempotency_key,
            version=self.version,
            version_epoch=self.version_epoch,
        )


class MapRemoveResult(_Model):
    """The result of `/map_remove`."""

    key: str = ""
    idempotency_key: str = ""

    def answer(self) -> MapRemoveAnswer:
        """Return the answer of a handler."""
        return MapRemoveAnswer(self.key, self.idempotency_key)


class RpcResult(_WithData):
    """The result of `/rpc`."""

    def answer(self) -> bytes:
        """Return the answer of a handler."""
        return _payload(self.data, self.b64data) or b""


class RefreshResult(_WithInfo):
    """The result of `/refresh` and `/sub_refresh`."""

    expired: bool = False
    expire_at: int = 0

    def answer(self) -> RefreshAnswer:
        """Return the answer of a handler."""
        return RefreshAnswer(
            expire_at_s=self.expire_at, is_expired=self.expired, info=_payload(self.info, self.b64info)
        )


Result = (
    ConnectResult | SubscribeResult | PublishResult | MapPublishResult | MapRemoveResult | RpcResult | RefreshResult
)
RESULTS: Mapping[Hook, type[Result]] = {
    Hook.CONNECT: ConnectResult,
    Hook.SUBSCRIBE: SubscribeResult,
    Hook.PUBLISH: PublishResult,
    Hook.MAP_PUBLISH: MapPublishResult,
    Hook.MAP_REMOVE: MapRemoveResult,
    Hook.RPC: RpcResult,
    Hook.REFRESH: RefreshResult,
    Hook.SUB_REFRESH: RefreshResult,
}


def _payload(value: Json, decoded: bytes) -> bytes | None:
    """Return a payload as bytes, or None; `null` is None, as for Centrifugo."""
    return decoded or (None if value is None else json.dumps(value))
