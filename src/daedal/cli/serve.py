"""`daedal serve`: the HTTP server and the studio."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from daedal.errors import DaedalError

LOCAL = ("127.0.0.1", "localhost", "::1")


Names = list[str] | None
Option = typer.Option
HOST = Annotated[str, Option(help="Address to listen on.")]
PORT = Annotated[int, Option(help="Port; 0 takes a free one.")]
MODEL = Annotated[
    Names,
    Option(help="A model to offer beside those here, and a name for it.", metavar="[NAME=]MODEL"),
]
ALIAS = Annotated[Names, Option(help="A name that clients use for a model.", metavar="NAME=MODEL")]
PIN = Annotated[Names, Option(help="Load this model now and keep it.")]
MEMORY = Annotated[float | None, Option(help="GB that all models together may take.")]
KEEP = Annotated[float, Option(help="Seconds that an idle model stays; below 0 for ever.")]
QUEUE = Annotated[int, Option(help="Requests of a model that may wait.")]
KEYS = Annotated[Path | None, Option(help="File of API keys; needed on any address but localhost.")]
ORIGIN = Annotated[Names, Option(help="A web page's address that may call from a browser.")]
MODERATE = Annotated[
    bool,
    Option("--moderate", help="Refuse harmful requests, and stop answers that become harmful."),
]
LOG = Annotated[bool, Option("--log", help="A JSON line for every request, on standard error.")]
FOLDER = Annotated[Path | None, Option(help="Where jobs and files are kept.")]
QUANTIZE = Annotated[str | None, Option(help="Pack weights of language models on loading: 8, 4.")]
RAY = Annotated[int | None, Option(help="As so many replicas of Ray Serve (extra: cluster).")]
DEVICE = Annotated[str, Option(help="auto, cpu, cuda, mps.")]
DTYPE = Annotated[str, Option(help="auto, fp32, bf16, fp16.")]
DOCUMENTS = Annotated[
    Path | None, Option(help="An indexed folder that chats may be answered from (documents: true).")
]
TOOLS = Annotated[
    str | None,
    Option(
        help="Tools that a chat may have called here (run_tools) beside calculator, time and python: documents:FOLDER, files:FOLDER, memory, image:FOLDER, ..."
    ),
]


def serve(
    host: HOST = "127.0.0.1",
    port: PORT = 8765,
    model: MODEL = None,
    alias: ALIAS = None,
    pin: PIN = None,
    memory: MEMORY = None,
    keep_alive: KEEP = 300,
    queue: QUEUE = 32,
    keys: KEYS = None,
    origin: ORIGIN = None,
    moderate: MODERATE = False,
    log: LOG = False,
    folder: FOLDER = None,
    quantize: QUANTIZE = None,
    ray: RAY = None,
    device: DEVICE = "auto",
    dtype: DTYPE = "auto",
    documents: DOCUMENTS = None,
    tools: TOOLS = None,
) -> None:
    """Serve every medium over HTTP, with the studio as a page."""
    if host not in LOCAL and keys is None:
        raise DaedalError(
            f"{host} can be reached by others, and there are no API keys; give --keys FILE, or leave --host out."
        )
    if memory is not None:
        os.environ["DAEDAL_MEMORY"] = str(memory)
    from daedal.server.run import listen
    from daedal.server.state import Options

    options = Options(
        folder=folder or default_folder(),
        host=host,
        models=pairs(model, bare=True),
        aliases=pairs(alias),
        pinned=pin or [],
        keep_alive=keep_alive,
        queue=queue,
        loading={k: v for k, v in dict(quantize=quantize, device=device, dtype=dtype).items() if v},
        keys=keys,
        origins=origin or [],
        documents=documents,
        tools=tuple(filter(None, (tools or "").split(","))),
        moderate=moderate,
    )
    if ray is not None:
        from daedal.server.cluster import deploy

        deploy(options, port, ray)
    else:
        listen(options, port, log)


def default_folder() -> Path:
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return data / "daedal" / "server"


def pairs(given: list[str] | None, bare: bool = False) -> dict[str, Any]:
    """NAME=MODEL -> {name: model}; with `bare`, MODEL alone is its own name."""
    found = {}
    for text in given or []:
        name, mark, model = text.partition("=")
        if not (mark and name and model) and not (bare and not mark):
            raise DaedalError(f"{text!r} is not NAME=MODEL; write for example gpt-4o=house/chat.")
        found[name if mark else Path(name).stem] = model if mark else name
    return found
