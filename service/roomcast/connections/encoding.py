"""How a publication becomes bytes for one kind of client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roomcast.model.publications import Event, Publication


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Encoding:
    """How a publication becomes bytes on a kind of connection: wire protocol and transport framing in one call.

    The hub encodes once per Encoding and writes the same bytes to each of its connections, so there is one object
    per combination, made once, never one per connection.

    encode: returns nothing for an event that this encoding cannot express.
    missed: encodes the number of publications that a client was too slow for.
    tells_positions: clients of this encoding receive positions, and can recover from them.
    difference: encodes a publication for clients that have the one before, given first; None if it must be sent whole.
        A client gets whole ones, of `encode`, first.
    ping: a ping of the wire protocol; empty: the transport has its own.
    """

    encode: Callable[[Event], bytes]
    missed: Callable[[int], bytes]
    tells_positions: bool = False
    difference: Callable[[Publication, Publication], bytes | None] | None = None
    ping: bytes = b""
