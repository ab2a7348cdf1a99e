"""What the endpoints of an app share."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from roomcast.deadlines import Deadlines
from roomcast.rooms.authentication import Admission


def admission_of(connection: HTTPConnection) -> Admission:
    """Return what says who clients of this app are."""
    admission: Admission = connection.app.state.admission
    return admission


def deadlines_of(connection: HTTPConnection) -> Deadlines:
    """Return what ends the connections of this app that may stay no longer."""
    deadlines: Deadlines = connection.app.state.deadlines
    return deadlines
