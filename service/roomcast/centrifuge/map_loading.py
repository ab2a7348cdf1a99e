"""The load of a map by one client, from request to request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from typing_extensions import override

from roomcast.auth import SubscriptionOptions
from roomcast.centrifuge.terms import Terms, View
from roomcast.deadlines import Deadlines, Expiring
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.node.map_load import MapLoad


class Loading(Expiring):
    """A map that a client loads: between its requests the node keeps what the next one continues.

    view, terms: of the first request; the following ones are not authorised again.
    load: None until the first page.
    cursor: of the next page; "" once the client has all pages.
    offset: the client has the changes up to it.
    top: of the map when the client had all pages; None before. Once it has the changes up to it, it goes live.
    is_late: the client has not asked for the next page in time; nothing is left to continue.

    Args:
        is_busy: returns whether a request of the client may wait: for what it was sent, or has sent before.
    """

    __slots__ = (
        "_deadlines",
        "_error",
        "_is_busy",
        "_timeout_s",
        "_waiting",
        "cursor",
        "is_late",
        "load",
        "offset",
        "terms",
        "top",
        "view",
    )

    def __init__(self, deadlines: Deadlines, view: View, is_busy: Callable[[], bool]) -> None:
        self.view = view
        self._is_busy = is_busy
        self._timeout_s = 0.0
        self.terms = Terms(SubscriptionOptions())
        self._deadlines = deadlines
        self._waiting: asyncio.Timeout | None = None  # of the request under way
        self._error = ErrorCode.UNRECOVERABLE_POSITION  # with which it ends early
        self.load: MapLoad | None = None
        self.cursor = ""
        self.offset = 0
        self.top: int | None = None
        self.is_late = False

    @asynccontextmanager
    async def executing(self) -> AsyncIterator[None]:
        """Return the context of a request: it has no deadline, and ends early by `abort`. Raises: ClientError."""
        self._deadlines.forget(self)
        timeout = asyncio.timeout(None)
        try:
            async with timeout as self._waiting:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ClientError(self._error, "the client was unsubscribed while it loaded the map") from None
        finally:
            self._waiting = None

    def wait_for_next(self, timeout_s: float) -> None:
        """Close the load unless the next request comes in time."""
        self._timeout_s = timeout_s
        self._deadlines.add_in(timeout_s, self)

    def abort(self, error: ErrorCode = ErrorCode.UNRECOVERABLE_POSITION) -> None:
        """End the request under way with an error, if there is one that does not end already."""
        waiting, self._waiting = self._waiting, None  # an expired timeout refuses another time
        if waiting is not None:
            self._error = error
            waiting.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """End the load, also before it is finished; a client that abandons it must not hold the node's copy."""
        self._deadlines.forget(self)
        load, self.load = self.load, None
        if load is not None:
            load.close()

    @override
    def on_deadline(self, now_s: float, grace_s: float) -> None:
        if self.load is not None and self._is_busy() and self.load.keep():
            self._deadlines.add_in(self._timeout_s, self)
            return
        self.is_late = True
        self.close()


# Of most clients, which share it: an empty dict would be 64 bytes of each. It stays empty.
NO_LOADS: Mapping[str, Loading] = {}
