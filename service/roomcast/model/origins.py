"""Origins of pages (RFC 6454): how they are spelled, and patterns that select some."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

# Apps have schemes of their own, such as capacitor://localhost; some have no host: file://.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://((?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]*))(?::([0-9]{1,5}|\*))?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
_ANY = "*"


def canonical(origin: str) -> str | None:
    """Return an origin or a pattern as browsers spell origins: lower case, no default port; None if it is neither."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), _canonical_host(found[2]), found[3]
    if not host and scheme in _DEFAULT_PORTS:
        return None
    has_port = port is not None and port != _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}:{port}" if has_port else f"{scheme}://{host}"


def is_of_host(origin: str, host: str) -> bool:
    """Return whether an origin is that of the header `Host`, which does not name its scheme."""
    scheme = origin.partition("://")[0]
    own = canonical(f"{scheme}://{host}") if host and _ANY not in host else None
    return own is not None and own == canonical(origin)


class OriginPatterns:
    """Origins, and patterns in which `*` matches any number of characters: https://*.example.com."""

    def __init__(self, patterns: Iterable[str]) -> None:
        spelled = [canonical(pattern) for pattern in patterns]
        self._exact = frozenset(pattern for pattern in spelled if pattern and _ANY not in pattern)
        with_any = (pattern.split(_ANY) for pattern in spelled if pattern and _ANY in pattern)
        self._patterns = [re.compile(".*".join(map(re.escape, parts))) for parts in with_any]

    def __contains__(self, origin: str) -> bool:
        """Return whether an origin is one of them."""
        spelled = canonical(origin)
        if spelled is None or _ANY in spelled:
            return False
        return spelled in self._exact or any(pattern.fullmatch(spelled) for pattern in self._patterns)


def _canonical_host(host: str) -> str:
    if not host.startswith("["):
        return host.lower().removesuffix(".")
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        return host.lower()
