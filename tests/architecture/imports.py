"""The import graph, read from the sources: nothing is imported. Imports for types only count too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGES = {"roomcast": "service", "roomcast_workers": "workers"}

Graph = Mapping[str, set[str]]


class Module(NamedTuple):
    """One source file."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The package that it is in, e.g. `roomcast.node`; a file at the root is its own."""
        return self.name if self.path.name == "__init__.py" or self.is_at_root else self.name.rpartition(".")[0]

    @property
    def room(self) -> str:
        return room_of(self.name)

    @property
    def is_at_root(self) -> bool:
        return self.path.parent.name == "roomcast"


def room_of(name: str) -> str:
    """Return the room of a module: `node` of `roomcast.node.hub`, `roomcast_workers` of all workers."""
    parts = name.split(".")
    return parts[1] if parts[0] == "roomcast" and len(parts) > 1 else parts[0]


def read_modules(root: Path) -> dict[str, Module]:
    """Return all modules of both packages by name."""
    modules = {}
    for package, source in PACKAGES.items():
        for path in sorted((root / source / package).rglob("*.py")):
            parts = path.relative_to(root / source).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            modules[name] = Module(name, path, text, ast.parse(text))
    return modules


def imported_names(tree: ast.Module) -> set[str]:
    """Return the imported names of a module, as written: `os.path`, `roomcast.node.hub.Hub`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str, modules: Iterable[str]) -> str | None:
    """Return the module that an imported name is in, or is; None for other libraries."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return for each module the modules of both packages that it imports."""
    return {
        module.name: {
            target
            for name in imported_names(module.tree)
            if (target := module_of(name, modules)) and target != module.name
        }
        for module in modules.values()
    }


def folder_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return for each folder, or file at the root, the others that it imports from."""
    graph: dict[str, set[str]] = {module.folder: set() for module in modules.values()}
    for name, targets in import_graph(modules).items():
        folder = modules[name].folder
        graph[folder] |= {modules[target].folder for target in targets} - {folder}
    return graph


def room_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return for each room the others that it imports from."""
    graph: dict[str, set[str]] = {module.room: set() for module in modules.values()}
    for name, targets in import_graph(modules).items():
        graph[room_of(name)] |= {room_of(target) for target in targets} - {room_of(name)}
    return graph


def reduced(graph: Graph) -> dict[str, set[str]]:
    """Return the graph without the arrows that others imply: a -> c where a -> b -> c. It has no circle."""
    return {
        start: {end for end in ends if not any(end in _reachable(graph, other) for other in ends)}
        for start, ends in graph.items()
    }


def circles(graph: Graph) -> set[frozenset[str]]:
    """Return the groups in which each member reaches all others."""
    reached = {start: _reachable(graph, start) for start in graph}
    groups = (frozenset(end for end in reached[start] if start in reached[end]) for start in graph)
    return {group for group in groups if group}


def _reachable(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting.extend(graph[name])
    return reached
