"""What a node logs and counts about its clients: those that it rejects, and connections that end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection

import structlog

from roomcast.connections.connection import Connection
from roomcast.model.errors import DISCONNECTS, Rejection

log = structlog.get_logger(__name__)

_MAX_LINES = 60
_WINDOW_S = 60.0
_MAX_CHANNELS = 10
_REASONS = {disconnect.code: disconnect.reason for disconnect in DISCONNECTS} | {1006: "connection lost"}


class Rejections:
    """Clients and services that were rejected: all are counted, and at most 60 a minute logged for each reason.

    Args:
        clock: `time.monotonic`, seconds.
    Attributes:
        counts: by reason.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[Rejection] = Counter()
        self._clock = clock
        self._window_ends_at_s = 0.0
        self._line_counts: Counter[Rejection] = Counter()

    def note(self, rejection: Rejection, address: str, detail: str, *, conn: int | None = None) -> None:
        """Count and log a rejection.

        Args:
            detail: for the log alone; never a token or key.
            conn: the connection that the client has; None: it is rejected before that.
        """
        self.counts[rejection] += 1
        now_s = self._clock()
        if now_s >= self._window_ends_at_s:
            for each, count in self._line_counts.items():
                if count > _MAX_LINES:
                    log.info("admission.more_refused", cause=each.value, count=count - _MAX_LINES)
            self._line_counts.clear()
            self._window_ends_at_s = now_s + _WINDOW_S
        self._line_counts[rejection] += 1
        if self._line_counts[rejection] > _MAX_LINES:
            return
        where, connection = ("admission", {}) if conn is None else ("session", {"conn": conn})
        log.info(
            f"{where}.refused_{rejection.subject}", cause=rejection.value, reason=detail, address=address, **connection
        )


def log_closed(connection: Connection, code: int, channels: Collection[str]) -> None:
    """Log the end of a connection that was open; `channels`: those that it was subscribed to."""
    log.info(
        "connection.closed",
        conn=connection.id,
        transport=connection.transport.name,
        code=code,
        reason=_reason(connection, code),
        user=connection.user,
        address=connection.address,
        channels=sorted(channels)[:_MAX_CHANNELS],
        channel_count=len(channels),
        duration_s=round(time.monotonic() - (connection.opened_at_s or 0.0), 3),
    )


def _reason(connection: Connection, code: int) -> str:
    if connection.disconnect is not None and connection.disconnect.code == code:
        return connection.disconnect.reason
    return _REASONS.get(code, "closed by the client")
