"""Which pages' clients are let in: browsers say from which site a page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.config_types import split_names
from roomcast.model.errors import ClientError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import HTTPConnection

    from roomcast.config import Settings

ANY = "*"
# What browsers send along by themselves, whatever page has made them connect.
_CREDENTIALS = frozenset({"authorization", "cookie"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})


def allowed_origins(settings: Settings) -> Collection[str] | None:
    """Return the origins whose pages may connect beside the node's own; None: those of all.

    Where handlers know clients by what browsers send by themselves, no other pages may, unless they are named.
    """
    named = frozenset(split_names(settings.allowed_origins))
    hears_credentials = any(name.lower() in _CREDENTIALS for name in split_names(settings.hook_headers))
    return None if ANY in named or not (named or hears_credentials) else named


def check_origin(connection: HTTPConnection, allowed: Collection[str] | None) -> None:
    """Return if a client may connect: from a page of this host, or of an allowed origin, or if it is no browser.

    Args:
        allowed: origins as browsers write them, `https://app.example.com`; None: all.
    Raises: ClientError 103.
    """
    if allowed is None:
        return
    origin, host = connection.headers.get("origin", ""), connection.headers.get("host", "")
    # An image, or a link, has no origin, and no client connects by one (Fetch Metadata Request Headers, 2.3).
    is_other = connection.headers.get("sec-fetch-site", "") in _OTHER_SITES if not origin else origin not in allowed
    if is_other and origin.partition("://")[2] != host:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "pages of this origin may not connect")
