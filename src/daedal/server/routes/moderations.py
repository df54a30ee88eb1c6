"""`/v1/moderations`: texts judged by category, those that there is a classifier or a rule for."""

import secrets
from typing import Any

from fastapi import APIRouter, Request

from daedal.data.rows import text_of
from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.server.fields import Body
from daedal.server.state import server_of
from daedal.trust.moderation.classifier import Verdict, classifier

routes = APIRouter()
MODEL = "house/moderation"


class ModerationBody(Body):
    input: str | list[str] | list[dict[str, Any]]
    model: str | None = None  # there is one; another's name gets its answer, under its own name


@routes.post("/v1/moderations")
async def moderations(request: Request, body: ModerationBody) -> dict[str, Any]:
    """A verdict on each text. Parts of one input ({"type": "text"}) are judged as one; pictures are
    refused, for there is no classifier of them."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or len(texts) > 2048:
        raise ApiError(400, f"input has {len(texts)} texts; give 1 to 2048.", param="input")
    if isinstance(texts[0], dict):
        try:
            texts = [text_of(texts)]
        except (DaedalError, KeyError) as error:
            raise ApiError(400, str(error), param="input") from None
    verdicts = await server_of(request).run(lambda: [classifier().judge(text) for text in texts])
    return {
        "id": f"modr-{secrets.token_hex(12)}",
        "model": MODEL,
        "results": [result_of(verdict) for verdict in verdicts],
    }


def result_of(verdict: Verdict) -> dict[str, Any]:
    return {
        "flagged": verdict.flagged,
        "categories": verdict.categories,
        "category_scores": verdict.scores,
        "category_applied_input_types": {name: ["text"] for name in verdict.categories},
    }
