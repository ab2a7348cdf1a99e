"""The text that `roomcast dev` prints when everything is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from roomcast.redis_access.url import masked_url

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True)
class Greeting:
    """The facts of this run.

    balancer_url: the address to open.
    nodes: address and pid of each node.
    secret: of this run; None if the user set one, which is not shown, or if no token is needed.
    """

    balancer_url: str
    nodes: Sequence[tuple[str, int]]
    redis_url: str
    api_key: str
    secret: str | None

    def text(self) -> str:
        """Return the lines, with colours; `click.echo` removes them where the output is not a terminal."""
        return "\n".join(["", *(f"  {line}" if line else "" for line in self._lines()), ""])

    def _lines(self) -> Iterable[str]:
        count = len(self.nodes)
        yield _style("Roomcast is running", fg="green", bold=True) + (
            f": {count} nodes behind one address, joined through Redis." if count > 1 else ": 1 node and Redis."
        )
        yield ""
        yield f"Open this    {_style(self.balancer_url, bold=True, underline=True)}   in two windows, and chat"
        yield ""
        width = max(len(url) for url, _ in self.nodes)
        for number, (url, pid) in enumerate(self.nodes, 1):
            yield f"{_label(f'node {number}')}{url:<{width}}   pid {pid}"
        yield f"{_label('Redis')}{masked_url(self.redis_url)}"
        yield f"{_label('API key')}{self.api_key}"
        yield from self._kill()
        yield from self._more()
        yield ""
        yield "Ctrl-C ends all of it."

    def _kill(self) -> Iterable[str]:
        yield ""
        if len(self.nodes) > 1:
            yield "Kill a node while you chat: its clients reconnect to another one, and it is restarted."
        else:
            yield "Kill the node while you chat: it is restarted, and its clients reconnect."
        yield _command(f"kill -9 {self.nodes[0][1]}")

    def _more(self) -> Iterable[str]:
        if self.redis_url != DEFAULT_REDIS_URL:  # where every client looks for Redis
            yield ""
            yield "In other terminals first:"
            yield _command(f"export ROOMCAST_REDIS_URL={masked_url(self.redis_url)}")
        yield ""
        yield "Publish from a terminal:"
        yield _command(f"curl {self.balancer_url}api/publish -H 'X-API-Key: {self.api_key}' \\")
        yield _command("""  -d '{"channel": "room:lobby", "data": {"text": "hi"}}'""")
        if self.secret is not None:
            yield ""
            yield "Make a token for a client (a client without one is anonymous):"
            yield _command(f"export ROOMCAST_SECRET={self.secret}")
            yield _command(f"{sys.argv[0]} token --user 42")


def _label(name: str) -> str:
    return _style(f"{name:<13}", dim=True)


def _command(line: str) -> str:
    return "  " + _style(line, fg="cyan")


def _style(text: str, **styles: bool | str) -> str:
    """Style a text, unless the user wants no colours (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **styles)  # type: ignore[arg-type]
