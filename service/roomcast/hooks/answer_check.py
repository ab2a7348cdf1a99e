"""Validation of answers, from Python handlers and from the proxy, before a client or a channel receives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from roomcast.auth import Override
from roomcast.brokers.interface import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH
from roomcast.hooks.interface import (
    Caller,
    ConnectAnswer,
    MapPublishAnswer,
    MapRemoveAnswer,
    NoAnswer,
    PublishAnswer,
    RefreshAnswer,
    SubscribeAnswer,
)
from roomcast.model import json
from roomcast.model.channels import check_channel, check_name
from roomcast.model.client_info import MAX_INFO_BYTES
from roomcast.model.errors import ClientError
from roomcast.model.maps import KeyMode, check_key
from roomcast.model.tags import check_tags

_MAX_TIME_S = 2**53 - 1
# A connection's meta is in memory as long as it is open, and part of each request to the proxy.
_MAX_META_BYTES = 16 * 1024


class AnswerCheck:
    """Returns valid answers; JSON in them is without line breaks, which separate messages on the wire.

    Answers are typed `object`, because an application's code may return anything.
    Each method raises NoAnswer with the reason.

    Args:
        max_message_bytes: largest `data`.
    """

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes

    def connect(self, answer: object, caller: Caller) -> ConnectAnswer:
        """Return an answer to `on_connect`."""
        if not isinstance(answer, ConnectAnswer):
            raise _wrong("the answer", answer, "a ConnectAnswer")
        if answer.user is not None:
            _check_user(answer.user)
        if not isinstance(answer.channels, Mapping):
            raise _wrong("channels", answer.channels, "a mapping")
        if answer.expire_at_s is not None:
            _check_time(answer.expire_at_s)
        return answer._replace(
            info=None if answer.info is None else _info(answer.info),
            data=self._data(answer.data, caller),
            meta=None if answer.meta is None else _json("meta", answer.meta, _MAX_META_BYTES),
            channels={_channel(name): self.subscribe(one, caller) for name, one in answer.channels.items()},
        )

    def subscribe(self, answer: object, caller: Caller) -> SubscribeAnswer:
        """Return an answer to `on_subscribe`."""
        if not isinstance(answer, SubscribeAnswer):
            raise _wrong("the answer", answer, "a SubscribeAnswer")
        _check_time(answer.expire_at_s)
        if not isinstance(answer.override, Override):
            raise _wrong("override", answer.override, "an Override")
        for name, option in asdict(answer.override).items():
            if not isinstance(option, bool | None):
                raise _wrong(name, option, "a bool")
        return answer._replace(info=_info(answer.info), data=self._data(answer.data, caller))

    def publish(self, answer: object, caller: Caller) -> PublishAnswer:
        """Return an answer to `on_publish`."""
        if not isinstance(answer, PublishAnswer):
            raise _wrong("the answer", answer, "a PublishAnswer")
        if answer.data is None:
            return answer
        data = self._data(answer.data, caller)
        if not data and caller.encoding == "json":
            raise NoAnswer("data is empty")
        return answer._replace(data=data)

    def map_publish(self, answer: object, caller: Caller) -> MapPublishAnswer:
        """Return an answer to `on_map_publish`."""
        if not isinstance(answer, MapPublishAnswer):
            raise _wrong("the answer", answer, "a MapPublishAnswer")
        if not isinstance(answer.key_mode, KeyMode):
            raise _wrong("key_mode", answer.key_mode, "a KeyMode")
        _check_number("version", answer.version, MAX_VERSION)
        return answer._replace(
            key=_key(answer.key),
            data=None if answer.data is None else self._data(answer.data, caller),
            tags=_tags(answer.tags),
            idempotency_key=_text("idempotency_key", answer.idempotency_key, MAX_KEY_LENGTH),
            version_epoch=_text("version_epoch", answer.version_epoch, MAX_VERSION_EPOCH_LENGTH),
        )

    def map_remove(self, answer: object, _caller: Caller) -> MapRemoveAnswer:
        """Return an answer to `on_map_remove`."""
        if not isinstance(answer, MapRemoveAnswer):
            raise _wrong("the answer", answer, "a MapRemoveAnswer")
        once = _text("idempotency_key", answer.idempotency_key, MAX_KEY_LENGTH)
        return MapRemoveAnswer(_key(answer.key), once)

    def rpc(self, answer: object, caller: Caller) -> bytes:
        """Return an answer to `on_rpc`."""
        return self._data(answer, caller)

    def refresh(self, answer: object, _caller: Caller) -> RefreshAnswer:
        """Return an answer to `on_refresh` or `on_sub_refresh`."""
        if not isinstance(answer, RefreshAnswer):
            raise _wrong("the answer", answer, "a RefreshAnswer")
        _check_time(answer.expire_at_s)
        return answer._replace(info=None if answer.info is None else _info(answer.info))

    def _data(self, value: object, caller: Caller) -> bytes:
        if caller.encoding == "json":
            return _json("data", value, self._max_message_bytes)
        return _sized("data", value, self._max_message_bytes)


def _wrong(name: str, value: object, wanted: str) -> NoAnswer:
    return NoAnswer(f"{name} is a {type(value).__name__} and not {wanted}")


def _sized(name: str, value: object, max_bytes: int) -> bytes:
    if not isinstance(value, bytes):
        raise _wrong(name, value, "bytes")
    if len(value) > max_bytes:
        raise NoAnswer(f"{name} has {len(value)} bytes, at most {max_bytes} are allowed")
    return value


def _json(name: str, value: object, max_bytes: int) -> bytes:
    """Return JSON in one line; empty stays empty."""
    found = _sized(name, value, max_bytes)
    if not found:
        return b""
    try:
        json.check(found)
        if name == "info":
            json.loads(found)  # nodes parse it: a number beyond a double is valid only in data
    except json.InvalidJson as exc:
        raise NoAnswer(f"{name} is not JSON: {exc}") from None
    # Between values a line end is only space; inside strings it cannot stand.
    return found.replace(b"\n", b" ").replace(b"\r", b" ")


def _info(value: object) -> bytes:
    return _json("info", value, MAX_INFO_BYTES)


def _check_user(value: object) -> None:
    if not isinstance(value, str):
        raise _wrong("user", value, "a str")
    try:
        if value:
            check_name(value, "user")
    except ClientError as exc:
        raise NoAnswer(exc.detail) from None


def _channel(name: object) -> str:
    if not isinstance(name, str):
        raise _wrong("a channel's name", name, "a str")
    try:
        return check_channel(name)
    except ClientError as exc:
        raise NoAnswer(f"{name!r}: {exc.detail}") from None


def _key(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("key", value, "a str")
    try:
        return check_key(value) if value else ""
    except ClientError as exc:
        raise NoAnswer(exc.detail) from None


def _tags(value: object) -> Mapping[str, str] | None:
    try:
        return check_tags(value)
    except ClientError as exc:
        raise NoAnswer(exc.detail) from None


def _text(name: str, value: object, max_length: int) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a str")
    if len(value) > max_length:
        raise NoAnswer(f"{name} has {len(value)} characters, at most {max_length} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NoAnswer(f"{name} is not valid UTF-8") from None
    return value


def _check_time(value: object) -> None:
    _check_number("expire_at_s", value, _MAX_TIME_S)


def _check_number(name: str, value: object, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "an int")
    if not 0 <= value <= highest:
        raise NoAnswer(f"{name} must be 0 to {highest}, not {value}")
