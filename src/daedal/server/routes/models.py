"""`/v1/models`: what can be asked for, what it can do, what is loaded; loading and unloading."""

import re
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from daedal.checkpoints import catalogue
from daedal.engine.store import STORE
from daedal.pipelines.place import located
from daedal.server import processes
from daedal.server.errors import ApiError, not_found
from daedal.server.fields import Body
from daedal.server.jobs import Running
from daedal.server.models import capabilities, weight_bytes
from daedal.server.routes.jobs import as_object
from daedal.server.state import Server, client_of, server_of
from daedal.server.trainings import name_of

routes = APIRouter()


def described(server: Server, name: str) -> dict[str, Any]:
    """A model in OpenAI's words, and what else a client may want to know of it."""
    loaded = {key: (size, busy) for key, size, busy in server.models.loaded()}
    use = server.models.uses.get(name)
    state = "loaded" if name in loaded else "loading" if use and use.loading else "available"
    source = server.models.source(name)
    own = name.startswith("house/")
    row: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": int(server.started),
        "owned_by": "daedal" if own else name.partition("/")[0],
        "capabilities": list(capabilities(source)),
        "state": state,
        "size": weight_bytes(source),
    }
    if name in loaded:
        size, busy = loaded[name]
        row |= {"memory": size, "busy": busy, "expires_in": finite(server.models.expires(name))}
    if use and use.error:
        row["error"] = use.error
    return row


def finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else round(max(seconds, 0.0), 1)


@routes.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that can be asked for, and the memory that they share."""
    server = server_of(request)
    rows = [described(server, name) for name in server.models.names()]
    memory = {"used": STORE.used, "budget": STORE.budget}
    return {"object": "list", "data": rows, "memory": memory}


@routes.get("/v1/catalogue")
async def list_catalogue(request: Request) -> dict[str, Any]:
    """The models that can be pulled."""
    rows = [
        {
            "id": entry.name,
            "object": "catalogue_entry",
            "good_for": entry.good_for,
            "licence": entry.licence,
            "source": entry.source,
            "size": entry.size,
            "here": catalogue.place(entry.name) is not None,
        }
        for entry in catalogue.entries().values()
    ]
    return {"object": "list", "data": rows}


class LoadBody(Body):
    model: str
    keep_alive: float | None = None  # seconds; below 0 for ever


@routes.post("/v1/models/load")
async def load(request: Request, body: LoadBody) -> dict[str, Any]:
    """Load a model now, and keep it for as long as is asked."""
    server = server_of(request)
    name = server.models.resolved(body.model, "text")
    async with server.models.lent(name):
        server.models.uses[name].keep_alive = body.keep_alive
    return described(server, name)


@routes.post("/v1/models/unload")
async def unload(request: Request, body: LoadBody) -> dict[str, Any]:
    """Unload a model that is idle."""
    server = server_of(request)
    name = server.models.resolved(body.model, "text")
    if not server.models.unload(name):
        raise ApiError(409, f"{name} is in use; unload it when it is idle.", "busy", "model")
    return described(server, name)


class PullBody(Body):
    model: str


@routes.post("/v1/models/pull")
async def pull(request: Request, body: PullBody) -> dict[str, Any]:
    """Bring a model of the catalogue to this machine, as a job. Only the catalogue's: what a client
    names is not fetched."""
    server = server_of(request)
    if body.model not in catalogue.entries():
        raise not_found("model in the catalogue", body.model)
    row = server.jobs.submit("pull", {"model": body.model}, client_of(request))
    return as_object(row)


async def pulled(server: Server, job: Any) -> None:
    """The work of such a job."""
    last = 0.0

    def update(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.3:
            last = time.monotonic()
            job.update(done / total if total else 0.0, bytes=done, total=total)

    path = await server.run(catalogue.pull, job.request["model"], update)
    job.update(1.0, path=path.name)


class QuantizeBody(Body):
    """A model to pack to 8 or 4 bits; the result is offered as packed/NAME."""

    model: str
    bits: Literal[4, 8] = 8
    name: str | None = None


@routes.post("/v1/models/quantize")
async def quantize(request: Request, body: QuantizeBody) -> dict[str, Any]:
    """Pack a model's weights, as a job."""
    server = server_of(request)
    model = server.models.resolved(body.model, "text")
    stem = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name_of(body.name or f"{stem}-{body.bits}bit"[-40:].strip("-"), "model")
    if (server.folder / "packed" / name).exists():
        raise ApiError(409, f"there is a model packed/{name}; take another name.", "exists", "name")
    asked = {"model": model, "bits": body.bits, "name": name}
    return as_object(server.jobs.submit("quantize", asked, client_of(request)))


async def quantized(server: Server, job: Running) -> None:
    """The work of such a job. What is half written has no name that is offered."""
    asked, folder = job.request, server.folder.resolve() / "packed"
    out, part = folder / asked["name"], folder / f"{asked['name']}.part"
    if out.exists():
        raise ApiError(409, f"there is a model packed/{out.name} by now.", "exists", "name")
    shutil.rmtree(part, ignore_errors=True)
    source, bits = server.models.source(asked["model"]), str(asked["bits"])
    args = ["quantize", source, str(part), "--bits", bits]
    await processes.verb(args, folder / f"{out.name}.log")
    part.rename(out)
    server.models.forget(f"packed/{out.name}")
    job.update(1.0, model=f"packed/{out.name}", bytes=weight_bytes(str(out)))


@routes.get("/v1/models/{name:path}/card")
async def card(request: Request, name: str) -> PlainTextResponse:
    """The model card of a model whose folder has one, Markdown."""
    server = server_of(request)
    file = located(server.models.source(server.models.resolved(name, "text"))) / "README.md"
    if not file.is_file():
        raise not_found("model card of", name)
    return PlainTextResponse(file.read_text(encoding="utf-8"), media_type="text/markdown")


@routes.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """One model."""
    server = server_of(request)
    return described(server, server.models.resolved(name, "text"))


@routes.delete("/v1/models/{name:path}")
async def delete(request: Request, name: str) -> dict[str, Any]:
    """Delete a model that was packed here. What was trained goes with its training; what was pulled
    or came with the package stays."""
    server = server_of(request)
    folder = packed_folder(server, name)
    if not server.models.forget(name):
        raise ApiError(409, f"{name} is in use; delete it when it is idle.", "busy", "model")
    await server.run(shutil.rmtree, folder)
    return {"id": name, "object": "model", "deleted": True}


def packed_folder(server: Server, name: str) -> Path:
    """The folder of a model that was packed here."""
    kind, _, stem = name.partition("/")
    folder = server.folder / "packed" / (name_of(stem, "model") if kind == "packed" else "")
    if kind != "packed" or not folder.is_dir():
        raise not_found("packed model", name)
    return folder
