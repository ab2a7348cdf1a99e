"""Reading the JSON body of a request, within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from service.bodies import read_body
from service.errors import ClientError, ErrorCode

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_json(request: Request, max_bytes: int) -> Any:  # Any: JSON
    """Return what a request's body says. Raises: ClientError 107 if it is no JSON, 106 for too much."""
    try:
        return orjson.loads(await read_body(request, max_bytes))
    except orjson.JSONDecodeError as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc.msg}") from None
