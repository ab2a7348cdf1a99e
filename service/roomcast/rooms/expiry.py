"""The expiry of plain connections: without grace, because their clients cannot refresh a token."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.deadlines import Deadlines, Expiring
from roomcast.hooks.interface import refreshed
from roomcast.model.errors import EXPIRED, Refused
from roomcast.rooms.admission import Expiry, Refresh
from roomcast.tasks import TaskSet


class Expiries:
    """Ends connections that expire and are not refreshed by the application. `tasks`: for those that ask it."""

    def __init__(self, deadlines: Deadlines, tasks: TaskSet) -> None:
        self.deadlines = deadlines
        self.tasks = tasks

    def watch(self, connection: Connection, expiries: Iterable[Expiry]) -> None:
        """Close a connection (3005) at the first time at which the application does not let it stay."""
        for expiry in expiries:
            if expiry.at_s:
                deadline = ConnectionDeadline(connection, self.deadlines, self.tasks, expiry.refresh)
                self.deadlines.add(expiry.at_s, deadline, at_once=True)

    def close_in(self, delay_s: float, connection: Connection) -> None:
        """Close a connection after a delay."""
        self.deadlines.add_in(delay_s, ConnectionDeadline(connection, self.deadlines, self.tasks))


class ConnectionDeadline(Expiring):
    """One expiry of a connection. It does not keep the connection alive, and ends with it."""

    def __init__(
        self, connection: Connection, deadlines: Deadlines, tasks: TaskSet, refresh: Refresh | None = None
    ) -> None:
        self._connection = weakref.ref(connection, lambda _: deadlines.forget(self))
        self._deadlines = deadlines
        self._tasks = tasks
        self._refresh = refresh

    @override
    def on_deadline(self, now_s: float, grace_s: float) -> None:
        connection = self._connection()
        if connection is None:
            return
        if self._refresh is None:
            connection.close(EXPIRED)
        else:
            self._tasks.spawn(self._ask(connection, self._refresh))

    async def _ask(self, connection: Connection, refresh: Refresh) -> None:
        try:
            answer = await refreshed(refresh(), self._deadlines.now_s)
        except Refused as exc:
            connection.close(exc.disconnect)
            return
        if answer is None:
            connection.close(EXPIRED)
            return
        if answer.info is not None:
            connection.info = answer.info
        self._deadlines.add(answer.expire_at_s, self, at_once=True)
