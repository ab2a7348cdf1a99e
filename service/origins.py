"""Which pages' clients are let in: browsers say from which site a page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import ClientError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import HTTPConnection

ANY = "*"


def check_origin(connection: HTTPConnection, allowed: Collection[str]) -> None:
    """Return if a client may connect: from a page of this host, or of an allowed origin, or if it is no browser.

    Args:
        allowed: origins as browsers write them, `https://app.example.com`; none, or `*` among them: all.
    Raises: ClientError 103.
    """
    origin = connection.headers.get("origin", "")
    if not allowed or ANY in allowed or origin in allowed:
        return
    if origin:
        is_of_this_host = origin.partition("://")[2] == connection.headers.get("host", "")
    else:
        # Images and links ask without an origin; from where, browsers say all the same (Fetch Metadata 2.3).
        is_of_this_host = connection.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    if not is_of_this_host:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "pages of this origin may not connect")
