"""The chat page: its files as they are in this folder."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI
    from starlette.requests import Request

_PAGE = "index.html"
_MEDIA_TYPES = {
    _PAGE: "text/html",
    "style.css": "text/css",
    "feed.js": "text/javascript",
    "chat.js": "text/javascript",
    "dashboard.js": "text/javascript",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`, and its files below `/web/`."""
    for name, media_type in _MEDIA_TYPES.items():
        app.add_route("/" if name == _PAGE else f"/web/{name}", _file(name, media_type), include_in_schema=False)


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with a file, or with 304 while the browser has it.

    The browser asks each time (no-cache): during an upgrade the nodes behind a balancer have several versions.
    """
    content = files("roomcast.web").joinpath(name).read_bytes()
    etag = f'"{sha256(content).hexdigest()[:16]}"'
    headers = {"Cache-Control": "no-cache", "ETag": etag}

    async def endpoint(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return endpoint
