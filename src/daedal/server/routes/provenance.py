"""`/v1/content_provenance_checks`: what is known of where a file comes from."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from daedal.server.files import as_file
from daedal.server.state import server_of
from daedal.trust.verify import Provenance, verify

routes = APIRouter()


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
    with as_file(data, name) as path:
        return dataclasses.replace(verify(path, tokenizer), file=name)
