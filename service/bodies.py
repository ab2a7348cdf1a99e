"""Reading the body of a request, within bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from service.errors import ClientError, ErrorCode

if TYPE_CHECKING:
    from starlette.requests import Request

_BODY_TIMEOUT_S = 5.0


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return a request's body. Raises: ClientError 106 for too much, 107 if it does not come within 5 s."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"the body has more than {max_bytes} bytes")
    except TimeoutError:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body did not come within {_BODY_TIMEOUT_S:g} s") from None
    return bytes(body)


async def read_json(request: Request, max_bytes: int) -> Any:  # Any: JSON
    """Return what a request's body says. Raises: ClientError 107 if it is no JSON, and as `read_body`."""
    try:
        return orjson.loads(await read_body(request, max_bytes))
    except orjson.JSONDecodeError as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc.msg}") from None
