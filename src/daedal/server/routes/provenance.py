"""`/v1/content_provenance_checks`: what is known of where a file comes from."""

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from daedal.server.state import server_of
from daedal.trust.verify import Provenance, verify

routes = APIRouter()
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@routes.post("/v1/content_provenance_checks")
async def check(
    request: Request,
    file: Annotated[UploadFile, File()],
    model: Annotated[str | None, Form()] = None,
) -> dict[str, Any]:
    """Manifest, registry, recipe and watermark of a file; a text is tested for the watermark with
    the tokenizer of `model`. The registry answers only where there are no keys: it would tell one
    client what others made."""
    server, name = server_of(request), Path(file.filename or "file").name[:255]
    data, tokenizer = await file.read(), None
    if model:
        async with server.models.lent(server.models.resolved(model, "text")) as pipeline:
            tokenizer = pipeline.tokenizer
    found = await server.run(known, data, name, tokenizer)
    if server.options.keys is not None:
        found = dataclasses.replace(found, registry=())
    return {"object": "content_provenance_check"} | found.as_dict()


def known(data: bytes, name: str, tokenizer: Any) -> Provenance:
    """What `daedal verify` knows of the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = Path(name).suffix
        path = Path(folder) / f"file{suffix if SUFFIX.fullmatch(suffix) else ''}"
        path.write_bytes(data)
        return dataclasses.replace(verify(path, tokenizer), file=name)
