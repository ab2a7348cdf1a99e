"""`POST /api/ticket`: a way into one plain connection, for clients that have no place for a token but the URL."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import Field

from roomcast.api.api_key import check_api_key
from roomcast.api.request_models import ApiRequest, example, validated
from roomcast.bodies import read_json
from roomcast.config import Settings
from roomcast.rooms.authentication import Admission
from roomcast.web.state import find

router = APIRouter(tags=["rooms"])


class TicketRequest(ApiRequest):
    """Whom a ticket is for: claims as in a connection token."""

    model_config = example({"user": "42", "info": {"name": "Ada"}})

    user: str = Field("", description="empty: nobody known")
    info: Any = Field(None, description="any JSON, which others see")  # Any: JSON
    permissions: list[dict[str, list[str]]] = Field(
        [], description='what the client may do beside its namespaces: [{"channels": ["room:*"], "allow": ["publish"]}]'
    )


@router.post(
    "/api/ticket",
    response_class=Response,
    summary="Get a ticket, which opens one connection.",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": TicketRequest.model_json_schema()}}}},
)
async def ticket(
    request: Request,
    key: Annotated[str | None, Header(alias="X-API-Key")] = None,
    authorization: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a ticket, `{"result": {"ticket": "..."}}`, good for 30 s and one connection: `/sse/rooms/x?ticket=...`.

    A client sends its token (`Authorization: Bearer`), and gets a ticket for itself; a service sends the API key, and
    says in the body whom the ticket is for. Errors have HTTP statuses: 401 (101, 109), 400 (107).
    """
    admission = find(request, Admission)
    made = await admission.ticket_for_bearer(request)
    if made is None:
        await check_api_key(request, key, authorization)
        wanted = validated(TicketRequest, await read_json(request, find(request, Settings).max_message_bytes))
        made = await admission.ticket_for({"sub": wanted.user, "info": wanted.info, "permissions": wanted.permissions})
    return Response(
        orjson.dumps({"result": {"ticket": made}}),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
