"""What the methods of the server API work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from service.config import Settings
    from service.node import Node
    from service.survey import Survey

# Answers a procedure call: its name and its parameters as JSON; JSON, or empty.
OnRpc = Callable[[str, bytes], Awaitable[bytes]]


class ApiContext(NamedTuple):
    """One node, and how it asks the others. on_rpc: the application's procedures, if it has any."""

    node: Node
    survey: Survey
    settings: Settings
    on_rpc: OnRpc | None = None


def context_of(connection: HTTPConnection) -> ApiContext:
    """Return what the server API of this app works with."""
    context: ApiContext = connection.app.state.api
    return context
