"""The context of the server API's methods."""

from __future__ import annotations

from typing import NamedTuple

from roomcast.config import Settings
from roomcast.hooks.interface import Application
from roomcast.node.node import Node
from roomcast.node.survey import Survey


class ApiContext(NamedTuple):
    """One node, its survey of the other nodes, and the application, whose procedures can be called."""

    node: Node
    survey: Survey
    settings: Settings
    application: Application
