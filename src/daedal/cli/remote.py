"""`daedal ps`, `stop` and `jobs`: what a server does, from another terminal."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.cli.options import AS_JSON
from daedal.errors import DaedalError

ADDRESS = "http://127.0.0.1:8765"
SERVER = Annotated[str, typer.Option(envvar="DAEDAL_SERVER", help="The server's address.")]


def call(server: str, method: str, path: str, **options: Any) -> Any:
    """The answer of a server: of JSON what it says, else bytes."""
    import httpx

    from daedal.pipelines.remote import refusal

    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.request(method, server.rstrip("/") + path, headers=headers, **options)
    except httpx.HTTPError as error:
        raise DaedalError(
            f"no server answers at {server} ({error}); start one with `daedal serve`, or give --server."
        ) from None
    if reply.status_code != 200:
        raise DaedalError(f"{server} refused: {refusal(reply)}")
    kind = reply.headers.get("content-type", "")
    return reply.json() if kind.startswith("application/json") else reply.content


def ps(server: SERVER = ADDRESS, as_json: AS_JSON = False) -> None:
    """The models that a server has loaded, and the memory that they take."""
    found = call(server, "GET", "/v1/models")
    rows = [row for row in found["data"] if row["state"] != "available"]
    if as_json:
        print(json.dumps({"models": rows, "memory": found["memory"]}, indent=2))
        return
    for row in rows:
        left = row.get("expires_in")
        stays = "busy" if row.get("busy") else "stays" if left is None else f"{left:.0f} s left"
        print(f"{row['id']:<40} {row.get('memory', 0) / 1e6:9.1f} MB  {row['state']:<8} {stays}")
    memory = found["memory"]
    print(f"{memory['used'] / 1e6:.1f} of {memory['budget'] / 1e6:,.0f} MB are in use")


def stop(
    model: Annotated[str, typer.Argument(help="A model that is loaded.")], server: SERVER = ADDRESS
) -> None:
    """Unload a model of a server."""
    call(server, "POST", "/v1/models/unload", json={"model": model}, timeout=60)


jobs = typer.Typer(
    help="The jobs of a server: list, show, get, cancel.", invoke_without_command=True
)


@jobs.callback()
def default(context: typer.Context, server: SERVER = ADDRESS) -> None:
    if context.invoked_subcommand is None:
        listed(server)


@jobs.command("list")
def listed(server: SERVER = ADDRESS, as_json: AS_JSON = False) -> None:
    """The newest jobs."""
    rows = call(server, "GET", "/v1/jobs")["data"]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        about = row["request"].get("prompt") or row["request"].get("model") or ""
        print(
            f"{row['id']}  {row['kind']:<9} {row['status']:<11} {row['progress']:5.0f} %  {about}"
        )


@jobs.command()
def show(id: str, server: SERVER = ADDRESS) -> None:
    """One job, as JSON."""
    print(json.dumps(call(server, "GET", f"/v1/jobs/{id}"), indent=2))


@jobs.command()
def get(
    id: str,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the result.")],
    index: Annotated[int, typer.Option(help="Which of the results.")] = 0,
    server: SERVER = ADDRESS,
) -> None:
    """Write a result of a job to a file."""
    from daedal.files import check_writable, write_whole

    check_writable(output)
    write_whole(output, call(server, "GET", f"/v1/jobs/{id}/content", params={"index": index}))
    print(output)


@jobs.command()
def cancel(id: str, server: SERVER = ADDRESS) -> None:
    """Stop a job."""
    print(call(server, "POST", f"/v1/jobs/{id}/cancel")["status"])
