"""`POST /api/ticket`: authenticates one plain connection of a client that can put a credential only into the URL."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import Field

from roomcast.api.api_key import check_api_key
from roomcast.api.request_models import ApiRequest, example, validated
from roomcast.bodies import read_json
from roomcast.config import Settings
from roomcast.model.json import Json
from roomcast.rooms.authentication import Authenticator
from roomcast.web.state import find

router = APIRouter(tags=["rooms"])


class TicketRequest(ApiRequest):
    """The client that a ticket is for: claims as in a connection token."""

    model_config = example({"user": "42", "info": {"name": "Ada"}})

    user: str = Field("", description="empty: anonymous")
    info: Json = Field(None, description="JSON about the client for others")
    permissions: list[dict[str, list[str]]] = Field(
        [], description='in addition to those of namespaces: [{"channels": ["room:*"], "allow": ["publish"]}]'
    )


@router.post(
    "/api/ticket",
    response_class=Response,
    summary="Get a ticket for one connection.",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": TicketRequest.model_json_schema()}}}},
)
async def ticket(
    request: Request,
    key: Annotated[str | None, Header(alias="X-API-Key")] = None,
    authorization: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a ticket, `{"result": {"ticket": "..."}}`, valid for 30 s and one connection: `/sse/rooms/x?ticket=...`.

    An event stream opens again with its ticket, without another request. A client sends its token
    (`Authorization: Bearer`), and gets a ticket for itself. A service sends the API key, and the claims of a client in
    the body. Errors have HTTP statuses: 401 (101, 109), 400 (107).
    """
    authenticator = find(request, Authenticator)
    made = await authenticator.ticket_for_bearer(request)
    if made is None:
        await check_api_key(request, key, authorization)
        wanted = validated(TicketRequest, await read_json(request, find(request, Settings).max_message_bytes))
        claims = {"sub": wanted.user, "info": wanted.info, "permissions": wanted.permissions}
        made = await authenticator.ticket_for(claims)
    return Response(
        orjson.dumps({"result": {"ticket": made}}),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
