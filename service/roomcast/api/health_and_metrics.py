"""Endpoints for operators: health, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from roomcast.api.api_context import ApiContext
from roomcast.web.state import find

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return 200 while the process runs, also without Redis: restarting a node does not restore Redis."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Return 200 if the node can deliver, or 503 with the reason, such as Redis being unavailable."""
    reason = find(request, ApiContext).node.reason_not_ready()
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": reason}, 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the node's counters and gauges in Prometheus's text format."""
    return Response(generate_latest(find(request, CollectorRegistry)), media_type=CONTENT_TYPE_LATEST)
