"""Authentication of the server API: by the API key."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader

from roomcast.api.api_context import ApiContext
from roomcast.model.errors import ClientError, ErrorCode, Rejected, Rejection
from roomcast.web.state import find

_SCHEME = "apikey "

_key_header = APIKeyHeader(
    name="X-API-Key", scheme_name="X-API-Key", auto_error=False, description="the node's ROOMCAST_API_KEY"
)
_authorization_header = APIKeyHeader(
    name="Authorization", scheme_name="Authorization", auto_error=False, description="apikey <ROOMCAST_API_KEY>"
)


async def check_api_key(
    request: Request,
    key: Annotated[str | None, Depends(_key_header)],
    authorization: Annotated[str | None, Depends(_authorization_header)],
) -> None:
    """Validate the key of a request: `X-API-Key: <key>`, or `Authorization: apikey <key>`.

    Not `?api_key=<key>`, which Centrifugo accepts too, because URLs end up in logs. Raises: ClientError 101.
    """
    _check(request, key, authorization)


def has_api_key(request: Request) -> bool:
    """Return whether a request is that of a service: it sends a key, or none is needed (ROOMCAST_INSECURE_API)."""
    authorization = request.headers.get("authorization", "")
    sends_key = "x-api-key" in request.headers or authorization[: len(_SCHEME)].lower() == _SCHEME
    return sends_key or find(request, ApiContext).settings.insecure_api


def check_sent_key(request: Request) -> None:
    """Validate the key in a request's headers, as `check_api_key`."""
    _check(request, request.headers.get("x-api-key"), request.headers.get("authorization"))


def _check(request: Request, key: str | None, authorization: str | None) -> None:
    settings = find(request, ApiContext).settings
    if settings.insecure_api:
        return
    api_key = settings.api_key
    if api_key is None:
        raise ClientError(ErrorCode.UNAUTHORIZED, "the server API is off; start the node with ROOMCAST_API_KEY set")
    if key is None and authorization is not None and authorization[: len(_SCHEME)].lower() == _SCHEME:
        key = authorization[len(_SCHEME) :].strip()
    if key is None:
        raise Rejected(Rejection.NO_API_KEY, ErrorCode.UNAUTHORIZED, "send the header X-API-Key")
    if not secrets.compare_digest(key.encode(), api_key.get_secret_value().encode()):
        raise Rejected(Rejection.WRONG_API_KEY, ErrorCode.UNAUTHORIZED, "wrong X-API-Key")
