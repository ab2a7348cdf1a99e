"""Bodies of requests and replies: reads them within limits, and lists the faults of validation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from pydantic import ValidationError
from starlette.requests import Request

from roomcast.model import json
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json

_BODY_TIMEOUT_S = 5.0


class TooLarge(ValueError):  # noqa: N818  (a description)
    """More bytes than accepted."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"more than {max_bytes} bytes")


async def read_chunks(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Return all bytes of a stream. Raises: TooLarge as soon as the limit is exceeded."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(max_bytes)
    return bytes(body)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return a request's body. Raises: ClientError 106 if it is too large, 107 if it takes more than 5 s."""
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await read_chunks(request.stream(), max_bytes)
    except TooLarge as exc:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"the body has {exc}") from None
    except TimeoutError:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body did not come within {_BODY_TIMEOUT_S:g} s") from None


async def read_json(request: Request, max_bytes: int, keep: Collection[str] = ()) -> Json:
    """Return a request's JSON body; `keep` as of `json.loads`.

    Raises: ClientError 107 if it is not JSON, and as `read_body`.
    """
    try:
        return json.loads(await read_body(request, max_bytes), keep)
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc}") from None


def faults(exc: ValidationError) -> list[tuple[str, str]]:
    """Return the place of each fault, "" for the whole, and its message; never the value, which may be a secret."""
    found = exc.errors(include_url=False, include_input=False, include_context=False)
    return [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in found]
