"""The maps of channels in Redis: the commands of their scripts, and what those reply.

A map has the keys of a history, and `{<prefix><channel>}:state`, `:keys` and `:deadlines`: see map_change.lua.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from roomcast.brokers.map_interface import (
    UNCONDITIONAL,
    Conditions,
    MapPage,
    MapRead,
    MapSubmission,
    Suppressed,
    Written,
)
from roomcast.brokers.script_args import IDEMPOTENCY_TTL_MS, NOT_OURS, listed, meta_ttl_ms, ms, new_epoch
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import MapOptions
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, change_of
from roomcast.redis_access.envelope import (
    KINDS,
    LETTERS,
    REMOVAL,
    MalformedMessage,
    check_payload,
    pack_change,
    pack_tags,
    unpack_about,
    with_tags,
)
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.scripts import Command, Script, read_script

_PAGE_BYTES = 256 * 1024
_NOT_AN_ENTRY = "not written by a node"


class MapCommands:
    """Makes the commands that write and read maps, and parses their replies.

    Args:
        publish_command: PUBLISH, or SPUBLISH in a cluster.
        on_malformed: called with a channel and the reason why an entry of its map is malformed.
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
        self._publish_command = publish_command
        self._max_message_bytes = max_message_bytes
        self._on_malformed = on_malformed
        self._packed_options: dict[int, tuple[Namespace, str]] = {}  # by the namespaces' ids; hashing one takes 3 us
        self._write, self._read, self._expire, self._touch, self._clear = (
            read_script("roomcast.brokers", "position", "map_change", f"map_{name}")
            for name in ("write", "read", "expire", "touch", "clear")
        )
        self.scripts = (self._write, self._read, self._expire, self._touch, self._clear)

    def write(self, submission: MapSubmission, seen: Sequence[Position], *, is_final: bool = False) -> Command:
        """Return the command that writes, see `MapStore.write`; `is_final`: as `write_all`."""
        publication, namespace, conditions = submission
        channel, change = publication.channel, change_of(publication)
        once_key = conditions.once.key
        return self._call(
            self._write,
            channel,
            namespace,
            seen,
            [
                change.key,
                b"x" if change.is_removed else LETTERS[publication.kind],
                publication.data,
                pack_change(publication, change, time_ms=change.time_ms or time.time_ns() // 1_000_000),
                pack_tags(publication.tags),
                "" if conditions is UNCONDITIONAL else _packed(conditions, is_final=is_final),
            ],
            # Without an idempotency key the script uses none: any key of the channel.
            self._keys.key(channel, f"once:{once_key}") if once_key else self._keys.of_map(channel)[1],
        )

    @staticmethod
    def size_of(write: Command) -> int:
        """Return the bytes of the value, of the tags and of what is known about a write, for the outbox."""
        *_, value, about, tags, _, _ = write
        return len(value) + len(about) + len(tags)

    def read(self, read: MapRead, seen: Sequence[Position], after: bytes = b"") -> Command:
        """Return the command that reads a page; with limit 0 the position and the number of keys alone.

        Args:
            after: instead of the read's own; also a key that no node has written.
        """
        args: list[str | bytes | int] = [after or read.after, read.limit, read.key, _PAGE_BYTES]
        return self._call(self._read, read.channel, read.namespace, seen, args)

    def expire(self, channel: str, namespace: Namespace, seen: Sequence[Position]) -> Command:
        """Return the command that removes keys whose time is over."""
        return self._call(self._expire, channel, namespace, seen)

    def touch(self, channel: str, namespace: Namespace, keys: Iterable[str]) -> Command:
        """Return the command that lets keys expire later."""
        return self._call(self._touch, channel, namespace, (), ["".join(f"{key}\n" for key in keys)])

    def clear(self, channel: str, namespace: Namespace, seen: Sequence[Position]) -> Command:
        """Return the command that removes all."""
        return self._call(self._clear, channel, namespace, seen, [REMOVAL])

    @staticmethod
    def written(options: MapOptions, reply: Any) -> Written | ClientError:  # Any: redis-py's reply
        """Return the result in the reply to `write`. Raises: MalformedMessage."""
        offset, epoch, reason = reply
        position = Position(offset, epoch.decode())
        if not reason:
            return Written(position)
        if reason == b"max_keys":
            return ClientError(ErrorCode.LIMIT_EXCEEDED, f"the map has max_keys ({options.max_keys})")
        if reason == b"max_map_bytes":
            detail = f"the map would have more than max_map_bytes ({options.max_map_bytes})"
            return ClientError(ErrorCode.LIMIT_EXCEEDED, detail)
        if reason == b"foreign":
            raise MalformedMessage(NOT_OURS)
        return Written(position, Suppressed(reason.decode()))

    def page(self, channel: str, reply: Any) -> MapPage:  # Any: redis-py's reply
        """Return the page in the reply to `read`; malformed entries are left out and reported.

        Raises: MalformedMessage if the position is malformed.
        """
        position = _position(reply)
        entries = []
        for key, text in zip(reply[5][::2], reply[5][1::2], strict=True):
            try:
                entries.append(self._entry(channel, key, text, position))
            except (MalformedMessage, ValueError) as exc:
                reason = str(exc) if isinstance(exc, MalformedMessage) else _NOT_AN_ENTRY
                self._on_malformed(channel, f"key {key!r}: {reason}")
        return MapPage(position, entries, "" if reply[3] or not entries else change_of(entries[-1]).key)

    @staticmethod
    def last_key(reply: Any) -> bytes:  # Any: redis-py's reply
        """Return the last key in the reply to `read`, if more follow; its entry may be malformed. b"" at the end."""
        keys: list[bytes] = reply[5][::2]
        return b"" if reply[3] else keys[-1]

    @staticmethod
    def are_more_due(reply: Any) -> bool:  # Any: redis-py's reply
        """Return whether `read` has read nothing, because it removed keys and more are due: it must be repeated."""
        return bool(reply[4])

    @staticmethod
    def count(reply: Any) -> int:  # Any: redis-py's reply
        """Return the number of keys in the reply to `read`. Raises: MalformedMessage."""
        _position(reply)
        return int(reply[2])

    @staticmethod
    def expires_in_s(reply: Any) -> float | None:  # Any: redis-py's reply
        """Return the time in the reply to `expire`. Raises: MalformedMessage."""
        if reply == -2:
            raise MalformedMessage(NOT_OURS)
        return None if reply < 0 else reply / 1000

    @staticmethod
    def absent(reply: Any) -> list[str]:  # Any: redis-py's reply
        """Return the keys in the reply to `touch`. Raises: MalformedMessage."""
        if isinstance(reply, int):
            raise MalformedMessage(NOT_OURS)
        return [key.decode() for key in reply]

    @staticmethod
    def cleared(reply: Any) -> None:  # Any: redis-py's reply
        """Raises: MalformedMessage."""
        if not reply:
            raise MalformedMessage(NOT_OURS)

    def _call(
        self,
        script: Script,
        channel: str,
        namespace: Namespace,
        seen: Sequence[Position],
        args: Sequence[str | bytes | int] = (),
        *more_keys: str,
    ) -> Command:
        topic, *keys = self._keys.of_map(channel)
        packed = self._packed_options.get(id(namespace))
        if packed is None or packed[0] is not namespace:
            packed = self._packed_options[id(namespace)] = namespace, _packed_options(namespace)
        return script.call(
            [*keys, *more_keys], [self._publish_command, topic, new_epoch(), listed(seen), packed[1], *args]
        )

    def _entry(self, channel: str, key: bytes, text: bytes, top: Position) -> Publication:
        """Raises: MalformedMessage, ValueError."""
        header, _, rest = text.partition(b"\n")
        letter, offset, epoch, _, *sizes = header.split(b",")
        at, tags_size, about_size = map(int, sizes)
        about_at = at + tags_size
        data_at = about_at + about_size
        kind = KINDS.get(letter)
        if kind is None or not 0 <= at <= about_at <= data_at <= len(rest) or int(offset) > top.offset:
            raise MalformedMessage(_NOT_AN_ENTRY)
        about = with_tags(rest[about_at:data_at], rest[at:about_at])
        parts = unpack_about(about, max_message_bytes=self._max_message_bytes)
        if parts.change is None or parts.change.key.encode() != key or parts.change.is_removed:
            raise MalformedMessage(_NOT_AN_ENTRY)
        data = rest[data_at:]
        kind = check_payload(kind, data, max_message_bytes=self._max_message_bytes)
        return Publication(channel, data, kind, Position(int(offset), epoch.decode()), *parts)


def _packed_options(namespace: Namespace) -> str:
    options, meta_ttl = namespace.map_options, meta_ttl_ms(namespace)
    key_ttl = ms(options.key_ttl_s)
    numbers = (
        namespace.history_size,
        ms(namespace.history_ttl_s),
        meta_ttl,
        meta_ttl and meta_ttl + key_ttl,  # later than the last key, whose removal is published
        key_ttl,
        options.max_keys,
        options.max_map_bytes,
        int(namespace.tags_filter),
    )
    return ",".join(map(str, numbers))


def _packed(conditions: Conditions, *, is_final: bool) -> str:
    once, mode, expected = conditions
    once_ttl = IDEMPOTENCY_TTL_MS if once.key else ""
    version = "" if once.version is None else once.version
    offset, epoch = ("", "") if expected is None else expected
    return f"{once_ttl},{int(is_final)},{version},{mode.value},{offset},{epoch},{once.version_epoch}"


def _position(reply: Any) -> Position:  # Any: redis-py's reply
    offset, epoch, count, *_ = reply
    if count < 0:
        raise MalformedMessage(NOT_OURS)
    return Position(offset, epoch.decode())
