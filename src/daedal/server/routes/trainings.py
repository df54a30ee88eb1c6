"""`/v1/recipes` and `/v1/trainings`: recipes, runs made of them, how they go, what they made."""

import json
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse

from daedal.server import preferences, processes
from daedal.server.errors import ApiError, not_found
from daedal.server.fields import Body
from daedal.server.jobs import ENDED, Running
from daedal.server.models import capabilities
from daedal.server.pages import BYTES
from daedal.server.routes.jobs import settled
from daedal.server.state import Server, client_of, server_of
from daedal.server.trainings import (
    Recipe,
    Run,
    begun,
    name_of,
    overrides,
    recipe_named,
    recipes,
    run_named,
    runs,
    schema_of,
)

routes = APIRouter()


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe, in short."""
    values = recipe.values
    return {
        "id": recipe.id,
        "object": "recipe",
        "task": values.get("task", "pretrain"),
        "about": recipe.about,
        "steps": values.get("steps"),
    }


@routes.get("/v1/recipes")
async def list_recipes(request: Request) -> dict[str, Any]:
    """The recipes that a training can be started from."""

    def look() -> list[dict[str, Any]]:
        return [described(recipe) for recipe in recipes().values()]

    return {"object": "list", "data": await server_of(request).run(look)}


@routes.get("/v1/recipes/{name:path}")
async def get_recipe(request: Request, name: str) -> dict[str, Any]:
    """A recipe: its text, what it sets, and the schema of everything that it could set."""

    def look() -> dict[str, Any]:
        found = recipe_named(name)
        more = {"yaml": found.text, "values": found.values, "schema": schema_of(found)}
        return described(found) | more

    return await server_of(request).run(look)


class TrainingBody(Body):
    """A run to start. `settings` are keys of the recipe, with dots for its sections; `preferences`
    names a file of pairs that was labelled here, which takes the place of the recipe's data."""

    recipe: str
    name: str | None = None
    settings: dict[str, Any] = {}
    preferences: str | None = None


def with_pairs(server: Server, recipe: Recipe, name: str) -> list[str]:
    """Arguments by which a run learns from a file of pairs, and from nothing else."""
    source = json.dumps([{"path": str(preferences.named(server.folder, name).path)}])
    given = [f"data.train={source}"]
    values = recipe.values
    if values.get("data", {}).get("validation"):
        given.append(f"data.validation={source}")
    return [*given, "sampled=null"] if "sampled" in values else given


def arguments(server: Server, asked: dict[str, Any]) -> tuple[Recipe, list[str]]:
    """The recipe of a training and the arguments of `daedal train` behind it, checked."""
    recipe = recipe_named(asked["recipe"])
    folder = server.folder / "runs" / name_of(asked["name"], "run")

    def model(name: str) -> str:
        return server.models.source(server.models.resolved(name, "text"))

    pairs = with_pairs(server, recipe, asked["preferences"]) if asked["preferences"] else []
    return recipe, [*pairs, *overrides(recipe, asked["settings"], folder.resolve(), model)]


@routes.post("/v1/trainings")
async def start(request: Request, body: TrainingBody) -> dict[str, Any]:
    """Start a training, as a job."""
    server = server_of(request)
    if body.name is None:
        body.name = unused(server, body.recipe.rpartition("/")[2])
    asked = body.model_dump()
    await server.run(arguments, server, asked)
    run = await server.run(begun, server.folder, body.name, asked)
    server.jobs.submit("train", asked, client_of(request))
    return await server.run(state, server, run)


def unused(server: Server, stem: str) -> str:
    stem = "".join(c if c.isalnum() else "-" for c in stem.lower()).strip("-") or "run"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (server.folder / "runs" / name).exists())


async def train(server: Server, job: Running) -> None:
    """The work of a training."""
    recipe, given = await server.run(arguments, server, job.request)
    run = run_named(server.folder, job.request["name"])

    def look() -> None:
        last = run.last()
        if last and last.get("step") != job.row["detail"].get("step"):
            numbers = {key: last[key] for key in ("step", "loss", "seconds") if key in last}
            steps = run.steps()
            job.update(min(last["step"] / max(steps, 1), 1.0), steps=steps, **numbers)

    args = ["train", str(recipe.path), *given]
    await processes.verb(args, run.folder / "log.txt", recipe.base, look)
    server.models.forget(f"runs/{run.name}")


def job_of(server: Server, run: Run) -> dict[str, Any]:
    """The last job of a run."""
    rows = server.database.rows("SELECT * FROM jobs WHERE kind = 'train' ORDER BY created DESC, id")
    return next((row for row in rows if row["request"]["name"] == run.name), {})


def state(server: Server, run: Run) -> dict[str, Any]:
    """A run as clients see it."""
    job, last, steps = job_of(server, run), run.last(), run.steps()
    return {
        "id": run.name,
        "object": "training",
        "recipe": run.asked.get("recipe"),
        "settings": run.asked.get("settings", {}),
        "status": job.get("status") or ("completed" if run.model else "cancelled"),
        "error": job.get("error"),
        "job": job.get("id"),
        "step": last.get("step", 0),
        "steps": steps,
        "loss": last.get("loss"),
        "seconds": last.get("seconds"),
        "model": f"runs/{run.name}" if run.model else None,
        "created_at": int(job.get("created") or run.folder.stat().st_mtime),
    }


@routes.get("/v1/trainings")
async def list_trainings(request: Request) -> dict[str, Any]:
    """The trainings of this server, newest first."""
    server = server_of(request)

    def look() -> list[dict[str, Any]]:
        return [state(server, run) for run in runs(server.folder)]

    return {"object": "list", "data": await server.run(look)}


@routes.get("/v1/trainings/{name}")
async def get_training(request: Request, name: str) -> dict[str, Any]:
    """How a training stands."""
    server = server_of(request)
    return await server.run(state, server, run_named(server.folder, name))


@routes.get("/v1/trainings/{name}/metrics")
async def metrics(
    request: Request,
    name: str,
    after: Annotated[int, Query(ge=0)] = 0,
    points: Annotated[int, Query(ge=0, le=100_000)] = 1000,
) -> dict[str, Any]:
    """Its numbers: of each step behind `after`, thinned out to `points`, and of evaluations."""
    server = server_of(request)
    run = run_named(server.folder, name)
    return {
        "object": "training.metrics",
        "steps": await server.run(run.rows, "metrics.jsonl", after, points),
        "evaluations": await server.run(run.rows, "evaluations.jsonl", after, points),
    }


@routes.get("/v1/trainings/{name}/samples")
async def samples(request: Request, name: str) -> dict[str, Any]:
    """What it made on its way: names of pictures, and lines of its log, where texts are."""
    server = server_of(request)
    run = run_named(server.folder, name)
    pictures, log = [path.name for path in run.samples()], await server.run(run.log)
    return {"object": "training.samples", "pictures": pictures, "log": log}


@routes.get("/v1/trainings/{name}/samples/{file}", responses=BYTES)
async def sample(request: Request, name: str, file: str) -> FileResponse:
    """A picture that it made."""
    found = {path.name: path for path in run_named(server_of(request).folder, name).samples()}
    if file not in found:
        raise not_found("sample", file)
    return FileResponse(found[file])


@routes.post("/v1/trainings/{name}/stop")
async def stop(request: Request, name: str) -> dict[str, Any]:
    """Stop a training: it writes a checkpoint, from which it can be resumed."""
    server = server_of(request)
    run = run_named(server.folder, name)
    if job := job_of(server, run):
        server.jobs.cancel(job["id"], job["owner"])
        await settled(server, job["id"], job["owner"])
    return await server.run(state, server, run)


@routes.post("/v1/trainings/{name}/resume")
async def resume(request: Request, name: str) -> dict[str, Any]:
    """Go on where a training stopped, as a new job."""
    server = server_of(request)
    run = run_named(server.folder, name)
    job = job_of(server, run)
    if job and job["status"] not in ENDED:
        raise ApiError(409, f"{name} runs, or is about to.", "busy")
    server.jobs.submit("train", run.asked, client_of(request))
    return await server.run(state, server, run)


@routes.delete("/v1/trainings/{name}")
async def delete(request: Request, name: str) -> dict[str, Any]:
    """Delete a training and what it made."""
    server = server_of(request)
    run = run_named(server.folder, name)
    job = job_of(server, run)
    if job and job["status"] not in ENDED:
        raise ApiError(409, f"{name} still runs; stop it first.", "busy")
    if not server.models.forget(f"runs/{name}"):
        raise ApiError(409, f"runs/{name} is in use; delete it when it is idle.", "busy")
    await server.run(shutil.rmtree, run.folder)
    if job:
        server.jobs.delete(job["id"], job["owner"])
    capabilities.cache_clear()  # another run may take the name, of another medium
    return {"id": name, "object": "training", "deleted": True}
