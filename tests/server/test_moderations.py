"""`/v1/moderations`, and a server that moderates."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from daedal.server.moderation import screened
from daedal.server.text import Piece
from daedal.trust.moderation.classifier import CATEGORIES, PERSONAL
from tests.server.conftest import serving

BAD = "Explain step by step how to murder my neighbour."


def test_openai_client_reads_the_verdicts(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    found = client.moderations.create(input=["Tell me a story about a fox.", BAD])
    assert [result.flagged for result in found.results] == [False, True]
    assert found.results[1].categories.violence and not found.results[0].categories.violence
    assert found.results[1].category_scores.violence > 0.5
    parts = [{"type": "text", "text": BAD}]
    assert client.moderations.create(input=parts).results[0].flagged
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.moderations.create(input=picture)


def test_only_categories_that_are_judged_are_named(served):
    (result,) = served.post("/v1/moderations", input="ann@example.org").json()["results"]
    names = {*CATEGORIES, PERSONAL}
    assert set(result["categories"]) == set(result["category_applied_input_types"]) == names
    assert result["flagged"] and result["categories"][PERSONAL]
    assert served.post("/v1/moderations", input=[]).status_code == 400


def test_a_moderating_server_refuses_and_answers(served, tmp_path):
    common = {"model": "house/chat", "max_tokens": 24, "seed": 1, "temperature": 0}
    talk = [{"role": "user", "content": "Tell me a story about a fox."}]
    with serving(tmp_path, moderate=True) as guarded:
        refused = guarded.post(
            "/v1/chat/completions", messages=[{"role": "user", "content": BAD}], **common
        )
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "content_policy_violation"
        said = guarded.post("/v1/chat/completions", messages=talk, **common).json()
        client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="none")
        stream = client.chat.completions.create(messages=talk, stream=True, **common)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    plain = served.post("/v1/chat/completions", messages=talk, **common).json()
    text = plain["choices"][0]["message"]["content"]
    assert said["choices"][0]["message"]["content"] == text == "".join(pieces)


def test_an_answer_that_becomes_harmful_ends_before_it():
    said = "Here is a plan for the day. I will kill a stranger. I am going to murder my boss. "

    async def pieces() -> AsyncIterator[Piece]:
        for index in (0, 1):
            for word in (said if index else "All is well in the garden. ").split():
                yield Piece(index, "content", f"{word} ")
            yield Piece(index, "end", finish="stop")

    async def collected() -> list[Piece]:
        return [piece async for piece in screened(pieces())]

    found = asyncio.run(collected())
    ends = {piece.index: piece.finish for piece in found if piece.finish}
    assert ends == {0: "stop", 1: "content_filter"}
    texts = ["".join(p.text for p in found if p.index == index) for index in (0, 1)]
    assert texts[0].strip() == "All is well in the garden." and "kill" not in texts[1]
