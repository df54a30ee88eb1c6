"""`/v1/embeddings`."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.models import embedder_of
from daedal.server.routes.chat import reply_of
from daedal.server.state import client_of, server_of, while_connected

routes = APIRouter()

Ids = list[Annotated[int, Field(ge=0)]]


class EmbeddingBody(Body):
    model: str | None = None
    input: str | Ids | list[str] | list[Ids]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1)] = None
    user: str | None = None
    prompt_name: str | None = None  # one of the model's own ("query", "document")


def texts_of(given: Any) -> list[Any]:
    """Each input, a text or token ids."""
    rows = (
        given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    )
    if not rows or len(rows) > 2048:
        raise ApiError(400, f"input has {len(rows)} texts; give 1 to 2048.", param="input")
    if any(not row for row in rows):
        raise ApiError(400, "input holds an empty text; leave it out.", param="input")
    return rows


@routes.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingBody) -> Response:
    """Vectors of texts, in the order of the texts."""
    server = server_of(request)
    name = server.models.resolved(body.model, "embeddings")
    server.models.expect(name, "embeddings")
    texts = texts_of(body.input)

    def begin(pipeline: Any) -> Any:
        embedder = embedder_of(pipeline)
        if isinstance(texts[0], str):
            return embedder.start(texts, body.prompt_name, client=client_of(request))
        size = embedder.tokenizer.vocab_size
        if bad := [i for row in texts for i in row if i >= size]:
            raise ApiError(
                400, f"token id {bad[0]} is outside the vocabulary of {size}.", param="input"
            )
        rows = [row[: embedder.context] for row in texts]
        return embedder.start_rows(rows, client=client_of(request))

    async def whole() -> Any:
        async with server.started_on(name, begin) as (_, handle):
            await server.driver.ended(handle)
            return handle.results()[0], handle.tokens

    vectors, tokens = await while_connected(request, whole())
    server.metrics.tokens.labels(name, "prompt").inc(tokens)
    vectors = shortened(vectors, body.dimensions)
    data = [
        {"object": "embedding", "index": i, "embedding": written(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply_of({"object": "list", "data": data, "model": name, "usage": usage})


def written(vector: np.ndarray, format: str | None) -> Any:
    """A vector as numbers, or as the base64 of little-endian fp32."""
    if format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


def shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first dimensions, at length 1 again."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        message = f"dimensions={dimensions} is more than the model's {vectors.shape[1]}."
        raise ApiError(400, message, param="dimensions")
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
