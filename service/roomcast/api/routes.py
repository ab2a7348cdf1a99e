"""The server API's routes: `POST /api/<method>`, and `POST /api` with the method in the body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from roomcast.api.api_context import ApiContext
from roomcast.api.api_key import check_api_key
from roomcast.api.methods import ABSENT, METHODS, batch, call
from roomcast.api.openapi import documented
from roomcast.api.request_models import BatchRequest, validated
from roomcast.bodies import read_body, read_json
from roomcast.model import json
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


def _endpoint(answer: _Answer, *, max_bytes: int | None = None) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint. Errors have status 200 too, unless the request asks for HTTP statuses."""

    async def endpoint(request: Request) -> Response:
        context = find(request, ApiContext)
        wanted = await read_json(request, max_bytes or _request_bytes(context), _PAYLOADS)
        return await _answered(request, context, answer, wanted, {})

    return endpoint


def _request_bytes(context: ApiContext) -> int:
    return _REQUEST_BYTES + 2 * context.settings.max_message_bytes


async def _answered(
    request: Request, context: ApiContext, answer: _Answer, wanted: Json, about: JsonObject
) -> Response:
    """Return the response to one request; `about` precedes its members."""
    try:
        return _json(200, {**about, **await answer(context, wanted)})
    except FAILURES as exc:
        failure = failure_of(exc)
    if any(request.headers.get(name) == "transport" for name in _MODE_HEADERS):
        return _json(failure.status, failure.body)
    return _json(200, {**about, "error": failure.body})


def _of_method(name: str) -> _Answer:
    async def answer(context: ApiContext, wanted: Json) -> JsonObject:
        return {"result": await call(context, name, wanted)}

    return answer


async def _batch(context: ApiContext, wanted: Json) -> JsonObject:
    return await batch(context, validated(BatchRequest, wanted))


async def _by_body(request: Request) -> Response:
    """Accept `{"id": 1, "method": "publish", "params": {...}}`, the format of older clients of Centrifugo.

    Several of them, one on each line, are executed in their order, each with a reply on its own line. If one is not
    JSON, none is executed.
    """
    context = find(request, ApiContext)
    commands = _commands(await read_body(request, max(_BATCH_BYTES, _request_bytes(context))))
    if len(commands) == 1:
        return await _answered(request, context, _of_body, commands[0], _id_of(commands[0]))
    named = [{_method_of(command): _params_of(command)} if _method_of(command) else {} for command in commands]
    answer = await batch(context, BatchRequest.model_construct(commands=named))
    lines = []
    for command, reply in zip(commands, answer["replies"], strict=True):
        ((name, result),) = reply.items()
        lines.append(orjson.dumps({**_id_of(command), ("error" if name == "error" else "result"): result}))
    return Response(b"\n".join(lines), media_type="application/json")


async def _of_body(context: ApiContext, command: Json) -> JsonObject:
    name = _method_of(command)
    if not name:
        raise ClientError(ErrorCode.BAD_REQUEST, "method: Field required")
    return {"result": await call(context, name, _params_of(command))}


def _commands(body: bytes) -> list[Json]:
    """Return the commands of a body: one, on any number of lines, or one on each line. Raises: ClientError 107."""
    try:
        return [json.loads(body, _PAYLOADS_BY_BODY)]
    except json.InvalidJson as exc:
        lines = [line for line in body.splitlines() if line.strip()]
        if len(lines) < 2:
            raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc}") from None
    try:
        return [json.loads(line, _PAYLOADS_BY_BODY) for line in lines]
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"a line of the body is not JSON: {exc}") from None


def _method_of(command: Json) -> str:
    """Return the method, in any case of letters as in Centrifugo; "" if there is none."""
    method = command.get("method") if isinstance(command, dict) else None
    return method.lower() if isinstance(method, str) else ""


def _params_of(command: JsonObject) -> Json:
    params = command.get("params")
    return {} if params is None else params


def _id_of(command: Json) -> JsonObject:
    number = command.get("id") if isinstance(command, dict) else None
    return {"id": number} if type(number) is int and number else {}


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
router.post("/api", response_class=Response, include_in_schema=False)(_by_body)
