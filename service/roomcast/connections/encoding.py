"""How a publication becomes bytes for one kind of client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomcast.model.publications import Event, Publication


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Encoding:
    """How a publication becomes bytes on a kind of connection: wire protocol and transport framing in one call.

    The hub encodes once per Encoding and writes the same bytes to each of its connections, so there is one object
    per combination, made once, never one per connection.

    encode: returns nothing for an event that this encoding cannot tell of.
    missed: the bytes that tell a client how many publications it was too slow for.
    tells_positions: clients of this encoding know where they are in a history, and can go on from there.
    difference: the bytes of a publication for clients that have the one before, given first; None if it has to be sent
        whole. A client begins with whole ones, of `encode`.
    ping: the bytes that ask a client whether it lives; nothing: the transport has a way of its own.
    """

    name: str
    encode: Callable[[Event], bytes]
    missed: Callable[[int], bytes]
    tells_positions: bool = False
    difference: Callable[[Publication, Publication], bytes | None] | None = None
    ping: bytes = b""
