"""The pages of the HTTP API, `/docs` and `/redoc`, which load nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from roomcast.web.page import Files

_FOLDER = "static-offline-docs"
_ICON = f"{_FOLDER}/favicon.png"
# ReDoc's logo. In its place an image that fails, which ReDoc hides.
_LOGO, _NO_IMAGE = b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"data:,"
# Also for what newer versions of the scripts may load. They write styles into the page, and ReDoc runs a worker.
_HEADERS = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:"}


def add_docs_pages(app: FastAPI) -> None:
    """Serve the pages. All their references are relative, so that they work below any prefix that a proxy strips."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{_FOLDER}/swagger-ui-bundle.js",
            swagger_css_url=f"{_FOLDER}/swagger-ui.css",
            swagger_favicon_url=_ICON,
        )
        page.headers.update(_HEADERS)
        return page

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        page = get_redoc_html(
            openapi_url="openapi.json",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{_FOLDER}/redoc.standalone.js",
            redoc_favicon_url=_ICON,
            with_google_fonts=False,
        )
        page.headers.update(_HEADERS)
        return page

    @app.get(f"/{_FOLDER}/redoc.standalone.js", include_in_schema=False)
    async def redoc_script() -> Response:
        return Response(_redoc_script(), media_type="text/javascript")

    app.mount(f"/{_FOLDER}", Files(packages=[("fastapi_offline", "static")]))


@cache
def _redoc_script() -> bytes:
    return (files("fastapi_offline") / "static" / "redoc.standalone.js").read_bytes().replace(_LOGO, _NO_IMAGE)
