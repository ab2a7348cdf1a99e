"""The history of a channel in Redis: its position in a hash, its newest publications in a stream.

A channel's keys have its topic in braces, so that they and the topic itself are in one slot of a cluster:
`{<prefix><channel>}:meta`, `:stream`, `:once:<idempotency key>`, `:lease`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from roomcast.brokers.interface import Once, Published, Read
from roomcast.brokers.script_args import IDEMPOTENCY_TTL_MS, NOT_OURS, listed, meta_ttl_ms, ms, new_epoch
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump, Publication
from roomcast.redis_access.envelope import KINDS, LETTERS, REMOVAL, About, MalformedMessage, check_payload, unpack_about
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.scripts import Command, read_script

# The number of receivers that publish.lua returns instead.
_FOREIGN_META = -4


class HistoryCommands:
    """Makes the commands that publish with history and read it, and parses their replies.

    Args:
        publish_command: PUBLISH, or SPUBLISH in a cluster.
        on_malformed: called with a channel and the reason why an entry of its stream is malformed.
    """

    def __init__(
        self,
        keys: ChannelKeys,
        *,
        publish_command: str,
        max_message_bytes: int,
        on_malformed: Callable[[str, str], None],
    ) -> None:
        self._keys = keys
        self._max_message_bytes = max_message_bytes
        self._publish_command = publish_command
        self._publish = read_script("roomcast.brokers", "position", "publish")
        self._read = read_script("roomcast.brokers", "position", "read")
        self._remove = read_script("roomcast.brokers", "remove")
        self.scripts = (self._publish, self._read, self._remove)
        self._on_malformed = on_malformed

    def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        seen: Sequence[Position],
        once: Once,
        *,
        about: bytes = b"",
        skip_history: bool = False,
    ) -> Command:
        """Return the command that publishes, see `Broker.publish`; `about` is the result of `pack_about`."""
        channel = publication.channel
        topic, meta, stream = self._keys.of_channel(channel)
        return self._publish.call(
            [
                meta,
                stream,
                self._keys.key(channel, f"once:{once.key}") if once.key else meta,
                self._keys.key(channel, "lease") if once.lease_owner else meta,
            ],
            [
                self._publish_command,
                topic,
                LETTERS[publication.kind],
                publication.data,
                new_epoch(),
                0 if skip_history else namespace.history_size,
                ms(namespace.history_ttl_s),
                meta_ttl_ms(namespace),
                listed(seen),
                IDEMPOTENCY_TTL_MS if once.key else "",
                "" if once.version is None else once.version,
                once.version_epoch,
                once.lease_owner,
                about,
            ],
        )

    def read(self, read: Read) -> Command:
        """Return the command that reads."""
        _, meta, stream = self._keys.of_channel(read.channel)
        since, before = read.since, read.before
        return self._read.call(
            [meta, stream],
            [
                new_epoch(),
                meta_ttl_ms(read.namespace),
                listed(read.seen),
                since.offset if since else "",
                since.epoch if since else "",
                read.limit,
                "newest" if read.newest else "",
                before.offset if before else "",
                before.epoch if before else "",
            ],
        )

    def remove(self, channel: str) -> Command:
        """Return the command that removes the history, and notifies the nodes."""
        topic, _, stream = self._keys.of_channel(channel)
        return self._remove.call([stream], [self._publish_command, topic, REMOVAL])

    @staticmethod
    def published(reply: Any) -> Published:  # Any: redis-py's reply
        """Return the result in the reply to `publish`, or to a plain PUBLISH. Raises: MalformedMessage."""
        if isinstance(reply, int):
            return Published(None, reply)
        offset, epoch, receiver_count = reply
        if receiver_count == _FOREIGN_META:
            raise MalformedMessage(NOT_OURS)
        return Published(Position(offset, epoch.decode()) if offset else None, receiver_count)

    def history(self, channel: str, reply: Any) -> History:  # Any: redis-py's reply
        """Return the history in the reply to `read`; malformed entries are left out and reported.

        Raises: MalformedMessage if its position is malformed.
        """
        offset, epoch_bytes, base, entries, jumps, former = reply
        if base < 0:
            raise MalformedMessage(NOT_OURS)
        epoch = epoch_bytes.decode()
        publications = []
        for entry_id, fields in entries:
            try:
                publications.append(self._publication(channel, entry_id, fields, Position(offset, epoch)))
            except MalformedMessage as exc:
                self._on_malformed(channel, f"entry {entry_id!r}: {exc}")
        publications.sort(key=lambda publication: publication.position or ())
        return History(Position(offset, epoch), base, publications, _jumps(jumps), _former(former))

    def _publication(self, channel: str, entry_id: bytes, fields: list[bytes], top: Position) -> Publication:
        kept = dict(zip(fields[::2], fields[1::2], strict=True))
        kind, data, about = KINDS.get(kept.get(b"k", b"")), kept.get(b"d"), kept.get(b"m")
        number, _, serial = entry_id.partition(b"-")
        if kind is None or data is None or serial != b"0" or int(number) > top.offset:
            raise MalformedMessage("not written by a node")
        kind = check_payload(kind, data, max_message_bytes=self._max_message_bytes)
        parts = About() if about is None else unpack_about(about, max_message_bytes=self._max_message_bytes)
        return Publication(channel, data, kind, Position(int(number), top.epoch), *parts)


def _jumps(text: bytes) -> tuple[Jump, ...]:
    """Return the jumps in the meta, each beyond the one before. Raises: MalformedMessage.

    In any other order they might lead in a circle, in which a track would go for ever.
    """
    try:
        jumps = tuple(Jump(*map(int, jump.split(b"-"))) for jump in text.split(b",") if jump)
    except (TypeError, ValueError):
        raise MalformedMessage(NOT_OURS) from None
    end = 0
    for after, to in jumps:
        if not end <= after < to:
            raise MalformedMessage(NOT_OURS)
        end = to
    return jumps


def _former(text: bytes) -> tuple[str, ...]:
    return tuple(epoch for epoch in text.decode().split(",") if epoch and not epoch.startswith("-"))
