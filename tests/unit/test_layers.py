"""The layers of the house, over the imports: who may know whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

VALUES = {
    "roomcast.model.errors",
    "roomcast.model.publications",
    "roomcast.model.channels",
    "roomcast.model.namespaces",
    "roomcast.model.tags",
}
TYPING = {"typing", "__future__", "collections"}

# For each module or package: the modules of ours that it may import, and the outside libraries.
# A package's rule holds for every module in it; the longest name decides.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "roomcast.model.errors": (set(), set()),
    "roomcast.model.publications": (set(), set()),
    "roomcast.model.channels": (VALUES, set()),
    "roomcast.model.namespaces": (VALUES, set()),
    "roomcast.model.tags": (VALUES, set()),
    "roomcast.node.recovery": (VALUES, set()),
    "roomcast.protocols": (VALUES | {"roomcast.connections.connection"}, {"orjson"}),
    "roomcast.connections.backlog": (set(), set()),
    "roomcast.connections.connection": (VALUES | {"roomcast.connections.backlog", "roomcast.transports"}, set()),
    "roomcast.node.hub": (VALUES | {"roomcast.connections.connection"}, set()),
    "roomcast.node.flush_pace": (set(), set()),
    "roomcast.tasks": (set(), set()),
    "roomcast.node.histories": (VALUES | {"roomcast.brokers"}, set()),
    "roomcast.node.node": (
        VALUES
        | {
            "roomcast.brokers",
            "roomcast.connections.connection",
            "roomcast.node.histories",
            "roomcast.node.hub",
            "roomcast.node.recovery",
        }
        | {"roomcast.tasks"}
        | {"roomcast.presence", "roomcast.node.roster", "roomcast.node.tracker"},
        {"structlog"},
    ),
    "roomcast.node.survey": (VALUES | {"roomcast.brokers", "roomcast.tasks"}, {"orjson", "structlog"}),
    "roomcast.node.tracker": (VALUES | {"roomcast.brokers", "roomcast.node.recovery", "roomcast.tasks"}, {"structlog"}),
    "roomcast.presence": (
        VALUES | {"roomcast.brokers", "roomcast.presence", "roomcast.tasks"},
        {"orjson", "redis", "structlog"},
    ),
    "roomcast.node.roster": (VALUES | {"roomcast.connections.connection", "roomcast.node.hub"}, set()),
    "roomcast.rooms.encodings": (VALUES | {"roomcast.connections.connection", "roomcast.transports"}, {"orjson"}),
    "roomcast.redis_access.url": (set(), {"redis"}),
    "roomcast.config_types": ({"roomcast.redis_access.url"}, {"pydantic"}),
    "roomcast.config": (
        VALUES | {"roomcast.redis_access.url", "roomcast.config_types"},
        {"annotated_types", "pydantic", "pydantic_settings"},
    ),
    "roomcast.auth": (
        VALUES
        | {"roomcast.auth", "roomcast.bodies", "roomcast.config", "roomcast.model.client_info", "roomcast.tasks"},
        {"annotated_types", "cryptography", "httpx", "jwt", "orjson", "pydantic", "structlog"},
    ),
    "roomcast.auth.permissions": (VALUES, set()),
    "roomcast.brokers": (
        VALUES | {"roomcast.brokers", "roomcast.redis_access.url", "roomcast.tasks"},
        {"orjson", "redis", "structlog"},
    ),
    "roomcast.centrifuge": (
        VALUES
        | {"roomcast.__version__", "roomcast.auth", "roomcast.bodies", "roomcast.brokers", "roomcast.centrifuge"}
        | {
            "roomcast.config",
            "roomcast.connections.connection",
            "roomcast.deadlines",
            "roomcast.hooks",
            "roomcast.node.node",
        }
        | {
            "roomcast.presence",
            "roomcast.node.recovery",
            "roomcast.web.sockets",
            "roomcast.node.survey",
            "roomcast.tasks",
        }
        | {"roomcast.transports"},
        {"fastapi", "google", "orjson", "starlette", "structlog"},
    ),
    "roomcast.centrifuge.codec": (VALUES, set()),
    "roomcast.centrifuge.json_codec": (VALUES | {"roomcast.centrifuge"}, {"orjson"}),
    "roomcast.centrifuge.held": (set(), set()),
    "roomcast.centrifuge.positions": (VALUES | {"roomcast.centrifuge.codec", "roomcast.node.recovery"}, set()),
    "roomcast.centrifuge.fossil": (set(), set()),
    "roomcast.centrifuge.filters": (VALUES, set()),
    "roomcast.centrifuge.protobuf_codec": (VALUES | {"roomcast.centrifuge"}, {"google"}),
    "roomcast.centrifuge.client_pb2": (set(), {"google"}),
    "roomcast.hooks": (
        VALUES
        | {"roomcast.auth", "roomcast.bodies", "roomcast.brokers", "roomcast.config", "roomcast.hooks"}
        | {"roomcast.model.client_info", "roomcast.config_types", "roomcast.tasks"},
        {"httpx", "orjson", "prometheus_client", "pydantic", "structlog"},
    ),
    "roomcast.transports": (
        VALUES | {"roomcast.connections.connection", "roomcast.tasks", "roomcast.transports"},
        {"httptools", "orjson", "starlette", "uvicorn", "websockets"},
    ),
    "roomcast.telemetry": (VALUES | {"roomcast.config", "roomcast.node.node"}, {"prometheus_client", "structlog"}),
    "roomcast.web.sockets": (
        VALUES
        | {
            "roomcast.config",
            "roomcast.connections.connection",
            "roomcast.rooms.encodings",
            "roomcast.node.node",
            "roomcast.protocols",
        }
        | {"roomcast.web.origins", "roomcast.config_types", "roomcast.tasks", "roomcast.transports"},
        {"fastapi", "starlette"},
    ),
    "roomcast.rooms.websockets": (
        VALUES
        | {
            "roomcast.rooms.authentication",
            "roomcast.connections.connection",
            "roomcast.deadlines",
            "roomcast.rooms.encodings",
        }
        | {
            "roomcast.introduction",
            "roomcast.protocols",
            "roomcast.node.recovery",
            "roomcast.web.sockets",
            "roomcast.rooms.entry",
        },
        {"fastapi", "starlette"},
    ),
    "roomcast.rooms.entry": (
        VALUES
        | {
            "roomcast.rooms.authentication",
            "roomcast.auth",
            "roomcast.connections.connection",
            "roomcast.deadlines",
            "roomcast.rooms.encodings",
        }
        | {"roomcast.node.node"},
        {"orjson"},
    ),
    "roomcast.rooms.poll": (
        VALUES
        | {
            "roomcast.connections.connection",
            "roomcast.rooms.encodings",
            "roomcast.rooms.websockets",
            "roomcast.protocols",
            "roomcast.web.sockets",
        }
        | {"roomcast.tasks", "roomcast.transports", "roomcast.rooms.entry"},
        {"fastapi", "orjson"},
    ),
    "roomcast.rooms.authentication": (
        VALUES | {"roomcast.auth", "roomcast.brokers", "roomcast.config", "roomcast.protocols"},
        {"starlette", "structlog"},
    ),
    "roomcast.web.origins": (VALUES | {"roomcast.config", "roomcast.config_types"}, {"starlette"}),
    "roomcast.introduction": (VALUES | {"roomcast.connections.connection"}, {"orjson"}),
    "roomcast.deadlines": (set(), set()),
    "roomcast.bodies": (VALUES, {"orjson", "starlette"}),
    "roomcast.model.channel_patterns": (VALUES, set()),
    "roomcast.api.node_side": (
        VALUES
        | {
            "roomcast.connections.connection",
            "roomcast.model.channel_patterns",
            "roomcast.node.hub",
            "roomcast.protocols",
            "roomcast.node.roster",
            "roomcast.node.survey",
        },
        {"psutil"},
    ),
    "roomcast.api": (
        VALUES
        | {
            "roomcast.api",
            "roomcast.bodies",
            "roomcast.brokers",
            "roomcast.config",
            "roomcast.rooms.encodings",
            "roomcast.model.channel_patterns",
        }
        | {"roomcast.hooks", "roomcast.node.node"}
        | {"roomcast.presence", "roomcast.node.recovery", "roomcast.node.survey", "roomcast.model.tags"}
        | {"roomcast.auth", "roomcast.rooms.websockets"},
        {"fastapi", "orjson", "prometheus_client", "pydantic", "starlette"},
    ),
    "roomcast.cli.terminal": (
        {"roomcast.redis_access.client", "roomcast.config", "roomcast.telemetry"},
        {"click", "redis"},
    ),
    "roomcast.cli.token": (
        VALUES | {"roomcast.auth", "roomcast.config", "roomcast.cli.terminal"},
        {"click", "jwt", "orjson"},
    ),
    "roomcast.cli.dev": ({"roomcast.config", "roomcast.redis_access.url"}, set()),
    "roomcast_workers": (
        VALUES
        | {
            "roomcast.brokers",
            "roomcast.hooks.webhook_stream",
            "roomcast.hooks.webhook_receiver",
            "roomcast.presence.events",
        }
        | {"roomcast.presence.occupancy"}
        | {"roomcast.tasks", "roomcast_workers"},
        {"orjson", "psutil", "redis", "structlog"},
    ),
}
# These put everything together, and may know everything.
ROOTS = {
    "roomcast.app",
    "roomcast.server",
    "roomcast.__main__",
    "roomcast.cli.channel",
    "roomcast.cli.main",
    "roomcast.cli.worker",
    "roomcast",
}
# Pure: what runs here runs to its end. `time` is a clock, not a wait.
NO_ASYNCIO = {
    "roomcast.model.errors",
    "roomcast.model.publications",
    "roomcast.model.channels",
    "roomcast.model.namespaces",
    "roomcast.model.tags",
    "roomcast.node.recovery",
    "roomcast.rooms.encodings",
    "roomcast.connections.connection",
    "roomcast.node.hub",
    "roomcast.node.flush_pace",
    "roomcast.node.roster",
    "roomcast.centrifuge.fossil",
    "roomcast.centrifuge.filters",
    "roomcast.auth.permissions",
    "roomcast.auth.claims",
    "roomcast.auth.keys",
}


def modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        parts = path.relative_to(ROOT / path.relative_to(ROOT).parts[0]).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def rule_of(module: str) -> tuple[set[str], set[str]]:
    while module not in ALLOWED:
        assert "." in module, "a new module needs a rule: who may it know?"
        module = module.rpartition(".")[0]
    return ALLOWED[module]


@pytest.mark.parametrize("module", sorted(set(modules()) - ROOTS))
def test_a_module_knows_only_the_layers_below_it(module: str) -> None:
    ours, outside = rule_of(module)

    for name in imports(modules()[module]):
        top = name.partition(".")[0]
        if top in {"roomcast", "roomcast_workers"}:
            assert is_in(name, ours | {module}), f"{module} may not import {name}"
        elif top not in sys.stdlib_module_names:
            assert is_in(name, outside), f"{module} may not import {name}"
        if module in NO_ASYNCIO or is_in(module, {"roomcast.protocols"}):
            assert top not in {"asyncio", "socket", "threading", "subprocess"}, f"{module} does no I/O"


def test_every_rule_is_of_a_module_that_is_there() -> None:
    assert set(ALLOWED) <= set(modules())


def test_the_tour_of_the_house_names_every_module() -> None:
    tour = (ROOT / "docs/architecture.md").read_text()

    for path in ROOT.glob("service/roomcast/*.py"):
        assert path.name.startswith("__") or f"{path.name}`" in tour, f"docs/architecture.md does not name {path.name}"


def test_the_check_finds_what_is_forbidden(tmp_path: Path) -> None:
    bad = tmp_path / "hub.py"
    bad.write_text("import redis.asyncio\nfrom roomcast.brokers.redis import RedisBroker\n")

    found = imports(bad)

    assert found == {"redis.asyncio", "roomcast.brokers.redis.RedisBroker"}
    assert not any(is_in(name, ALLOWED["roomcast.node.hub"][0] | ALLOWED["roomcast.node.hub"][1]) for name in found)


def test_nothing_is_made_at_import() -> None:
    """Settings, apps and clients are made by functions: importing does not read the environment."""
    for name, path in modules().items():
        if name == "roomcast.centrifuge.client_pb2":
            continue  # generated: it registers its messages
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call):
                called = ast.unparse(statement.value.func)
                assert called in {
                    "APIRouter",
                    "frozenset",
                    "APIKeyHeader",
                    "Disconnect",
                    "Unsubscribe",
                    "Encoding",
                    "TypeVar",
                    "re.compile",
                    "Namespace",
                    "Once",
                    "structlog.get_logger",
                }, f"{path.name} calls {called} at import"
