"""`/v1/evaluations`: a model measured by `daedal eval`, as a job whose report is its detail."""

import json
import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from daedal.pipelines import registry
from daedal.server import processes
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.jobs import Running
from daedal.server.routes.jobs import as_object
from daedal.server.state import Server, client_of, server_of
from daedal.settings import check, settings_of

routes = APIRouter()

WORLD = re.compile(r"(tales|scenes)(:[\w:]{0,40})?", re.ASCII)  # data that a program makes
FILES = ("data", "sheet", "plot", "features", "tasks")  # settings that name something


class EvaluationBody(Body):
    """What to measure. `data` is generated (`tales:200:1`), or the id of an uploaded file of texts;
    `settings` are those of `daedal eval` that are numbers or words."""

    model: str
    data: str | None = None
    settings: dict[str, Any] = {}


def arguments(server: Server, asked: dict[str, Any], owner: str, folder: Path) -> list[str]:
    """The arguments of `daedal eval`."""
    source = server.models.source(server.models.resolved(asked["model"], "text"))
    medium = registry.medium_of(source)
    if medium is None:
        raise ApiError(400, f"{asked['model']} makes no content that is measured.", param="model")
    known = settings_of(medium.measuring)
    args = ["eval", source, "--json"]
    for name, value in asked["settings"].items():
        if name not in known or name in FILES or not isinstance(value, int | float | str):
            raise ApiError(400, f"{name!r} is no setting of this measuring.", param="settings")
        check(name, value, known[name][1])
        args.append(f"--{name.replace('_', '-')}={value}")
    if asked["data"]:
        args.append(f"--data={data_of(server, asked['data'], owner, folder)}")
    return args


def data_of(server: Server, name: str, owner: str, folder: Path) -> str:
    """Generated data by its name; an uploaded file under its own suffix, which says its form."""
    if WORLD.fullmatch(name):
        return name
    file = server.files.path(name)  # of a name that is an id
    row = server.files.get(name, owner)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"data{Path(row['name']).suffix}"
    link.unlink(missing_ok=True)
    link.symlink_to(file.resolve())
    return str(link)


async def evaluate(server: Server, job: Running) -> None:
    """The work of a measuring."""
    folder = server.folder.resolve() / "measured" / job.id
    args = await server.run(arguments, server, job.request, job.owner, folder)
    printed = await processes.verb(args, folder / "log.txt")
    job.update(1.0, report=json.loads(printed))


@routes.post("/v1/evaluations")
async def create(request: Request, body: EvaluationBody) -> dict[str, Any]:
    """Measure a model, as a job."""
    server, owner, asked = server_of(request), client_of(request), body.model_dump()
    scratch = server.folder.resolve() / "measured" / "asked"
    await server.run(arguments, server, asked, owner, scratch)
    return as_object(server.jobs.submit("evaluate", asked, owner))


@routes.get("/v1/evaluations")
async def list_evaluations(request: Request) -> dict[str, Any]:
    """What was measured, newest first: jobs, with `detail.report` once they are completed."""
    query = "SELECT * FROM jobs WHERE owner = ? AND kind = 'evaluate' ORDER BY created DESC, id"
    rows = server_of(request).database.rows(query, client_of(request))
    return {"object": "list", "data": [as_object(row) for row in rows]}
