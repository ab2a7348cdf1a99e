"""What publishers and subscribers write down while everything fails around them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple


class Name(NamedTuple):
    """One publication: whose it is, and the how-manieth of theirs."""

    publisher: str
    number: int


class Place(NamedTuple):
    """A position: `offset` in the numbering of `epoch`."""

    epoch: str
    offset: int


class Heard(NamedTuple):
    """A subscriber got a publication. digest: of its whole payload."""

    place: Place
    name: Name
    digest: int
    at_s: float


class Told(NamedTuple):
    """A subscriber was told where its subscription goes on.

    is_first: it opened a connection.
    """

    place: Place
    is_recovered: bool
    is_first: bool
    at_s: float


Line = Heard | Told


@dataclass(slots=True)
class Log:
    """All that one subscriber heard, in its order."""

    subscriber: str
    room: str
    lines: list[Line] = field(default_factory=list)
    connection_count: int = 0

    def place(self) -> Place | None:
        """Return where the subscriber is."""
        return self.lines[-1].place if self.lines else None


class Acknowledged(NamedTuple):
    """A publisher was told that Redis has its publication, and where."""

    name: Name
    place: Place


def payload(name: Name, padding: str) -> str:
    """Return the JSON text of a publication."""
    return json.dumps({"publisher": name.publisher, "number": name.number, "padding": padding}, separators=(",", ":"))


def read_payload(text: bytes | str) -> tuple[Name, int]:
    """Return whose publication a payload is, and its digest."""
    said = json.loads(text)
    data = text.encode() if isinstance(text, str) else text
    return Name(said["publisher"], said["number"]), zlib.crc32(data)
