"""Replies against OpenAI's own description of them.

`openai_schemas.json.gz` holds the schemas of replies out of OpenAI's OpenAPI file (version 2.3.0, MIT,
from the openai-python repository), without their descriptions."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

TALK = [{"role": "user", "content": "Hello there!"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


@cache
def schemas() -> dict[str, Any]:
    text = gzip.decompress(Path(__file__).with_name("openai_schemas.json.gz").read_bytes()).decode()
    text = text.replace("#/components/schemas/", "#/$defs/")
    return readable(json.loads(text))


def readable(schema: Any) -> Any:
    """OpenAPI's own words as JSON schema: a discriminated oneOf fits if any does, nullable is null."""
    if isinstance(schema, list):
        return [readable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = {("anyOf" if key == "oneOf" else key): readable(value) for key, value in schema.items()}
    if out.pop("nullable", False):
        out = {"anyOf": [out, {"type": "null"}]}
    return out


def check(name: str, value: Any) -> None:
    schema = {"$ref": f"#/$defs/{name}", "$defs": schemas()}
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(value)
    )
    assert error is None, f"{name}: {error.message} at {error.json_path}"


def events(served, path: str, **body: Any) -> list[Any]:
    found = []
    with served.http.stream("POST", path, json=body | {"stream": True}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2, "logprobs": True, "top_logprobs": 2},
        {"tools": [TOOL], "tool_choice": "required"},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_chat(served, more):
    body = {"model": "house/chat", "messages": TALK, "max_tokens": 12, "seed": 1} | more
    whole = served.post("/v1/chat/completions", **body).json()
    check("CreateChatCompletionResponse", whole)
    for event in events(served, "/v1/chat/completions", **body):
        check("CreateChatCompletionStreamResponse", event)


def test_completions(served):
    body = {"model": "house/text", "prompt": "Once", "max_tokens": 5, "logprobs": 2}
    check("CreateCompletionResponse", served.post("/v1/completions", **body).json())
    for event in events(served, "/v1/completions", **body):
        for choice in event["choices"]:  # null until the end, as OpenAI's own streams have it
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check("CreateCompletionResponse", event)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "tools": [TOOL["function"] | {"type": "function", "strict": True}],
            "tool_choice": "required",
        },
    ],
)
def test_responses(served, more):
    body = {"model": "house/chat", "input": "Hello!", "max_output_tokens": 20} | more
    whole = served.post("/v1/responses", **body).json()
    check("Response", whole)
    check("Response", served.http.get(f"/v1/responses/{whole['id']}").json())
    for event in events(served, "/v1/responses", **body):
        check("ResponseStreamEvent", event)
    items = served.http.get(f"/v1/responses/{whole['id']}/input_items").json()
    check("ResponseItemList", items)


def test_embeddings(served):
    check("CreateEmbeddingResponse", served.post("/v1/embeddings", input=["a", "b"]).json())


def test_pictures(served):
    body = {"model": "house/image", "prompt": "a red circle", "steps": 3}
    check("ImagesResponse", served.post("/v1/images/generations", **body).json())
    check(
        "ImagesResponse",
        served.post("/v1/images/generations", **body, response_format="url").json(),
    )
    for event in events(served, "/v1/images/generations", **body, partial_images=1):
        check("ImageGenStreamEvent", event)


def test_a_picture_by_its_address(served):
    body = {"model": "house/image", "prompt": "a red circle", "steps": 2, "response_format": "url"}
    url = served.post("/v1/images/generations", **body).json()["data"][0]["url"]
    assert served.http.get(url).content.startswith(b"\x89PNG")


def test_models_files_and_batches(served):
    models = served.http.get("/v1/models").json()
    check("ListModelsResponse", models)
    check("Model", served.http.get("/v1/models/house/chat").json())
    file = served.http.post("/v1/files", files={"file": b"{}\n"}, data={"purpose": "batch"}).json()
    check("OpenAIFile", file)
    check("ListFilesResponse", served.http.get("/v1/files").json())
    body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    check("Batch", served.post("/v1/batches", **body).json())
    check("ListBatchesResponse", served.http.get("/v1/batches").json())
    check("DeleteFileResponse", served.http.delete(f"/v1/files/{file['id']}").json())


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/v1/chat/completions", {"messages": "x"}, 400),
        ("/v1/chat/completions", {"model": "nothing", "messages": TALK}, 404),
        ("/v1/embeddings", {"input": []}, 400),
        ("/v1/nothing", {}, 404),
        ("/v1/models", {}, 405),
    ],
)
def test_errors(served, path, body, status):
    reply = served.post(path, **body)
    assert reply.status_code == status and reply.headers["x-request-id"]
    check("ErrorResponse", reply.json())
