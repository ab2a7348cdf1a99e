"""The origins whose pages may connect: browsers send the origin of a page."""

from __future__ import annotations

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp
from typing_extensions import override

from roomcast.config import Settings
from roomcast.config_types import split_names
from roomcast.model.errors import ErrorCode, Rejected, Rejection
from roomcast.model.origins import OriginPatterns, is_of_host

# Headers that browsers send by themselves, for a page of any origin.
_CREDENTIALS = frozenset({"authorization", "cookie"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})
_MAX_LOGGED = 100


class AllowedPages(CORSMiddleware):
    """Answers pages of the allowed origins so that browsers give them the answers (Fetch Standard 3.2).

    Pages of named origins may send credentials, as the HTTP transports of the Centrifuge libraries can. With `*` none
    may: browsers then accept no credentials (3.2.5).
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        is_any = "*" in names
        super().__init__(
            app,
            allow_origins=["*"] if is_any else (),
            allow_credentials=not is_any,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["ETag"],  # of values of maps
            max_age=3600,
        )
        self._named = OriginPatterns(names)

    @override
    def is_allowed_origin(self, origin: str) -> bool:
        return self.allow_all_origins or origin in self._named


def allowed_origins(settings: Settings) -> OriginPatterns | None:
    """Return the origins whose pages may connect besides the node's own; None: all.

    If handlers get credentials that browsers send by themselves, other origins must be named in the settings.
    """
    named = frozenset(split_names(settings.allowed_origins))
    uses_credentials = any(name.lower() in _CREDENTIALS for name in split_names(settings.hook_headers))
    return None if "*" in named or not (named or uses_credentials) else OriginPatterns(named)


def check_origin(connection: HTTPConnection, allowed: OriginPatterns | None) -> None:
    """Return if a client may connect: from a page of this host or of an allowed origin, or without a browser.

    Args:
        allowed: None: all.
    Raises: ClientError 103.
    """
    if allowed is None:
        return
    origin, host = connection.headers.get("origin", ""), connection.headers.get("host", "")
    # Images and links send no origin, but their site (Fetch Metadata Request Headers, 2.3).
    is_other = connection.headers.get("sec-fetch-site", "") in _OTHER_SITES if not origin else origin not in allowed
    if is_other and not is_of_host(origin, host):
        reason = f"origin {origin[:_MAX_LOGGED]!r}, host {host[:_MAX_LOGGED]!r}"
        raise Rejected(
            Rejection.ORIGIN, ErrorCode.PERMISSION_DENIED, "pages of this origin may not connect", reason=reason
        )
