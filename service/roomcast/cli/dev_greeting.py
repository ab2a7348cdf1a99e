"""The text that `roomcast dev` prints when everything is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from roomcast.redis_access.url import masked_url


def greeting(
    *, balancer_url: str, nodes: Sequence[tuple[str, int]], redis_url: str, api_key: str, secret: str | None
) -> str:
    """Return the lines, with colours; `click.echo` removes them where the output is not a terminal.

    Args:
        nodes: address and pid of each node.
        secret: of this run; None if the user set one, which is not shown, or if no token is needed.
    """
    if len(nodes) > 1:
        summary = f": {len(nodes)} nodes behind one address, joined through Redis."
        advice = "Kill a node while you chat: its clients reconnect to another one, and it is restarted."
    else:
        summary = ": 1 node and Redis."
        advice = "Kill the node while you chat: it is restarted, and its clients reconnect."
    width = max(len(url) for url, _ in nodes)
    lines = [
        _style("Roomcast is running", fg="green", bold=True) + summary,
        "",
        f"Open this    {_style(balancer_url, bold=True, underline=True)}   in two windows, and chat",
        "",
        *(f"{_label(f'node {number}')}{url:<{width}}   pid {pid}" for number, (url, pid) in enumerate(nodes, 1)),
        f"{_label('Redis')}{masked_url(redis_url)}",
        f"{_label('API key')}{api_key}",
        "",
        advice,
        _command(f"kill -9 {nodes[0][1]}"),
    ]
    if redis_url != "redis://127.0.0.1:6379/0":  # where every client looks for Redis
        lines += ["", "In other terminals first:", _command(f"export ROOMCAST_REDIS_URL={masked_url(redis_url)}")]
    lines += ["", "Publish from a terminal:"]
    lines += [_command(f"curl {balancer_url}api/publish -H 'X-API-Key: {api_key}' \\")]
    lines += [_command("""  -d '{"channel": "room:lobby", "data": {"text": "hi"}}'""")]
    if secret is not None:
        lines += ["", "Make a token for a client (a client without one is anonymous):"]
        lines += [_command(f"export ROOMCAST_SECRET={secret}"), _command(f"{sys.argv[0]} token --user 42")]
    lines += ["", "Ctrl-C ends all of it."]
    return "\n".join(["", *(f"  {line}" if line else "" for line in lines), ""])


def _label(name: str) -> str:
    return _style(f"{name:<13}", dim=True)


def _command(line: str) -> str:
    return "  " + _style(line, fg="cyan")


def _style(text: str, **styles: bool | str) -> str:
    """Style a text, unless the user wants no colours (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **styles)  # type: ignore[arg-type]
