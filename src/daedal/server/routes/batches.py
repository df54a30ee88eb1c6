"""`/v1/batches`: a file of requests, answered one by one as a job, into a file of answers."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter, Query, Request

from daedal.server.errors import ApiError, not_found
from daedal.server.fields import Body
from daedal.server.jobs import ENDED, Running
from daedal.server.pages import page
from daedal.server.routes.jobs import settled
from daedal.server.state import Server, client_of, server_of

routes = APIRouter()

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/images/generations",
    "/v1/images/edits",
]
STATUS = {"queued": "validating", "in_progress": "in_progress", "completed": "completed"}
SIDE_BY_SIDE = 8  # requests of one batch


class BatchBody(Body):
    input_file_id: str
    endpoint: Endpoint
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


def lines_of(data: bytes, endpoint: str) -> Iterator[dict[str, Any]]:
    """The requests of an input file, checked."""
    seen = set()
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            id, body = row["custom_id"], row["body"]
        except (ValueError, KeyError, TypeError):
            raise ApiError(
                400,
                f"line {number} is not a JSON object with custom_id, method, url and body.",
                "invalid_json_line",
            ) from None
        if row.get("url") != endpoint or not isinstance(body, dict) or not isinstance(id, str):
            raise ApiError(
                400,
                f"line {number} asks for {row.get('url')!r}, and the batch is of {endpoint}.",
                "mismatched_endpoint",
            )
        if id in seen:
            raise ApiError(
                400,
                f"custom_id {id!r} stands on two lines (the second is {number}).",
                "duplicate_custom_id",
            )
        seen.add(id)
        yield row


def as_object(row: dict[str, Any]) -> dict[str, Any]:
    """A batch in OpenAI's words."""
    asked, detail = row["request"], row["detail"]
    errors = None
    if row["status"] == "failed":
        errors = {"object": "list", "data": [{**row["error"], "line": None, "param": None}]}
    stopping = detail.get("cancelling") and row["status"] not in ENDED

    def at(key: str, *statuses: str) -> int | None:
        return int(row[key]) if row[key] and (not statuses or row["status"] in statuses) else None

    found = {
        "id": row["id"].replace("job_", "batch_"),
        "object": "batch",
        "endpoint": asked["endpoint"],
        "errors": errors,
        "input_file_id": asked["input_file_id"],
        "completion_window": asked["completion_window"],
        "status": "cancelling" if stopping else STATUS.get(row["status"], row["status"]),
        "output_file_id": detail.get("output_file_id"),
        "error_file_id": detail.get("error_file_id"),
        "created_at": int(row["created"]),
        "in_progress_at": at("started"),
        "expires_at": at("expires"),
        "finalizing_at": at("ended", "completed"),
        "completed_at": at("ended", "completed"),
        "failed_at": at("ended", "failed"),
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": at("ended", "cancelled"),
        "request_counts": detail.get("counts", {"total": 0, "completed": 0, "failed": 0}),
        "metadata": asked.get("metadata"),
    }
    return {key: value for key, value in found.items() if value is not None}


async def run(server: Server, app: Any, job: Running) -> None:
    """The work of a batch: each line is a request to this very application."""
    asked, files = job.request, server.files
    files.get(asked["input_file_id"], job.owner)
    data = await server.run(files.path(asked["input_file_id"]).read_bytes)
    rows = list(lines_of(data, asked["endpoint"]))
    counts = {"total": len(rows), "completed": 0, "failed": 0}
    outputs: dict[int, dict[str, Any]] = {}
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def own(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "daedal.client": job.owner}, receive, send)

    transport = httpx.ASGITransport(app=own, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://batch", timeout=None
    ) as client:

        async def one(number: int, row: dict[str, Any]) -> None:
            async with room:
                outputs[number] = await answered(client, row)
            good = outputs[number]["response"]["status_code"] == 200
            counts["completed" if good else "failed"] += 1
            job.update((counts["completed"] + counts["failed"]) / len(rows), counts=counts)

        try:
            async with asyncio.TaskGroup() as group:
                for number, row in enumerate(rows):
                    group.create_task(one(number, row))
        finally:  # what is done is kept, also of a batch that is cancelled
            written(job, [outputs[number] for number in sorted(outputs)], counts)


def written(job: Running, outputs: list[dict[str, Any]], counts: dict[str, int]) -> None:
    found = {}
    good = [row for row in outputs if row["response"]["status_code"] == 200]
    for key, rows in (("output", good), ("error", [row for row in outputs if row not in good])):
        if rows:
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            found[f"{key}_file_id"] = job.result(data, f"{job.id}_{key}.jsonl", keep=True)
    job.update(job.row["progress"], counts=counts, **found)


async def answered(client: httpx.AsyncClient, row: dict[str, Any]) -> dict[str, Any]:
    """One line's answer. A full queue is waited for."""
    while True:
        body = {key: value for key, value in row["body"].items() if key != "stream"}
        reply = await client.post(row["url"], json=body)
        if reply.status_code != 429:
            break
        await asyncio.sleep(float(reply.headers.get("retry-after-ms", "1000")) / 1000)
    response = {
        "status_code": reply.status_code,
        "request_id": reply.headers.get("x-request-id", ""),
        "body": reply.json(),
    }
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": row["custom_id"],
        "response": response,
        "error": None,
    }


@routes.post("/v1/batches")
async def create(request: Request, body: BatchBody) -> dict[str, Any]:
    """Have a file of requests answered."""
    server, owner = server_of(request), client_of(request)
    server.files.get(body.input_file_id, owner)
    return as_object(server.jobs.submit("batch", body.model_dump(), owner))


def batch_row(server: Server, id: str, owner: str) -> dict[str, Any]:
    if not id.startswith("batch_"):
        raise not_found("batch", id)
    row = server.jobs.get(id.replace("batch_", "job_", 1), owner)
    if row["kind"] != "batch":
        raise not_found("batch", id)
    return row


@routes.get("/v1/batches")
async def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> dict[str, Any]:
    """The batches of this client, newest first."""
    wanted = {"owner": client_of(request), "kind": "batch"}
    behind = after and after.replace("batch_", "job_", 1)
    rows = server_of(request).database.listed("jobs", limit + 1, behind, **wanted)
    return page([as_object(row) for row in rows], limit)


@routes.get("/v1/batches/{id}")
async def get_batch(request: Request, id: str) -> dict[str, Any]:
    """How a batch stands."""
    return as_object(batch_row(server_of(request), id, client_of(request)))


@routes.post("/v1/batches/{id}/cancel")
async def cancel_batch(request: Request, id: str) -> dict[str, Any]:
    """Stop a batch; the answers that it has are kept."""
    server, owner = server_of(request), client_of(request)
    row = batch_row(server, id, owner)
    server.jobs.cancel(row["id"], owner)
    return as_object(await settled(server, row["id"], owner))
