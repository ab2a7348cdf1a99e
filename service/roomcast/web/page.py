"""The chat page: the files in static/."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from typing_extensions import override


class Files(StaticFiles):
    """Browsers validate each file by its ETag: during an upgrade the nodes behind a balancer have several versions."""

    @override
    def file_response(self, *args: Any, **kwargs: Any) -> Response:  # Any: as in StaticFiles
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`, and its files below `/web/`."""
    files = Files(packages=[("roomcast", "web/static")])
    app.mount("/web", files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)
