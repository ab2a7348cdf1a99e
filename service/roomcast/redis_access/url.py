"""Redis URLs: the shape of Redis, its addresses, and the connection options (docs/redis.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

_URL = re.compile(
    r"(?P<scheme>rediss?|unix)(?P<shape>\+[a-z]+)?://((?P<credentials>[^/?#]*)@)?(?P<addresses>[^/?#@]*)"
    r"(?P<path>[^?#]*)(\?(?P<query>[^#]*))?"
)
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_CERT_REQS = ("none", "optional", "required")
_BOOLEANS = {"true": True, "false": False}
_LAST_PORT = 65535


class Shape(Enum):
    """The shapes in which Redis runs."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_DEFAULT_PORTS = {Shape.SINGLE: 6379, Shape.SENTINEL: 26379, Shape.CLUSTER: 6379}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    addresses: host and port of the server, of the Sentinels, or of some nodes of the cluster; none for a Unix socket.
    master_name: of the server in Sentinel; "" in other shapes.
    options: redis-py's arguments for a connection to a data server: credentials, database, TLS.
    sentinel_options: the same for a connection to a Sentinel, if there are any.
    """

    shape: Shape
    addresses: tuple[tuple[str, int], ...]
    master_name: str
    options: Mapping[str, Any]  # Any: str, int, bool or a connection class
    sentinel_options: Mapping[str, Any]  # Any: as above


def parse_redis_url(text: str) -> RedisUrl:
    """Return a parsed URL. Raises: ValueError with the reason, and without anything that may be a secret."""
    match = _URL.fullmatch(text)
    shapes = {None: Shape.SINGLE, "+sentinel": Shape.SENTINEL, "+cluster": Shape.CLUSTER}
    if match is None or match["shape"] not in shapes or (match["scheme"] == "unix" and match["shape"]):
        raise ValueError(
            "must look like redis://host:6379/0, redis+sentinel://host:26379/mymaster/0, redis+cluster://host:7000"
            " (with TLS: rediss://, rediss+sentinel://, rediss+cluster://) or unix:///path"
        )
    query = match["query"] or ""
    if "@" in match["path"] + query:
        raise ValueError("a user or password has its special characters encoded: %2F for /, %3F for ?, %40 for @")
    shape = shapes[match["shape"]]
    if match["scheme"] == "unix":
        addresses: tuple[tuple[str, int], ...] = ()
        if match["addresses"] or len(match["path"]) <= 1:
            raise ValueError("must look like unix:///path/of/the/socket")
        master_name, database = "", ""
    else:
        addresses = tuple(_address(part, _DEFAULT_PORTS[shape]) for part in match["addresses"].split(","))
        if shape is Shape.SINGLE and len(addresses) > 1:
            raise ValueError("has several hosts: those are of redis+sentinel:// or redis+cluster://")
        master_name, database = _path(match["path"], shape)
    options = _options(query, shape, match["scheme"])
    asks_sentinels = options.pop("sentinel_auth", False)
    credentials = f"{match['credentials']}@" if match["credentials"] else ""
    path = match["path"] if match["scheme"] == "unix" else f"x/{database}"
    # redis-py decodes credentials and the scheme.
    for name, value in parse_url(f"{match['scheme']}://{credentials}{path}").items():
        if name != "host":
            options.setdefault(name, value)
    secrets = {"username", "password"} if asks_sentinels else set()
    sentinel_options = {name: value for name, value in options.items() if name in secrets or name.startswith("ssl_")}
    if options.get("connection_class") is SSLConnection:
        sentinel_options["ssl"] = True
    return RedisUrl(shape, addresses, master_name, options, sentinel_options)


def masked_url(text: str) -> str:
    """Return a URL with its password masked."""
    match = _URL.fullmatch(text)
    if match is None or ":" not in (match["credentials"] or ""):
        return text
    start, end = match.span("credentials")
    user = match["credentials"].partition(":")[0]
    return f"{text[:start]}{user}:**********{text[end:]}"


def _address(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, default_port if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not 1 <= port <= _LAST_PORT:
        raise ValueError("has an address that is no host:port (special characters of a password are encoded as %XX)")
    return unquote(host), port


def _path(path: str, shape: Shape) -> tuple[str, str]:
    """Return the name of the master and the database."""
    name, database = "", path.strip("/")
    if shape is Shape.SENTINEL:
        name, _, database = database.partition("/")
        if not name:
            raise ValueError("lacks the name of the master: redis+sentinel://host:26379/mymaster/0")
    if database and not database.isdecimal():
        raise ValueError("has a database that is no number")
    if shape is Shape.CLUSTER and database not in {"", "0"}:
        raise ValueError("names a database: a cluster has only 0")
    return unquote(name), database


def _options(query: str, shape: Shape, scheme: str) -> dict[str, Any]:  # Any: str, int or bool
    options: dict[str, Any] = {}
    known = (
        *(_TLS_OPTIONS if scheme == "rediss" else ()),
        *(("db",) if scheme == "unix" else ()),
        *(("sentinel_auth",) if shape is Shape.SENTINEL else ()),
    )
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in {"password", "username"}:
            raise ValueError("the password belongs before the host: redis://user:password@host:6379/0")
        if name not in known:
            raise ValueError(f"has an option {name}; this kind of URL takes {', '.join(known) or 'none'}")
        if name == "db" and value.isdecimal():
            options[name] = int(value)
        elif name in {"ssl_check_hostname", "sentinel_auth"} and value.lower() in _BOOLEANS:
            options[name] = _BOOLEANS[value.lower()]
        elif (name == "ssl_cert_reqs" and value in _CERT_REQS) or (name in _TLS_OPTIONS[:3] and value):
            options[name] = value
        else:
            raise ValueError(f"has an option {name} with a value that cannot be used")
    return options
