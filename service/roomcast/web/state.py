"""Objects that the endpoints of an app share, each found by its class."""

from __future__ import annotations

from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import HTTPConnection

T = TypeVar("T")


def offer(app: Starlette, *shared: object) -> None:
    """Let the endpoints of an app find these objects, one of each class."""
    app.state.shared = {type(each): each for each in shared}


def find(connection: HTTPConnection, wanted: type[T]) -> T:
    """Return an app's object of a class. A FastAPI dependency would be a twentieth of the cost of a connection."""
    return find_in(connection.app, wanted)


def find_in(app: Starlette, wanted: type[T]) -> T:
    """Return the object of a class that an app offers."""
    found: T = app.state.shared[wanted]
    return found
