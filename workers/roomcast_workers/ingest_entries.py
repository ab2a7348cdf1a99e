"""The entries of the ingest stream: what each of their fields says."""

from __future__ import annotations

from collections.abc import Mapping

from roomcast.brokers.interface import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH, Once, Submission
from roomcast.brokers.map_interface import Conditions, MapSubmission
from roomcast.model import json
from roomcast.model.channels import check_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import Change, KeyMode, MapOptions, check_key
from roomcast.model.namespaces import Namespaces
from roomcast.model.positions import MAX_OFFSET, Position, position_of
from roomcast.model.publications import Kind, Publication
from roomcast.model.tags import check_tags
from roomcast.redis_access.envelope import check_document
from roomcast.redis_access.work_queue import Entry

Fields = Mapping[bytes, bytes]


def channel_of(fields: Fields) -> str:
    """Return the channel in an entry, which may be malformed."""
    return fields.get(b"map", fields.get(b"channel", b"")).decode(errors="replace")


def submission_of(entry: Entry, namespaces: Namespaces, *, max_message_bytes: int) -> Submission | MapSubmission:
    """Return what an entry submits. Raises: ClientError, MalformedMessage."""
    fields = entry.fields
    if b"map" in fields:
        return _map_submission(entry, namespaces, max_message_bytes=max_message_bytes)
    channel = check_channel(_text("channel", _required("channel", fields)))
    namespace = namespaces.of(channel)
    if namespace.map is not None:
        raise _bad("the channel is a map: name it in the field map, and a key")
    data = _required("data", fields)
    check_document(data, max_message_bytes=max_message_bytes)
    return Submission(Publication(channel, data, Kind.JSON, tags=_tags(fields)), namespace, _once(entry, "key"))


def _map_submission(entry: Entry, namespaces: Namespaces, *, max_message_bytes: int) -> MapSubmission:
    fields = entry.fields
    if b"channel" in fields:
        raise _bad("an entry has a map or a channel")
    channel = check_channel(_text("map", fields[b"map"]))
    namespace = namespaces.of_map(channel)
    key = check_key(_text("key", _required("key", fields)))
    conditions = Conditions(
        _once(entry, "idempotency_key"), _key_mode(fields), _expected(fields, namespace.map_options)
    )
    if b"removed" in fields:
        if fields[b"removed"] != b"1" or b"data" in fields:
            raise _bad("removed is 1, without data, or not there")
        return MapSubmission(Publication(channel, b"", change=Change(key, is_removed=True)), namespace, conditions)
    data = _required("data", fields)
    check_document(data, max_message_bytes=max_message_bytes)
    publication = Publication(channel, data, Kind.JSON, tags=_tags(fields), change=Change(key))
    return MapSubmission(publication, namespace, conditions)


def _once(entry: Entry, key_field: str) -> Once:
    fields = entry.fields
    return Once(
        key=_short_text(key_field, fields, MAX_KEY_LENGTH) or f"ingest:{entry.id.decode()}",
        version=_whole_number("version", fields, MAX_VERSION),
        version_epoch=_short_text("version_epoch", fields, MAX_VERSION_EPOCH_LENGTH),
    )


def _key_mode(fields: Fields) -> KeyMode:
    try:
        return KeyMode(_text("key_mode", fields.get(b"key_mode", b"")))
    except ValueError:
        raise _bad("key_mode is if_new or if_exists") from None


def _expected(fields: Fields, options: MapOptions) -> Position | None:
    offset = _whole_number("expected_offset", fields, MAX_OFFSET)
    epoch = _text("expected_epoch", fields.get(b"expected_epoch", b""))
    if offset is None:
        if epoch:
            raise _bad("expected_epoch without expected_offset")
        return None
    return options.expected(position_of(str(offset), epoch) if epoch else Position(offset, ""))


def _required(name: str, fields: Fields) -> bytes:
    value = fields.get(name.encode())
    if value is None:
        raise _bad(f"no {name}")
    return value


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _bad(f"{name} is not valid UTF-8") from None


def _short_text(name: str, fields: Fields, max_length: int) -> str:
    text = _text(name, fields.get(name.encode(), b""))
    if len(text) > max_length:
        raise _bad(f"{name} has more than {max_length} characters")
    return text


def _tags(fields: Fields) -> Mapping[str, str] | None:
    value = fields.get(b"tags")
    if value is None:
        return None
    try:
        return check_tags(json.loads(value))
    except json.InvalidJson as exc:
        raise _bad(f"tags: not JSON: {exc}") from None


def _whole_number(name: str, fields: Fields, maximum: int) -> int | None:
    value = fields.get(name.encode())
    if value is None:
        return None
    # The length first, because int() raises for thousands of digits, also zeros.
    if len(value) > len(str(maximum)) or not value.isdigit() or int(value) > maximum:
        raise _bad(f"{name} is no whole number from 0 to {maximum}")
    return int(value)


def _bad(reason: str) -> ClientError:
    return ClientError(ErrorCode.BAD_REQUEST, reason)
