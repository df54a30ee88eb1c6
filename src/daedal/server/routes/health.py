"""`/health`, `/ready`, `/metrics`."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from daedal import __version__
from daedal.engine.store import STORE
from daedal.server.state import server_of

routes = APIRouter()


@routes.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Whether the server lives, and what it holds."""
    server = server_of(request)
    return {
        "status": "ok" if server.driver.alive else "failing",
        "version": __version__,
        "generations": sum(server.admission.under_way.values()),
        "sandbox": server.confines,
        "engine_restarts": server.driver.restarts,
        "memory": {"used": STORE.used, "budget": STORE.budget},
    }


@routes.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Whether it takes requests: not while it shuts down."""
    draining = server_of(request).draining
    return JSONResponse({"ready": not draining}, 503 if draining else 200)


@routes.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Counts and times for Prometheus."""
    text = server_of(request).metrics.text()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
