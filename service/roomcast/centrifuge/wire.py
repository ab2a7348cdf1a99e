"""The wires of the Centrifuge protocol: a codec on a transport, and its encodings of a channel's events."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

from roomcast.centrifuge.codec import Codec, Members, client_members, publication_members
from roomcast.centrifuge.filters import Filter, matches
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.map_encodings import MapEncodings
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.connections.encoding import Encoding
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Event, Kind, Membership, Publication, Resumption
from roomcast.transports.websocket import frames


class Wire:
    """A codec on a transport. One object serves all connections of its kind.

    Args:
        encoding_name: as applications see it: json or protobuf.
        frame: makes the transport's frame of a message of the codec.
    """

    def __init__(self, encoding_name: str, codec: Codec, frame: Callable[[bytes], bytes]) -> None:
        self.encoding_name = encoding_name
        self.codec = codec
        self.frame = frame
        # Subscriptions that see the same share one encoding, so that the hub encodes once for all of them.
        self._encodings: WeakValueDictionary[tuple[bool, bool, Filter | None], Encoding] = WeakValueDictionary()
        self.encoding = self.encoding_of(tells_members=False)
        self.maps = MapEncodings(codec, frame, self._membership)

    def encoding_of(self, *, tells_members: bool, is_delta: bool = False, tags: Filter | None = None) -> Encoding:
        """Return the encoding of a subscription.

        Args:
            tells_members: the client gets joins and leaves.
            is_delta: it gets differences to the publication before.
            tags: it gets only publications whose tags match.
        """
        wanted = (tells_members, is_delta, tags)
        encoding = self._encodings.get(wanted)
        if encoding is None:
            encoding = self._encodings[wanted] = Encoding(
                self._encoder(tells_members=tells_members, is_delta=is_delta, tags=tags),
                missed=lambda _count: b"",  # the protocol has no message for it
                tells_positions=True,
                ping=self.frame(self.codec.ping),
                difference=self._difference if is_delta else None,
            )
        return encoding

    def kind_of(self, data: bytes) -> Kind:
        """Return the kind of a client's payload: JSON in the JSON encoding, any kind in the Protobuf encoding."""
        if self.codec.kind is Kind.TEXT:
            return Kind.JSON
        return kind_of_text(data) if frames.is_utf8(data) else Kind.BINARY

    def publications(
        self, found: list[Publication], *, is_delta: bool = False, tags: Filter | None = None
    ) -> list[Members]:
        """Return the publications of a reply: those whose tags match, as differences from the second on."""
        codec, members = self.codec, []
        before: bytes | None = None
        for publication in found:
            if tags is not None and not matches(tags, publication.tags):
                continue
            payload = data = codec.payload(publication)
            patch = None if before is None else codec.patch(before, payload)
            if is_delta:
                data, before = codec.full(payload) if patch is None else patch, payload
            members.append(publication_members(publication, data, is_patch=patch is not None))
        return members

    def _encoder(self, *, tells_members: bool, is_delta: bool, tags: Filter | None) -> Callable[[Event], bytes]:
        codec, frame = self.codec, self.frame

        def encode(event: Event) -> bytes:
            if isinstance(event, Publication):
                if tags is not None and not matches(tags, event.tags):
                    return b""
                payload = codec.payload(event)
                data = codec.full(payload) if is_delta else payload
                return frame(codec.push(event.channel, "pub", publication_members(event, data)))
            if isinstance(event, Resumption) or not tells_members:
                return b""
            return self._membership(event)

        return encode

    def _membership(self, event: Membership) -> bytes:
        kind = "join" if event.have_joined else "leave"
        return b"".join(
            self.frame(self.codec.push(event.channel, kind, {"info": client_members(info)})) for info in event.clients
        )

    def _difference(self, before: Publication, publication: Publication) -> bytes | None:
        codec = self.codec
        patch = codec.patch(codec.payload(before), codec.payload(publication))
        if patch is None:
            return None
        members = publication_members(publication, patch, is_patch=True)
        return self.frame(codec.push(publication.channel, "pub", members))


class Wires:
    """The wires of a node, one per transport and encoding."""

    def __init__(self) -> None:
        json, protobuf = JsonCodec(), ProtobufCodec()
        self.websocket_json = Wire("json", json, lambda message: frames.message_frame(Kind.TEXT, message))
        self.websocket_protobuf = Wire("protobuf", protobuf, lambda message: frames.message_frame(Kind.BINARY, message))
        self.stream_json = Wire("json", json, lambda message: message + b"\n")
        self.stream_protobuf = Wire("protobuf", protobuf, lambda message: message)
        self.sse = Wire("json", json, lambda message: b"data: %b\n\n" % message)
