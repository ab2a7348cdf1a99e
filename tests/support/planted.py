"""Modules that tests plant into the import graph, to see a check fail."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.imports import Module


def planted(*sources: tuple[str, str]) -> dict[str, Module]:
    """Return modules with this text. Args: a name and a text for each."""
    return {
        name: Module(name, Path(*name.split(".")).with_suffix(".py"), text, ast.parse(text)) for name, text in sources
    }
