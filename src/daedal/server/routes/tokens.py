"""`/tokenize` and `/detokenize`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.routes.chat import Message
from daedal.server.state import server_of

routes = APIRouter()


class TokenizeBody(Body):
    model: str | None = None
    content: str | None = None  # llama.cpp's name
    prompt: str | None = None  # vLLM's
    messages: list[Message] | None = None
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


@routes.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> dict[str, Any]:
    """The token ids of a text or a conversation."""
    server = server_of(request)
    async with server.models.lent(server.models.resolved(body.model, "text")) as pipeline:
        text: Any = body.content if body.content is not None else body.prompt
        if body.messages is not None:
            text = [message.model_dump(exclude_none=True) for message in body.messages]
        if text is None:
            raise ApiError(400, "give content, prompt or messages.", param="content")
        if isinstance(text, str):
            words = pipeline.tokenizer
            ids = (
                words.encode(text) if body.add_special_tokens else words.encode(text, add_bos=False)
            )
        else:
            ids = pipeline.encode(text, raw=False)
        return {"tokens": ids, "count": len(ids), "max_model_len": pipeline.engine.max_len}


@routes.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> dict[str, Any]:
    """The text of token ids."""
    server = server_of(request)
    async with server.models.lent(server.models.resolved(body.model, "text")) as pipeline:
        size = pipeline.network.config.vocab_size
        if bad := [token for token in body.tokens if token >= size]:
            raise DaedalError(f"token id {bad[0]} is outside the vocabulary of {size}.")
        text = pipeline.tokenizer.decode(body.tokens, skip_special=False)
        return {"content": text, "prompt": text}
