"""The Protobuf encoding of the Centrifuge protocol: messages of client.proto, each after its length as a varint."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed
from typing_extensions import override

from roomcast.centrifuge import client_pb2, fossil
from roomcast.centrifuge.codec import Codec, Command, MalformedFrame, Members
from roomcast.model.publications import Kind, Publication

# The tag of the member `subscribe` of a Reply: field 6, a message behind its length.
_SUBSCRIBE_TAG = b"\x32"


class ProtobufCodec(Codec):
    """Each message has its length in front."""

    kind = Kind.BINARY
    ping = b"\0"
    no_data = b""

    @override
    def commands(self, frame: bytes) -> Iterator[Command]:
        """Yield the commands; a member with its type's zero counts as absent."""
        if not frame:
            raise MalformedFrame("no command")
        source = io.BytesIO(frame)
        while source.tell() < len(frame):
            try:
                command = parse_length_prefixed(client_pb2.Command, source)
            # A length beyond any frame overflows.
            except (DecodeError, ValueError, OverflowError) as exc:
                raise MalformedFrame(f"no Protobuf message with its length: {exc}") from None
            yield _command(command)

    @override
    def reply(self, command_id: int, method: str, result: Mapping[str, Any]) -> bytes:
        return _message({"id": command_id, method: result})

    @override
    def state(self, entries: Sequence[Members]) -> bytes:
        encoded: bytes = client_pb2.SubscribeResult(state=entries).SerializeToString()
        return encoded

    @override
    def reply_with_state(self, command_id: int, result: Mapping[str, Any], state: bytes) -> bytes:
        # Encoded messages of one type that follow each other are one message with the members of both.
        whole = client_pb2.SubscribeResult(**result).SerializeToString() + state
        reply: bytes = client_pb2.Reply(id=command_id).SerializeToString()
        return _behind_length(reply + _SUBSCRIBE_TAG + _behind_length(whole))

    @override
    def error(self, command_id: int, code: int, message: str, *, is_temporary: bool) -> bytes:
        return _message({"id": command_id, "error": {"code": code, "message": message, "temporary": is_temporary}})

    @override
    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> bytes:
        return _message({"push": {"channel": channel, kind: fields}})

    @override
    def payload(self, publication: Publication) -> bytes:
        """Return the payload as it was published."""
        return publication.data

    @override
    def full(self, payload: bytes) -> bytes:
        """Return the payload unchanged."""
        return payload

    @override
    def patch(self, before: bytes, payload: bytes) -> bytes | None:
        patch = fossil.create_delta(before, payload, is_text=False)
        return patch if len(patch) < len(payload) else None


def _behind_length(data: bytes) -> bytes:
    """Return bytes after their length as a varint: 7 bits a byte, lowest first, each but the last with the 8th bit."""
    length = len(data)
    digits = bytearray()
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    digits.append(length)
    return bytes(digits) + data


def _message(members: Members) -> bytes:
    """Return a Reply of these members, nested ones too, after its length."""
    output = io.BytesIO()
    serialize_length_prefixed(client_pb2.Reply(**members), output)
    return output.getvalue()


def _command(command: client_pb2.Command) -> Command:
    for field, value in command.ListFields():
        if field.message_type is not None:
            return Command(command.id, field.name, _members(value))
    return Command(command.id, "", {})


def _members(message: Message) -> Members:
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:  # Any: the types of the schema
    of_what = field.message_type
    if of_what is None:
        return list(value) if field.is_repeated else value
    if of_what.GetOptions().map_entry:
        has_messages = of_what.fields_by_name["value"].message_type is not None
        return {key: _members(each) if has_messages else each for key, each in value.items()}
    return [_members(each) for each in value] if field.is_repeated else _members(value)
