"""The origins whose pages may connect: browsers send the origin of a page."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import HTTPConnection

from roomcast.config import Settings
from roomcast.config_types import split_names
from roomcast.model.errors import ClientError, ErrorCode

# Headers that browsers send by themselves, for a page of any origin.
_CREDENTIALS = frozenset({"authorization", "cookie"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})


def allowed_origins(settings: Settings) -> Collection[str] | None:
    """Return the origins whose pages may connect besides the node's own; None: all.

    If handlers get credentials that browsers send by themselves, other origins must be named in the settings.
    """
    named = frozenset(split_names(settings.allowed_origins))
    uses_credentials = any(name.lower() in _CREDENTIALS for name in split_names(settings.hook_headers))
    return None if "*" in named or not (named or uses_credentials) else named


def check_origin(connection: HTTPConnection, allowed: Collection[str] | None) -> None:
    """Return if a client may connect: from a page of this host or of an allowed origin, or without a browser.

    Args:
        allowed: origins as browsers write them, `https://app.example.com`; None: all.
    Raises: ClientError 103.
    """
    if allowed is None:
        return
    origin, host = connection.headers.get("origin", ""), connection.headers.get("host", "")
    # Images and links send no origin, but their site (Fetch Metadata Request Headers, 2.3).
    is_other = connection.headers.get("sec-fetch-site", "") in _OTHER_SITES if not origin else origin not in allowed
    if is_other and origin.partition("://")[2] != host:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "pages of this origin may not connect")
