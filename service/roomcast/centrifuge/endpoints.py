"""The endpoints of the Centrifuge protocol: WebSocket, or a response that streams and `/emulation` for commands."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response
from google.protobuf.message import DecodeError
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from roomcast.bodies import read_body, read_json
from roomcast.centrifuge.client_pb2 import EmulationRequest
from roomcast.centrifuge.command_queue import begin_session
from roomcast.centrifuge.session_context import SessionContext
from roomcast.centrifuge.session_operations import SessionOperations
from roomcast.centrifuge.wire import Wire
from roomcast.config import Settings
from roomcast.model.errors import ClientError, Disconnect, ErrorCode
from roomcast.transports.command_stream import CommandStream
from roomcast.transports.event_stream import LAST_ID, retry
from roomcast.web.client_server import ClientServer, address_of, websocket_of
from roomcast.web.event_ids import last_event_id
from roomcast.web.state import find
from roomcast.web.streaming import STREAM_HEADERS, pump

router = APIRouter(tags=["Centrifuge protocol"])

_PROTOBUF = "centrifuge-protobuf"
_JSON = "centrifuge-json"
_PROTOBUF_TYPE = "application/octet-stream"
# Of the body of a request, beside a client's message.
_ENVELOPE_BYTES = 4096


@router.websocket("/connection/websocket")
async def websocket(socket: WebSocket) -> None:
    """The Centrifuge protocol: JSON; Protobuf for the subprotocol `centrifuge-protobuf`, or for `?format=protobuf`."""
    server, context = find(socket, ClientServer), find(socket, SessionContext)
    # The first that the client offers and that is known here; without one the query decides.
    named = next((name for name in socket.scope["subprotocols"] if name in (_PROTOBUF, _JSON)), None)
    is_asked = "protobuf" in map(socket.query_params.get, ("format", "cf_protocol"))
    is_protobuf = named == _PROTOBUF or (named is None and is_asked)
    wire = context.wires.websocket_protobuf if is_protobuf else context.wires.websocket_json
    transport, _ = websocket_of(socket)
    queue = begin_session(context, wire, socket.headers, partial(server.connection, transport, wire.encoding))
    connection = queue.session.connection
    await server.serve(socket, connection, subprotocol=named, is_open=False)


@router.post("/connection/http_stream", response_class=Response, summary="Connect; the response streams.")
async def http_stream(request: Request) -> Response:
    """The Centrifuge protocol without WebSockets: the response streams, commands come by `/emulation` on any node.

    The body is the first command, JSON or, as `application/octet-stream`, Protobuf; so are the response's lines.
    """
    find(request, ClientServer).check_origin(request)
    is_protobuf = request.headers.get("content-type", "") == _PROTOBUF_TYPE
    wires = find(request, SessionContext).wires
    wire = wires.stream_protobuf if is_protobuf else wires.stream_json
    return CommandStreamResponse(request, wire, transport_name="http_stream", first=await _body(request))


@router.get("/connection/sse", response_class=Response, summary="Connect by server-sent events.")
@router.post("/connection/sse", response_class=Response, summary="Connect by server-sent events.")
async def sse(request: Request) -> Response:
    """As `/connection/http_stream`, as server-sent events; the first command is the body, or `?cf_connect=`.

    A token in it stands in the URL: browsers' EventSource has no other place. It stays out of our logs; others should
    keep it out of theirs, or use http_stream.
    """
    find(request, ClientServer).check_origin(request)
    if last_event_id(request).is_end:
        return Response(status_code=204)
    first = request.query_params.get("cf_connect", "").encode() if request.method == "GET" else await _body(request)
    return CommandStreamResponse(request, find(request, SessionContext).wires.sse, transport_name="sse", first=first)


@router.post("/emulation", response_class=Response, status_code=204, summary="Send commands.")
async def emulation(request: Request) -> Response:
    """Accept commands of a client whose replies stream from any node: `{"session": "", "node": "", "data": "{...}"}`.

    Answers 204 once that node has them; 404 if there is no such node or session, 400 for anything else.
    """
    limit_bytes = find(request, Settings).max_message_bytes
    is_protobuf = request.headers.get("content-type", "") == _PROTOBUF_TYPE
    if is_protobuf:
        node, session, data = _protobuf_emulation(await read_body(request, limit_bytes + _ENVELOPE_BYTES))
    else:
        # Commands in JSON are quoted once more here: each quotation mark and backslash becomes two characters.
        node, session, data = _json_emulation(await read_json(request, 2 * limit_bytes + _ENVELOPE_BYTES))
    if len(data) > limit_bytes + _ENVELOPE_BYTES:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"commands of more than {limit_bytes} bytes")
    is_found = await find(request, SessionOperations).emulate(node, session, data)
    return Response(status_code=204 if is_found else 404)


async def _body(request: Request) -> bytes:
    return await read_body(request, find(request, Settings).max_message_bytes + _ENVELOPE_BYTES)


def _protobuf_emulation(body: bytes) -> tuple[str, str, bytes]:
    try:
        wanted = EmulationRequest.FromString(body)
    except DecodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, "the body is no EmulationRequest") from None
    return wanted.node, wanted.session, wanted.data


def _json_emulation(wanted: object) -> tuple[str, str, bytes]:
    match wanted:
        case {"node": str(node), "session": str(session), "data": str(data)}:
            return node, session, data.encode()
    raise ClientError(ErrorCode.BAD_REQUEST, "the body has no node, session and data")


_CONTENT_TYPES = {"sse": "text/event-stream", "json": "application/json", "protobuf": "application/octet-stream"}


class CommandStreamResponse(Response):
    """Runs a session until it ends or the client disconnects. `transport_name`: http_stream or sse."""

    def __init__(self, request: Request, wire: Wire, *, transport_name: str, first: bytes) -> None:
        self.media_type = _CONTENT_TYPES["sse" if transport_name == "sse" else wire.encoding_name]
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._server = find(request, ClientServer)
        self._first = first
        codec = wire.codec

        def goodbye(disconnect: Disconnect) -> bytes:
            fields = {"code": disconnect.code, "reason": disconnect.reason}
            push = wire.frame(codec.push("", "disconnect", fields))
            return LAST_ID + push if transport_name == "sse" and disconnect.is_final else push

        self._stream = CommandStream(transport_name, goodbye)
        connection_of = partial(self._server.connection, self._stream, wire.encoding)
        self._queue = begin_session(find(request, SessionContext), wire, request.headers, connection_of)
        self._stream.connection = self._queue.session.connection
        self._stream.connection.address = address_of(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        connection, stream = self._queue.session.connection, self._stream
        with self._server.node.connected(connection):
            stream.heartbeat_slot = self._server.heartbeat.add(stream)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if stream.name == "sse":
                    # Browsers report the stream as open with its first bytes.
                    await send({"type": "http.response.body", "body": retry() + b"\n", "more_body": True})
                self._queue.on_request(self._first)
                await pump(connection, stream.drain, scope, receive, send)
            finally:
                self._server.heartbeat.remove(stream)
