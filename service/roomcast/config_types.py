"""Types of settings, with the validation of each; and the settings of handlers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr, StringConstraints, ValidationInfo

from roomcast.model.origins import canonical
from roomcast.redis_access.url import parse_redis_url

API_KEY_LENGTH = 16
SECRET_LENGTH = 32
# They describe the transfer of one request, and do not apply to the request to the application.
_UNFORWARDED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)

# The first parts of the nodes' own paths (tests/unit/test_config.py has the check).
OWN_PATHS = frozenset(
    {
        "api",
        "channels",
        "connection",
        "dashboard-feed",
        "docs",
        "emulation",
        "healthz",
        "maps",
        "metrics",
        "openapi.json",
    }
    | {"poll", "readyz", "redoc", "rooms", "sse", "static-offline-docs", "web", "ws"}
)

# The questions that can be asked over HTTP (hooks/interface.py).
PROXY_EVENTS = ("connect", "subscribe", "publish", "map_publish", "map_remove", "rpc", "refresh", "sub_refresh")

# Variables with the address of a service.
_OF_A_SERVICE = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")


def is_set_by_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable in each container: for a service named `roomcast`, ROOMCAST_PORT."""
    return bool(_OF_A_SERVICE.search(name)) or value.startswith(("tcp://", "udp://"))


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated setting."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_redis_url(value: str) -> str:
    parse_redis_url(value)
    return value


def _long_enough(length: int) -> Callable[[SecretStr, ValidationInfo], SecretStr]:
    def check(value: SecretStr, info: ValidationInfo) -> SecretStr:
        text = value.get_secret_value()
        if not text.isascii() or not text.isprintable():
            raise ValueError(f"must be ASCII characters; make some with: openssl rand -hex {length}")
        if len(text) < length and not info.data.get("insecure_short_keys"):
            raise ValueError(
                f"must be at least {length} ASCII characters; make one with: openssl rand -hex {length}; "
                "for development ROOMCAST_INSECURE_SHORT_KEYS=true accepts shorter ones"
            )
        return value

    return check


def _check_http_url(value: str) -> str:
    parts = urlsplit(value)
    is_plain = not parts.fragment and "@" not in parts.netloc and parts.port != 0 and " " not in value
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        raise ValueError("must be http://host[:port][/path], or https://, without user and password")
    return value


def _check_base_url(value: str) -> str:
    if urlsplit(value).query:  # a path is appended to it
        raise ValueError("must be http://host[:port][/path], or https://, without user and password")
    return _check_http_url(value)


def _check_root_path(value: str) -> str:
    path = value.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("must be a path such as /rt")
    if path[1:].partition("/")[0] in OWN_PATHS:
        # With /ws the path /ws/rooms/a could be `rooms/a`, or `ws/rooms/a` without the proxy's prefix.
        raise ValueError(f"{path} begins like a path of the nodes")
    return path


def _check_origins(value: str) -> str:
    for origin in split_names(value):
        if origin != "*" and canonical(origin) is None:
            raise ValueError(
                f"{origin!r} is no origin: https://host[:port], nothing behind it; * is allowed in the host"
            )
        if not origin.isascii():  # it would never match
            raise ValueError(f"{origin!r} is not as browsers send it: in ASCII, such as https://xn--mller-kva.example")
    return value


def _check_headers(value: str) -> str:
    for name in split_names(value):
        if not re.fullmatch("[A-Za-z0-9-]+", name) or name.lower() in _UNFORWARDED_HEADERS:
            raise ValueError(f"{name!r} is no header that can be passed on")
    return value


def _some_of(*known: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        for name in split_names(value):
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(known)}")
        return value

    return check


RedisUrlText = Annotated[str, AfterValidator(_check_redis_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_long_enough(API_KEY_LENGTH))]
Secret = Annotated[SecretStr, AfterValidator(_long_enough(SECRET_LENGTH))]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
RootPath = Annotated[str, AfterValidator(_check_root_path)]
BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
# A function by its dotted path: `package.module:function`.
Handler = Annotated[str | None, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
# Comma-separated.
Origins = Annotated[str, AfterValidator(_check_origins)]
HeaderNames = Annotated[str, AfterValidator(_check_headers)]
ProxyEvents = Annotated[str, AfterValidator(_some_of(*PROXY_EVENTS))]
WebhookEvents = Annotated[str, AfterValidator(_some_of("connect", "disconnect", "occupied", "vacated"))]


class HookSettings(BaseModel):
    """The settings of Python handlers and the HTTP proxy: docs/applications.md."""

    on_connect: Annotated[Handler, Field(description="Python handler: accepts or rejects connecting clients")] = None
    on_subscribe: Annotated[Handler, Field(description="Python handler: accepts or rejects subscriptions")] = None
    on_publish: Annotated[Handler, Field(description="Python handler: accepts, changes or rejects publications")] = None
    on_map_publish: Annotated[Handler, Field(description="Python handler: the same for values of maps")] = None
    on_map_remove: Annotated[Handler, Field(description="Python handler: the same for removals of maps' keys")] = None
    on_rpc: Annotated[Handler, Field(description="Python handler: answers clients' remote procedure calls")] = None
    on_refresh: Annotated[Handler, Field(description="Python handler: refreshes connections that expire")] = None
    on_sub_refresh: Annotated[Handler, Field(description="Python handler: refreshes subscriptions that expire")] = None
    on_disconnect: Annotated[Handler, Field(description="Python handler: notified of disconnected clients")] = None
    hook_timeout_s: Annotated[
        float, Field(gt=0, le=300, description="timeout for a Python handler; the client then gets error 100")
    ] = 5.0
    hook_threads: Annotated[
        int, Field(ge=1, le=1000, description="maximum number of synchronous handlers that run at once")
    ] = 16
    hook_headers: Annotated[
        HeaderNames, Field(description="handshake headers that handlers and the proxy receive: Cookie,X-Real-Ip")
    ] = ""
    proxy_url: Annotated[
        BaseUrl | None,
        Field(description="base URL of the application's proxy endpoints: <proxy_url>/connect, /subscribe ..."),
    ] = None
    proxy_events: Annotated[
        ProxyEvents,
        Field(description=f"events sent to the proxy, of: {','.join(PROXY_EVENTS)}"),
    ] = ""
    proxy_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="timeout for a reply of the proxy; the client then gets error 100")
    ] = 1.0
