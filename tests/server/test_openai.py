"""OpenAI's own client against the server, as people use it: synchronous and asynchronous, whole and
streamed, for every route that the client has and the server answers."""

import asyncio
import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

import daedal

STORY = [{"role": "user", "content": "Tell me a short story about a duck."}]
HELLO = [{"role": "user", "content": "Hello! How are you?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"enum": [1, 2, 3]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_a_chat_is_what_python_gives(client):
    reply = client.chat.completions.create(
        model="house/chat", messages=STORY, seed=3, max_tokens=12, temperature=0.7
    )
    own = daedal.load("house/chat")(STORY, seed=3, max_tokens=12, temperature=0.7)
    assert reply.choices[0].message.content == own.text
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 12 and reply._request_id.startswith("req_")


def test_a_stream_is_the_whole_in_pieces(client):
    asked = dict(model="house/chat", messages=STORY, seed=3, max_tokens=12, n=2)
    whole = client.chat.completions.create(**asked)
    texts, roles, finishes, usage = ["", ""], [[], []], [[], []], None
    for chunk in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += [choice.delta.role] if choice.delta.role else []
            finishes[choice.index] += [choice.finish_reason] if choice.finish_reason else []
        usage = chunk.usage or usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == [["assistant"]] * 2 and finishes == [["length"]] * 2
    assert usage.completion_tokens == whole.usage.completion_tokens == 24


def test_the_stream_helper_puts_a_message_together(client):
    asked = dict(model="house/chat", messages=HELLO, seed=3)
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**asked)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].message.role == "assistant"


def test_names_of_others_stand_for_what_is_here(client):
    reply = client.chat.completions.create(model="gpt-4o", messages=STORY, max_tokens=2)
    assert reply.model == "house/chat"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="house/chatt", messages=STORY)
    assert caught.value.code == "model_not_found" and "house/chat" in caught.value.message


def test_logprobs_are_the_engines(client):
    reply = client.chat.completions.create(
        model="house/chat", messages=STORY, seed=1, max_tokens=5, logprobs=True, top_logprobs=3
    )
    rows = reply.choices[0].logprobs.content
    own = daedal.load("house/chat")(STORY, seed=1, max_tokens=5)
    assert [row.logprob for row in rows] == pytest.approx(own.logprobs)
    assert all(len(row.top_logprobs) == 3 for row in rows)
    assert "".join(row.token for row in rows) == own.text


def test_answers_follow_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"enum": [7, 8]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    reply = client.chat.completions.create(
        model="house/chat",
        messages=[{"role": "user", "content": "Who is Ana?"}],
        max_tokens=80,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "who", "schema": schema}},
    )
    assert set(json.loads(reply.choices[0].message.content)) == {"name", "age"}
    free = client.chat.completions.create(
        model="house/chat",
        messages=STORY,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_object"},
    )
    assert free.choices[0].message.content.startswith("{")


def test_a_call_that_must_be_made_is_made(client):
    asked = dict(
        model="house/chat",
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=120,
        seed=2,
    )
    reply = client.chat.completions.create(**asked)
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    assert reply.choices[0].finish_reason == "tool_calls" and call.id.startswith("call_")
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.arguments == call.function.arguments
    named = asked | {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    assert client.chat.completions.create(**named).choices[0].message.tool_calls
    with pytest.raises(openai.BadRequestError, match="no_such"):
        client.chat.completions.create(
            **asked | {"tool_choice": {"type": "function", "function": {"name": "no_such"}}}
        )


def test_tools_that_are_not_called_leave_an_answer(client):
    reply = client.chat.completions.create(
        model="house/chat", messages=STORY, tools=[WEATHER], max_tokens=20, seed=1
    )
    assert reply.choices[0].message.content and not reply.choices[0].message.tool_calls


def test_a_conversation_with_a_tools_answer(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    reply = client.chat.completions.create(model="house/chat", messages=messages, max_tokens=5)
    assert reply.choices[0].message.content is not None


def test_completions_continue(client):
    own = daedal.load("house/text")("Once upon a time", seed=5, max_tokens=12)
    asked = dict(model="house/text", prompt="Once upon a time", seed=5, max_tokens=12)
    reply = client.completions.create(**asked, echo=True, logprobs=2)
    assert reply.choices[0].text == own.whole
    assert reply.choices[0].logprobs.token_logprobs == pytest.approx(own.logprobs)
    streamed = "".join(c.choices[0].text for c in client.completions.create(**asked, stream=True))
    assert streamed == own.text
    several = client.completions.create(
        model="house/text", prompt=[[5, 6], [5, 6, 7]], max_tokens=3, n=2
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_embeddings_in_both_encodings(client):
    texts = ["The cat sat on the mat.", "A kitten lay on a rug.", "Stocks fell."]
    reply = client.embeddings.create(model="text-embedding-3-small", input=texts)
    plain = client.embeddings.create(
        model="text-embedding-3-small", input=texts, encoding_format="float"
    )
    vectors = np.array([row.embedding for row in reply.data])
    assert np.allclose(vectors, [row.embedding for row in plain.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    short = client.embeddings.create(model=reply.model, input=texts[0], dimensions=16)
    assert len(short.data[0].embedding) == 16
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=reply.model, input="x", dimensions=10**6)


def picture_of(datum) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(datum.b64_json))))


def test_pictures_are_what_python_paints(client):
    extra = {"seed": 7, "steps": 4}
    reply = client.images.generate(
        model="gpt-image-1", prompt="a red circle", n=2, size="auto", extra_body=extra
    )
    own = daedal.load("house/image")("a red circle", n=2, **extra)
    for datum, picture in zip(reply.data, own, strict=True):
        assert (picture_of(datum) == picture.pixels).all()
    assert reply.daedal["size"] == "64x64" and reply.output_format == "png"


def test_a_size_far_above_the_models_own_is_painted_at_its_own(client):
    reply = client.images.generate(
        model="house/image", prompt="a red circle", size="1536x1024", extra_body={"steps": 2}
    )
    height, width = picture_of(reply.data[0]).shape[:2]
    assert width > height and width * height < 2 * 64 * 64


def test_pictures_come_while_they_are_painted(client):
    kinds, last = [], None
    for event in client.images.generate(
        model="house/image",
        prompt="a blue star",
        stream=True,
        partial_images=2,
        extra_body={"seed": 1, "steps": 6},
    ):
        kinds.append(event.type)
        last = event
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    own = daedal.load("house/image")("a blue star", seed=1, steps=6)
    assert (picture_of(last) == own.pixels).all()


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    file.name = "picture.png"
    return file


def test_an_edit_changes_only_the_hole(client):
    own = daedal.load("house/image")("a red circle left of a blue star", seed=1)
    mask = np.full((64, 64, 4), 255, np.uint8)
    mask[:, 32:, 3] = 0  # the hole
    asked = dict(model="house/image", prompt="a green heart", extra_body={"seed": 3, "steps": 4})
    reply = client.images.edit(image=png(own.pixels), mask=png(mask), **asked)
    made = picture_of(reply.data[0])
    assert (made[:, :32] == own.pixels[:, :32]).all() and (made[:, 32:] != own.pixels[:, 32:]).any()
    again = client.images.edit(image=[png(own.pixels)], mask=png(mask), **asked)
    assert (picture_of(again.data[0]) == made).all()
    with pytest.raises(openai.BadRequestError, match="not an image"):
        client.images.edit(image=io.BytesIO(b"no picture"), **asked)


def test_models_are_listed_by_names_with_slashes(client):
    ids = [model.id for model in client.models.list()]
    assert "house/chat" in ids and "house/clip" not in ids
    assert client.models.retrieve("house/chat").id == "house/chat"


def test_files_are_kept_and_deleted(client):
    made = client.files.create(file=("a.txt", b"hello"), purpose="user_data")
    assert client.files.content(made.id).read() == b"hello"
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_the_asynchronous_client(served):
    async def chat() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            asked = dict(model="house/chat", messages=STORY, seed=3, max_tokens=12)
            stream = await client.chat.completions.create(**asked, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            whole = await client.chat.completions.create(**asked)
            return "".join(pieces), whole.choices[0].message.content

    streamed, whole = asyncio.run(chat())
    assert streamed == whole


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "context"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(client, changed, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "house/chat", "messages": STORY} | changed)
    assert said in caught.value.message and caught.value.type == "invalid_request_error"


def test_the_readmes_client_runs(served):
    """With the address of this server in place of the usual one."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", readme, re.M | re.S)
    assert "http://127.0.0.1:8765" in block
    exec(block.replace("http://127.0.0.1:8765", served.url), {})
