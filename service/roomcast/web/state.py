"""What the endpoints of an app share."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from roomcast.deadlines import Deadlines
from roomcast.rooms.authentication import Authenticator


def admission_of(connection: HTTPConnection) -> Authenticator:
    """Return what says who clients of this app are."""
    admission: Authenticator = connection.app.state.admission
    return admission


def deadlines_of(connection: HTTPConnection) -> Deadlines:
    """Return what ends the connections of this app that may stay no longer."""
    deadlines: Deadlines = connection.app.state.deadlines
    return deadlines
