"""Patterns over channel names: `*` any text, `?` one character, `[a-c]` and `[!a-c]`, `{room,game}` alternatives."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterator

from roomcast.model.errors import ClientError, ErrorCode

MAX_PATTERN_LENGTH = 255
_MAX_ALTERNATIVES = 64


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return a regular expression whose `match` tests a whole name; an empty pattern matches every name.

    Matching takes linear time for each alternative: `*` does not backtrack (`fnmatch`).
    Raises: ClientError 107 for unbalanced braces, and for more than 64 alternatives.
    """
    alternatives = list(itertools.islice(_alternatives(pattern or "*"), _MAX_ALTERNATIVES + 1))
    if len(alternatives) > _MAX_ALTERNATIVES:
        raise ClientError(ErrorCode.BAD_REQUEST, f"a pattern has at most {_MAX_ALTERNATIVES} alternatives")
    return re.compile("|".join(map(fnmatch.translate, alternatives)))


def _alternatives(pattern: str) -> Iterator[str]:
    """Yield the patterns without braces that a pattern stands for."""
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise ClientError(ErrorCode.BAD_REQUEST, "pattern: a brace is not opened")
        yield pattern
        return
    choices, end = _choices(pattern, start)
    for choice in choices:
        yield from _alternatives(pattern[:start] + choice + pattern[end + 1 :])


def _choices(pattern: str, start: int) -> tuple[list[str], int]:
    """Return the alternatives between an opening brace and its closing one, and the index of that."""
    choices, depth, begin = [], 0, start + 1
    for index in range(start, len(pattern)):
        character = pattern[index]
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0 or (depth == 1 and character == ","):
            choices.append(pattern[begin:index])
            begin = index + 1
        if depth == 0:
            return choices, index
    raise ClientError(ErrorCode.BAD_REQUEST, "pattern: a brace is not closed")
