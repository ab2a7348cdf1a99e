"""The checks of the rules. Each returns its findings, so that a test can plant one."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.architecture.imports import PACKAGES, Module, import_graph, imported_names, room_of
from tests.architecture.rules import (
    CALLS_AT_IMPORT,
    COMMON_LIBRARIES,
    GENERATED,
    IMPURE_LIBRARIES,
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    MAX_PUBLIC_METHODS,
    PURE,
    ROOMS,
)

Modules = Mapping[str, Module]


def unknown_rooms(modules: Modules) -> set[str]:
    """Rooms without a rule, and rules without a room."""
    return {module.room for module in modules.values()} ^ set(ROOMS)


def root_files(modules: Modules) -> list[str]:
    """Return the files at the root of `roomcast`, beside its folders."""
    return [module.path.name for module in modules.values() if module.is_at_root]


def upward_imports(modules: Modules) -> set[str]:
    """Imports of the same floor, of a higher one, or of a room that the importing one stays apart from."""
    found = set()
    for name, targets in import_graph(modules).items():
        for target in targets:
            here, there = room_of(name), room_of(target)
            room = ROOMS[here]
            if here != there and (ROOMS[there].floor >= room.floor or there in room.apart.split()):
                found.add(f"{name} imports {target}")
    return found


def foreign_libraries(module: Module) -> set[str]:
    """Libraries that its room may not import; and relative imports, which this graph does not follow."""
    allowed = {*PACKAGES, *ROOMS[module.room].libraries.split(), *COMMON_LIBRARIES, *sys.stdlib_module_names}
    if any(module.name == pure or module.name.startswith(f"{pure}.") for pure in PURE):
        allowed -= IMPURE_LIBRARIES
    return {top for name in imported_names(module.tree) if (top := name.partition(".")[0]) not in allowed}


def made_at_import(module: Module) -> set[str]:
    """Calls that importing the module makes, besides those in CALLS_AT_IMPORT."""
    if module.name in GENERATED:
        return set()
    called = {ast.unparse(call.func) for call in _calls(module.tree)}
    return {name for name in called if not {name, f".{name.rpartition('.')[2]}"} & CALLS_AT_IMPORT}


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield calls that run at import: not those inside functions, classes and `if __name__ == ...`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.If):
        return
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)


def oversized(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each thing over a limit, and its size."""
    if module.name in GENERATED:
        return
    if (lines := len(module.text.splitlines())) > MAX_FILE_LINES:
        yield module.name, f"{lines} lines"
    yield from _oversized_in(module.tree, module.name)


def _oversized_in(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _oversized_in(node, prefix)
            continue
        name = f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            if (count := len(_public_methods(node))) > MAX_PUBLIC_METHODS:
                yield name, f"{count} public methods"
        elif node.end_lineno is not None and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
            yield name, f"{lines} lines"
        yield from _oversized_in(node, name)


def _public_methods(node: ast.ClassDef) -> set[str]:
    functions = (child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if not function.name.startswith("_")}


def misplaced_tests(tests: Iterable[Path], modules: Iterable[str]) -> set[str]:
    """Unit tests whose place and name are not those of a module: `node/test_hub_deltas.py` is about `node.hub`.

    Args:
        tests: relative to tests/unit. modules: dotted, relative to `roomcast`, or to `tests` for its tools.
    """
    known = set(modules)
    return {test.as_posix() for test in tests if not known & set(_subjects(test))}


def _subjects(test: Path) -> Iterator[str]:
    words = test.stem.removeprefix("test_").split("_")
    for count in range(1, len(words) + 1):
        yield ".".join((*test.parent.parts, "_".join(words[:count])))


def long_files(files: Iterable[Path], max_lines: int) -> set[str]:
    """Names of files with more lines."""
    return {file.name for file in files if len(file.read_text(encoding="utf-8").splitlines()) > max_lines}
