"""Nodes on fakes, for unit tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roomcast.connections.connection import Connection
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Publication, Resumption
from roomcast.node.hub import Hub
from roomcast.node.node import Node
from tests.support.fakes import FakeBroker, Schedule
from tests.support.fakes import node as fake_node

Start = Sequence[Publication | Resumption]


async def subscribe(node: Node, connection: Connection, channel: str, **options: Any) -> Start:  # Any: of Node's
    """Subscribe a connection, send it nothing, and return what a caller would send it first."""
    async with node.subscribing(connection, channel, **options) as start:
        return start


def make_node(namespaces: Namespaces | None = None) -> tuple[Node, FakeBroker, Schedule]:
    broker, turn = FakeBroker(), Schedule()
    return fake_node(Hub(turn), broker, namespaces), broker, turn
