"""The logs of publishers and subscribers during a chaos run."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple


class Name(NamedTuple):
    """One publication: its publisher, and its number among those of the publisher."""

    publisher: str
    number: int


class Place(NamedTuple):
    """A position: `offset` in the numbering of `epoch`."""

    epoch: str
    offset: int


class Heard(NamedTuple):
    """A subscriber received a publication. digest: of its whole payload."""

    place: Place
    name: Name
    digest: int
    at_s: float


class Told(NamedTuple):
    """A subscriber was notified of its place.

    is_first: the first event of a connection.
    """

    place: Place
    is_recovered: bool
    is_first: bool
    at_s: float


Line = Heard | Told


@dataclass(slots=True)
class Log:
    """All events of one subscriber, in their order."""

    subscriber: str
    room: str
    lines: list[Line] = field(default_factory=list)

    def place(self) -> Place | None:
        """Return where the subscriber is."""
        return self.lines[-1].place if self.lines else None


class Acknowledged(NamedTuple):
    """A publisher received the position of its publication."""

    name: Name
    place: Place


def payload(name: Name, padding: str) -> str:
    """Return the JSON text of a publication."""
    return json.dumps({"publisher": name.publisher, "number": name.number, "padding": padding}, separators=(",", ":"))


def read_payload(text: bytes | str) -> tuple[Name, int]:
    """Return the name in a payload, and its digest."""
    said = json.loads(text)
    data = text.encode() if isinstance(text, str) else text
    return Name(said["publisher"], said["number"]), zlib.crc32(data)
