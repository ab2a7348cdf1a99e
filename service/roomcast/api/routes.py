"""The server API's routes: `POST /api/<method>`, and `POST /api` with the method in the body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from roomcast.api.api_context import ApiContext
from roomcast.api.api_key import check_api_key
from roomcast.api.methods import ABSENT, METHODS, batch, call
from roomcast.api.openapi import documented
from roomcast.api.request_models import BatchRequest, validated
from roomcast.bodies import read_json
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject
from roomcast.web.failures import FAILURES, failure_of
from roomcast.web.state import find

_Answer = Callable[[ApiContext, Json], Awaitable[JsonObject]]

router = APIRouter(tags=["server API"], dependencies=[Depends(check_api_key)])

# In addition to twice the maximum size of a message, such as for a thousand channels of a broadcast.
_REQUEST_BYTES = 512 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
# Members that are sent unchanged if orjson rejects them. `params` by body is the request itself.
_PAYLOADS_BY_BODY = ("data", "info")
_PAYLOADS = (*_PAYLOADS_BY_BODY, "params")
_MODE_HEADERS = ("X-Roomcast-Error-Mode", "X-Centrifugo-Error-Mode")


def _endpoint(
    answer: _Answer, *, max_bytes: int | None = None, keep: Collection[str] = _PAYLOADS
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint. Errors have status 200 too, unless the request asks for HTTP statuses."""

    async def endpoint(request: Request) -> Response:
        context = find(request, ApiContext)
        wanted = await read_json(request, max_bytes or _REQUEST_BYTES + 2 * context.settings.max_message_bytes, keep)
        try:
            return _json(200, await answer(context, wanted))
        except FAILURES as exc:
            failure = failure_of(exc)
        if any(request.headers.get(name) == "transport" for name in _MODE_HEADERS):
            return _json(failure.status, failure.body)
        return _json(200, {"error": failure.body})

    return endpoint


def _of_method(name: str) -> _Answer:
    async def answer(context: ApiContext, wanted: Json) -> JsonObject:
        return {"result": await call(context, name, wanted)}

    return answer


async def _batch(context: ApiContext, wanted: Json) -> JsonObject:
    return await batch(context, validated(BatchRequest, wanted))


async def _by_body(context: ApiContext, wanted: Json) -> JsonObject:
    """Accept `{"method": "publish", "params": {...}}`, the format of older clients of Centrifugo."""
    if not isinstance(wanted, dict) or not isinstance(wanted.get("method"), str):
        raise ClientError(ErrorCode.BAD_REQUEST, "method: Field required")
    return {"result": await call(context, wanted["method"], wanted.get("params", {}))}


def _json(status: int, content: JsonObject) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


for _name, _method in METHODS.items():
    router.post(f"/api/{_name}", response_class=Response, **documented(_name, _method.request, _method.perform))(
        _endpoint(_of_method(_name))
    )
for _name in ABSENT:
    router.post(f"/api/{_name}", response_class=Response, include_in_schema=False)(_endpoint(_of_method(_name)))
router.post("/api/batch", response_class=Response, **documented("batch", BatchRequest, batch))(
    _endpoint(_batch, max_bytes=_BATCH_BYTES)
)
router.post("/api", response_class=Response, include_in_schema=False)(_endpoint(_by_body, keep=_PAYLOADS_BY_BODY))
