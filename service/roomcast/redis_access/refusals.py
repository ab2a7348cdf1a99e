"""What Redis refuses, by kind: noted where a reply is parsed, so that no command and no connection is left out."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from redis.exceptions import ResponseError

# Before Redis 7 the code of a command in a script follows the name of the script (`ERR ...: -OOM command not allowed`).
_CODE_IN_SCRIPT = re.compile(r"[ :]-([A-Z]{2,20}) ")
_CODE = re.compile(r"([A-Z]{2,20})\b")
_PHRASES = {
    "unknown command": "UNKNOWN_COMMAND",
    "unknown redis command": "UNKNOWN_COMMAND",
    "unknown valkey command": "UNKNOWN_COMMAND",
    "acl failure": "NOPERM",
    "max number of clients": "MAXCLIENTS",
}
# Answers of every day: a script that is loaded now, a slot that moves, a key of another program.
_USUAL = re.compile(r"(?:NOSCRIPT|MOVED|ASK|TRYAGAIN|WRONGTYPE|EXECABORT)\b")
# What a primary answers that has become a replica.
DEMOTED = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})


def kind_of(exc: BaseException) -> str | None:
    """Return the kind of a refusal, such as OOM; None if there was no answer."""
    text = _text(exc)
    if text is None:
        return None
    lower = text.lower()
    for phrase, kind in _PHRASES.items():
        if phrase in lower:
            return kind
    code = _CODE_IN_SCRIPT.search(text) or _CODE.match(text)
    return code[1] if code else "ERR"


def _text(exc: BaseException) -> str | None:
    """Return the server's words: redis-py removes the code of those that it knows."""
    code = getattr(exc, "status_code", None)
    if code is None and not isinstance(exc, ResponseError):
        return None
    return f"{code} {exc}" if code and code != "ERR" else str(exc)


class Refusals:
    """The refusals that one client's connections have met.

    counts: by kind. suspected: set when something was refused; cleared by the watching task.
    generation: another number when the server behind the address was demoted: connections of before are closed.
    connected: set, and replaced, whenever a connection is made.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.suspected = asyncio.Event()
        self.connected = asyncio.Event()
        self.generation = 0

    def note(self, exc: BaseException, generation: int) -> None:
        """Note an error that the server answered, on a connection of a generation."""
        text = _text(exc)
        if text is None or _USUAL.match(text):
            return
        kind = kind_of(exc) or "ERR"
        self.counts[kind] += 1
        self.suspected.set()
        if kind in DEMOTED and generation == self.generation:
            self.generation += 1

    def on_connected(self) -> None:
        """Wake everything that waits for the server to be back."""
        self.connected.set()
        self.connected = asyncio.Event()
