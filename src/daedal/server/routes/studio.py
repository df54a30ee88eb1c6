"""The studio: a page at `/`, whose files lie in `server/studio`. It talks to the public API alone.

Only files that are there when the server starts are answered, by a name in a table: no path of a
request reaches the disk. Every file carries its digest as ETag, so a browser asks again and is
told that nothing has changed, and a policy under which no script runs but these."""

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from daedal.server.errors import not_found
from daedal.server.pages import BYTES

routes = APIRouter()

FOLDER = Path(__file__).parent.parent / "studio"
POLICY = "; ".join([
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "media-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",  # kept, and asked for by its ETag each time
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Static:
    """A file of the page."""

    data: bytes
    kind: str
    tag: str


@cache
def files() -> dict[str, Static]:
    """Every file of the page, by its path below the folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
            tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
            name = path.relative_to(FOLDER).as_posix()
            found[name] = Static(data, kind or "application/octet-stream", tag)
    return found


def answer(request: Request, name: str) -> Response:
    """A file, or that the one a browser has is still it."""
    file = files().get(name)
    if file is None:
        raise not_found("file of the studio", name)
    headers = HEADERS | {"etag": file.tag}
    tags = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if file.tag in tags:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.kind, headers=headers)


@routes.head("/", include_in_schema=False)
@routes.get("/", responses=BYTES)
async def root(request: Request) -> Response:
    """The studio, to a browser; to programs the words by which Ollama's clients know a server."""
    if "text/html" in request.headers.get("accept", ""):
        return answer(request, "index.html")
    return PlainTextResponse("Ollama is running", headers={"vary": "accept"})


@routes.get("/favicon.ico", include_in_schema=False)
async def icon(request: Request) -> Response:
    return answer(request, "icon.svg")


@routes.get("/studio", include_in_schema=False)
@routes.get("/studio/{name:path}", include_in_schema=False)
async def page(request: Request, name: str = "") -> Response:
    """A file of the studio."""
    return answer(request, name or "index.html")
