"""The rules of tests/architecture/rules.py over the imports of the package, and each check on a planted violation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.checks import (
    foreign_libraries,
    long_files,
    made_at_import,
    misplaced_tests,
    oversized,
    root_files,
    unknown_rooms,
    upward_imports,
)
from tests.architecture.imports import PACKAGES, circles, folder_graph, import_graph, imported_names, read_modules
from tests.architecture.rules import (
    GENERATED,
    MAX_ROOT_FILES,
    MAX_TEST_FILE_LINES,
    PURE,
)
from tests.support.paths import ROOT
from tests.support.planted import planted

MODULES = read_modules(ROOT)
UNIT = ROOT / "tests/unit"


def test_every_room_has_a_rule() -> None:
    assert unknown_rooms(MODULES) == set()


def test_every_rule_is_of_a_module_that_is_there() -> None:
    assert set(MODULES) >= PURE | GENERATED


def test_a_room_imports_only_rooms_of_lower_floors() -> None:
    assert upward_imports(MODULES) == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_knows_only_the_layers_below_it(module: str) -> None:
    assert foreign_libraries(MODULES[module]) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph(MODULES)) == set()


def test_no_folders_import_each_other_in_a_circle() -> None:
    assert circles(folder_graph(MODULES)) == set()


def test_nothing_is_made_at_import() -> None:
    assert {(module.name, call) for module in MODULES.values() for call in made_at_import(module)} == set()


def test_the_root_is_small() -> None:
    assert len(root_files(MODULES)) <= MAX_ROOT_FILES


def test_files_classes_and_functions_are_small() -> None:
    assert dict(found for module in MODULES.values() for found in oversized(module)) == {}


def test_unit_tests_are_laid_out_as_the_package_is() -> None:
    tests = {path.relative_to(UNIT) for path in UNIT.rglob("test_*.py")} - {Path("test_layers.py")}
    tools = [".".join(path.relative_to(ROOT / "tests").with_suffix("").parts) for path in ROOT.glob("tests/*/*.py")]

    assert misplaced_tests(tests, [*(name.removeprefix("roomcast.") for name in MODULES), *tools]) == set()


def test_test_files_are_small() -> None:
    assert long_files((ROOT / "tests").rglob("*.py"), MAX_TEST_FILE_LINES) == set()


def test_the_tour_of_the_house_names_every_module() -> None:
    """Every folder and every file at the root has its row, and there is no row of another one."""
    house = (ROOT / "docs/architecture.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    named = [
        name for row in re.findall(r"^\| (`[^|]+) \|", house, re.MULTILINE) for name in re.findall("`([^`]+)`", row)
    ]

    assert sorted(named) == sorted(
        {module.path.name if module.is_at_root else f"{module.room}/" for module in MODULES.values()}
    )


def test_the_tour_of_the_house_names_files_that_are_there() -> None:
    files = [path.as_posix() for source in PACKAGES.values() for path in (ROOT / source).rglob("*.*")]
    named = re.findall(r"`([\w/]+\.(?:py|lua))`", (ROOT / "docs/architecture.md").read_text())

    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_check_finds_what_is_forbidden() -> None:
    text = "import redis.asyncio\nfrom roomcast.brokers.redis_broker import RedisBroker\n"
    modules = planted(("roomcast.connections.hub", text), ("roomcast.brokers.redis_broker", ""))

    assert imported_names(ast.parse(text)) == {"redis.asyncio", "roomcast.brokers.redis_broker.RedisBroker"}
    assert upward_imports(modules) == {"roomcast.connections.hub imports roomcast.brokers.redis_broker"}
    assert foreign_libraries(modules["roomcast.connections.hub"]) == {"redis"}


@pytest.mark.parametrize(
    ("importing", "imported"),
    [
        ("roomcast.brokers.redis_broker", "roomcast.presence.redis_presence"),  # the same floor
        ("roomcast.brokers.redis_broker", "roomcast.node.hub"),  # a higher one
        ("roomcast.hooks.http_handlers", "roomcast.node.hub"),  # a lower one, and apart
        ("roomcast_workers.ingest", "roomcast.node.hub"),
        ("roomcast.app", "roomcast"),  # the facade
        ("roomcast.__main__", "roomcast"),
    ],
)
def test_the_check_finds_an_import_that_goes_up(importing: str, imported: str) -> None:
    indented = f"if TYPE_CHECKING:\n    import {imported}\n"

    assert upward_imports(planted((importing, indented), (imported, ""))) == {f"{importing} imports {imported}"}


def test_an_import_that_goes_down_or_stays_in_its_room_is_allowed() -> None:
    down = ("roomcast.node.hub", "from roomcast.node import roster\nfrom roomcast.model.errors import Refused\n")

    assert upward_imports(planted(down, ("roomcast.node.roster", ""), ("roomcast.model.errors", ""))) == set()


def test_the_check_finds_files_at_the_root() -> None:
    assert root_files(planted(("roomcast.attic", ""), ("roomcast.node.hub", ""))) == ["attic.py"]


@pytest.mark.parametrize(
    ("test", "is_misplaced"),
    [
        ("node/test_hub.py", False),
        ("node/test_hub_deltas.py", False),
        ("chaos/test_checker.py", False),
        ("test_tasks.py", False),
        ("test_hub.py", True),
        ("node/test_hubs.py", True),
        ("node/test_tasks.py", True),
    ],
)
def test_the_check_finds_a_unit_test_of_no_module(test: str, is_misplaced: bool) -> None:
    assert bool(misplaced_tests([Path(test)], ["node.hub", "tasks", "chaos.checker"])) is is_misplaced


def test_the_check_finds_long_files(tmp_path: Path) -> None:
    for count in (3, 4):
        (tmp_path / f"test_{count}.py").write_text("x = 1\n" * count)

    assert long_files(tmp_path.iterdir(), 3) == {"test_4.py"}


def test_the_check_finds_a_room_without_a_rule() -> None:
    modules = {**MODULES, **planted(("roomcast.attic.chest", ""))}

    assert unknown_rooms(modules) == {"attic"}


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("roomcast.model.errors", "async def wait():\n    import asyncio\n", "asyncio"),
        ("roomcast.node.hub", "from socket import socket\n", "socket"),
        ("roomcast.node.node", "import fastapi\n", "fastapi"),
        ("roomcast.node.node", "from . import hub\n", ""),
        ("roomcast.node.node", "import tests.support\n", "tests"),
    ],
)
def test_the_check_finds_a_library_that_a_room_may_not_import(module: str, text: str, found: str) -> None:
    assert foreign_libraries(planted((module, text))[module]) == {found}


def test_the_check_finds_circles() -> None:
    modules = planted(
        ("roomcast.node.hub", "import roomcast.node.tracker\n"),
        ("roomcast.node.tracker", "import roomcast.node.roster\n"),
        ("roomcast.node.roster", "if TYPE_CHECKING:\n    from roomcast.node.hub import Hub\n"),
        ("roomcast.brokers.redis_broker", "import roomcast.presence.presence_commands\n"),
        ("roomcast.presence.presence_commands", ""),
        ("roomcast.presence.redis_presence", "import roomcast.brokers.redis_broker\n"),
    )

    assert circles(import_graph(modules)) == {
        frozenset(f"roomcast.node.{name}" for name in ("hub", "tracker", "roster"))
    }
    assert circles(folder_graph(modules)) == {frozenset({"roomcast.brokers", "roomcast.presence"})}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("settings = Settings()", "Settings"),
        ("CLIENTS = {'a': [Redis(max_connections=int('1'))]}", "Redis int"),
        ("configure_logging()", "configure_logging"),
        ("for _ in range(3):\n    app.mount('/')", "app.mount"),
        ("with open('x') as file:\n    pass", "open"),
        ("NAMES = frozenset(('a',))\ndef f():\n    return Redis()\nclass A:\n    b = Redis()\nC = lambda: Redis()", ""),
    ],
)
def test_the_check_finds_calls_at_import(text: str, found: str) -> None:
    assert made_at_import(planted(("roomcast.node.hub", text))["roomcast.node.hub"]) == set(found.split())


def test_the_check_finds_sizes_over_a_limit() -> None:
    methods = "".join(f"    def f{number}(self): ...\n    def _g{number}(self): ...\n" for number in range(16))
    function = "def long():\n    if True:\n        def longer():\n" + "            x = 1\n" * 40
    files = planted(
        ("roomcast.node.hub", f"class Hub:\n{methods}"),
        ("roomcast.node.tracker", function),
        ("roomcast.node.node", "x = 1\n" * 351),
    )

    assert {name: dict(oversized(module)) for name, module in files.items()} == {
        "roomcast.node.hub": {"roomcast.node.hub.Hub": "16 public methods"},
        "roomcast.node.tracker": {
            "roomcast.node.tracker.long": "43 lines",
            "roomcast.node.tracker.long.longer": "41 lines",
        },
        "roomcast.node.node": {"roomcast.node.node": "351 lines"},
    }


def test_what_is_within_the_limits_is_not_found() -> None:
    methods = "".join(f"    def f{number}(self): ...\n" for number in range(15))
    text = f"class Hub:\n{methods}def f():\n" + "    x = 1\n" * 39 + "x = 1\n" * (350 - 16 - 40)

    assert dict(oversized(planted(("roomcast.node.hub", text))["roomcast.node.hub"])) == {}
