"""The prose of a file: pages outside of code, docstrings, comments."""

import ast
import io
import re
import tokenize
from pathlib import Path

SUFFIXES = {".conf", ".lua", ".md", ".py", ".toml", ".yaml", ".yml"}
COMMENT = re.compile(r"(?:^|\s)(?:#+|--)\s(.*)")  # of YAML, TOML, Makefile and Dockerfile; of Lua
INLINE_CODE = re.compile(r"(`+)(?:(?!\1)[^\n]|\n(?![ \t]*\n))+?\1")


def files(root: Path) -> list[Path]:
    """Return the paths, from the root, of the files that have prose; none in hidden folders or installed packages."""
    found = (path for path in root.rglob("*") if path.suffix in SUFFIXES or path.name in {"Makefile", "Dockerfile"})
    names = (path.relative_to(root) for path in found if path.is_file())
    return sorted(name for name in names if not any(p[0] == "." or p in {"dist", "node_modules"} for p in name.parts))


def prose(path: Path) -> str:
    """Return a file's prose with its line numbers: code is left empty, also code in `backticks`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    read = {".py": _of_python, ".md": _of_markdown}.get(path.suffix, _of_comments)
    return INLINE_CODE.sub(lambda code: "`" + "\n" * code[0].count("\n"), "\n".join(read(lines)))


def _of_python(lines: list[str]) -> list[str]:
    source, result = "\n".join(lines) + "\n", [""] * len(lines)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            result[node.lineno - 1 : node.end_lineno] = lines[node.lineno - 1 : node.end_lineno]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            result[token.start[0] - 1] = token.string.lstrip("#")
    return result


def _of_markdown(lines: list[str]) -> list[str]:
    result, fence = [], ""
    for line in lines:
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        result.append("" if fence or mark else line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
    return result


def _of_comments(lines: list[str]) -> list[str]:
    return [comment[1] if (comment := COMMENT.search(line)) else "" for line in lines]
