"""The names for an application's handlers: `from roomcast import ConnectAnswer`. See docs/applications.md.

Only applications import from here. Everything else in the package is private.
"""

from __future__ import annotations

from roomcast.auth import Override
from roomcast.hooks.interface import (
    Caller,
    ConnectAnswer,
    ConnectEvent,
    DisconnectEvent,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.model.errors import ApplicationError, Disconnect, Refused
from roomcast.model.maps import KeyMode
from roomcast.version import __version__

__all__ = [
    "ApplicationError",
    "Caller",
    "ConnectAnswer",
    "ConnectEvent",
    "Disconnect",
    "DisconnectEvent",
    "KeyMode",
    "MapPublishAnswer",
    "MapPublishEvent",
    "MapRemoveAnswer",
    "MapRemoveEvent",
    "Override",
    "PublishAnswer",
    "PublishEvent",
    "RefreshAnswer",
    "RefreshEvent",
    "Refused",
    "RpcEvent",
    "SubRefreshEvent",
    "SubscribeAnswer",
    "SubscribeEvent",
    "__version__",
]
