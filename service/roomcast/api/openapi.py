"""OpenAPI documentation of the server API: requests and results with examples, and both kinds of error replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from roomcast.api.request_models import ApiRequest
from roomcast.model.json import Json, JsonObject

_POSITION = {"offset": 1, "epoch": "5f0c2a91"}
_ERROR = {"code": 102, "message": "unknown channel", "detail": "no namespace 'x'"}
_NODE = {
    "uid": "host-1a2b3c",
    "name": "host-1a2b3c",
    "version": "0.1.0",
    "num_clients": 2,
    "num_users": 1,
    "num_subs": 2,
    "num_channels": 1,
    "uptime": 3600,
    "process": {"cpu": 1.5, "rss": 70_000_000},
}
_ADA = {"client": "host-1a2b3c-7", "user": "ada", "conn_info": {"color": "red"}}

_ENTRY = {"key": "a1", "data": {"color": "red"}, "offset": 1, "time": 1767225600000}

RESULTS: Mapping[str, JsonObject] = {
    "publish": _POSITION,
    "broadcast": {"responses": [{"result": _POSITION}, {"error": _ERROR}]},
    "history": {**_POSITION, "publications": [{**_POSITION, "data": {"text": "hi"}}]},
    "history_remove": {},
    "presence": {"presence": {"host-1a2b3c-7": _ADA}},
    "presence_stats": {"num_clients": 2, "num_users": 1},
    "subscribe": {},
    "unsubscribe": {},
    "disconnect": {},
    "refresh": {},
    "channels": {"channels": {"room:lobby": {"num_clients": 2}}},
    "info": {"nodes": [_NODE]},
    "rpc": {"data": 3},
    "map_publish": _POSITION,
    "map_remove": {**_POSITION, "suppressed": True, "suppress_reason": "key_not_found"},
    "map_read_state": {"entries": [_ENTRY], **_POSITION, "cursor": "a1"},
    "map_read_stream": {"entries": [_ENTRY, {"key": "a1", "offset": 2, "removed": True}], **_POSITION, "offset": 2},
    "map_stats": {"num_keys": 1},
    "map_clear": {},
}
_BATCH = {"replies": [{"publish": _POSITION}, {"error": _ERROR}]}
_MODE = {
    "name": "X-Roomcast-Error-Mode",
    "in": "header",
    "description": "transport: errors have HTTP statuses, and the body is only the error",
    "schema": {"type": "string", "enum": ["transport"]},
}


def documented(name: str, model: type[ApiRequest], perform: Callable[..., object]) -> dict[str, Any]:
    """Return the arguments of a route that document the request and the replies of a method."""
    summary, _, description = (perform.__doc__ or "").partition("\n")
    return {
        "name": name,
        "summary": summary,
        "description": description,
        "responses": _responses(_BATCH if name == "batch" else {"result": RESULTS[name]}),
        "openapi_extra": {
            "parameters": [_MODE],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _schema(model)}}},
        },
    }


def _responses(answer: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    def content(**examples: object) -> dict[str, Any]:
        named = {example: {"value": value} for example, value in examples.items()}
        return {"application/json": {"schema": {"type": "object"}, "examples": named}}

    unauthorized = {"error": {"code": 101, "message": "unauthorized", "detail": "wrong X-API-Key"}}
    broken = {
        "error": {"code": 107, "message": "bad request", "detail": "the body is not JSON: unexpected end of data"}
    }
    too_large = {"error": {"code": 106, "message": "limit exceeded", "detail": "the body has more than 655360 bytes"}}
    return {
        200: {"description": "The result, or an error.", "content": content(done=answer, refused={"error": _ERROR})},
        400: {"description": "The body is not JSON.", "content": content(refused=broken)},
        401: {"description": "The API key is missing or wrong.", "content": content(refused=unauthorized)},
        413: {"description": "The body is too large.", "content": content(refused=too_large)},
        "default": {
            "description": "With the header X-Roomcast-Error-Mode: transport, an error: 400 for 107 and 108, 404 for "
            "102 and 104, 403 for 103, 413 for 106, 416 for 112, 429 for 111, 500 for 100.",
            "content": content(refused=_ERROR),
        },
    }


def _schema(model: type[ApiRequest]) -> dict[str, Any]:
    """Return the JSON schema of a request, with references replaced by their definitions."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Json) -> Json:
        if isinstance(part, list):
            return [inlined(each) for each in part]
        if not isinstance(part, dict):
            return part
        reference = part.get("$ref")
        if reference is not None:
            return inlined(definitions[reference.rpartition("/")[2]])
        return {name: inlined(each) for name, each in part.items()}

    result: dict[str, Json] = inlined(schema)
    return result
