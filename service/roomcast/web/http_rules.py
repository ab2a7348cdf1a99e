"""What HTTP asks of every endpoint: HEAD, OPTIONS, caching, and an answer to a WebSocket's URL without a handshake."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The start of a response, also of one that refuses a WebSocket's handshake.
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
_METHODS = {"GET": ["GET", "HEAD"], "POST": ["POST"], "PUT": ["PUT"], "DELETE": ["DELETE"]}
_NO_HANDSHAKE = (
    "this is the URL of a WebSocket, and the request has no handshake; does a proxy on the way pass Upgrade on?"
)


class HttpRules:
    """ASGI middleware: answers HEAD as GET without the body, and allows caches only the responses that name a rule.

    Without Cache-Control, caches may keep responses, also 404 and 405, as long as they think fit (RFC 9111 4.2.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a handshake."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_head = scope.get("method") == "HEAD"
        root_path = scope.get("root_path", "")
        if root_path and not f"{scope['path']}/".startswith(f"{root_path}/"):
            scope["path"] = root_path + scope["path"]  # a proxy has stripped it, and ASGI has it in the path

        async def send_by_rules(message: Message) -> None:
            is_start = message["type"] in _STARTS
            if is_start and all(name != b"cache-control" for name, _ in message["headers"]):
                message["headers"] = [*message["headers"], (b"cache-control", b"no-store")]
            if is_start or not is_head:
                await send(message)
            if is_start and is_head:
                await send({"type": "http.response.body", "body": b""})

        if is_head:
            await self._app({**scope, "method": "GET"}, _disconnected, send_by_rules)
        else:
            await self._app(scope, receive, send_by_rules)


async def _disconnected() -> Message:
    """Return at once, so that a stream or a poll ends after its head."""
    return {"type": "http.disconnect"}


def add_http_rules(app: FastAPI) -> None:
    """Add them, as the outermost middleware, to an app whose routes have GET, POST, PUT or DELETE."""
    app.add_middleware(HttpRules)
    app.router.default = _no_endpoint
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _method_not_allowed)


async def _no_endpoint(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Refuse an unknown path. Starlette refuses WebSockets there with 403, as if permission were missing."""
    raise HTTPException(404)


async def _not_found(request: HTTPConnection, _exc: Exception) -> Response:
    if not isinstance(request, Request) or not _matches(request, {"type": "websocket"}):
        return JSONResponse({"detail": "Not Found"}, 404)
    if request.method != "GET":
        return _refused_method(request, ["GET", "HEAD"])
    # HTTP/2 has no Upgrade, and forbids the header.
    is_upgradable = request.scope["http_version"].startswith("1.")
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if is_upgradable else None
    return JSONResponse({"detail": _NO_HANDSHAKE}, 426, headers)


async def _method_not_allowed(request: Request, _exc: Exception) -> Response:
    allowed = [name for method, names in _METHODS.items() if _matches(request, {"method": method}) for name in names]
    return _refused_method(request, allowed)


def _refused_method(request: Request, allowed: list[str]) -> Response:
    headers = {"Allow": ", ".join([*allowed, "OPTIONS"])}
    if request.method == "OPTIONS":
        return Response(headers=headers)
    return JSONResponse({"detail": "Method Not Allowed"}, 405, headers)


def _matches(request: Request, changes: Scope) -> bool:
    """Return whether an endpoint has the request's URL, with some values of its scope changed."""
    # A mounted app has replaced the root path with its own.
    root_path = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    scope = {**request.scope, "root_path": root_path, **changes}
    return any(
        route.matches(scope)[0] is Match.FULL
        for route in request.app.routes
        if not isinstance(route, Mount) or changes == {"method": "GET"}
    )
