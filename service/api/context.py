"""What the methods of the server API work with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from service.config import Settings
    from service.hooks import Application
    from service.node import Node
    from service.survey import Survey


class ApiContext(NamedTuple):
    """One node, how it asks the others, and the application, whose procedures can be called."""

    node: Node
    survey: Survey
    settings: Settings
    application: Application


def context_of(connection: HTTPConnection) -> ApiContext:
    """Return what the server API of this app works with."""
    context: ApiContext = connection.app.state.api
    return context
