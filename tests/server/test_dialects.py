"""The other dialects, by their own clients: responses, Anthropic's, Ollama's; and batches."""

import json
import time

import anthropic
import ollama
import openai
import pytest

import daedal

HELLO = "Hello! How are you?"
TURNS = [{"role": "user", "content": HELLO}]
GREEDY = {"temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def own():
    return daedal.load("house/chat")


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


# ---- responses -----------------------------------------------------------------------------------


def test_a_response_and_the_one_that_goes_on_from_it(client, own):
    first = client.responses.create(model="house/chat", input=HELLO, extra_body={"seed": 4})
    assert first.output_text == own(TURNS, seed=4).text and first.status == "completed"
    second = client.responses.create(
        model="house/chat",
        input="Tell me a story.",
        previous_response_id=first.id,
        extra_body={"seed": 5},
        max_output_tokens=20,
    )
    whole = [*TURNS, {"role": "assistant", "content": first.output_text}]
    whole += [{"role": "user", "content": "Tell me a story."}]
    assert second.output_text == own(whole, seed=5, max_tokens=20).text
    assert second.status == "incomplete" and second.incomplete_details.reason == "max_output_tokens"
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_the_events_of_a_response_come_in_order(client, own):
    with client.responses.stream(model="house/chat", input=HELLO, extra_body={"seed": 4}) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert final.output_text == own(TURNS, seed=4).text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_response_calls_a_function(client):
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    reply = client.responses.create(
        model="house/chat", input="Weather?", tools=[tool], tool_choice="required"
    )
    (call,) = [item for item in reply.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = client.responses.create(
        model="house/chat", input=[output], previous_response_id=reply.id, max_output_tokens=5
    )
    assert after.output_text is not None


def test_a_response_in_the_background_is_polled_and_cancelled(client):
    asked = dict(model="house/chat", input="Tell me a story.", background=True)
    reply = client.responses.create(**asked, max_output_tokens=10)
    assert reply.status in ("queued", "in_progress")
    for _ in range(200):
        if (reply := client.responses.retrieve(reply.id)).status not in ("queued", "in_progress"):
            break
        time.sleep(0.05)
    assert reply.status == "incomplete"
    endless = client.responses.create(
        **asked, max_output_tokens=450, extra_body={"ignore_eos": True}
    )
    assert client.responses.cancel(endless.id).status in ("cancelled", "completed", "incomplete")


# ---- Anthropic -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def claude(served):
    return anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)


def test_messages_whole_and_streamed(claude, own):
    asked = dict(
        model="house/chat", max_tokens=60, system="Be kind.", messages=TURNS, extra_body=GREEDY
    )
    reply = claude.messages.create(**asked)
    said = own([{"role": "system", "content": "Be kind."}, *TURNS], temperature=0, max_tokens=60)
    assert reply.content[0].text == said.text and reply.stop_reason == "end_turn"
    with claude.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == said.text
        assert stream.get_final_message().usage.output_tokens == reply.usage.output_tokens
    count = claude.messages.count_tokens(model="house/chat", system="Be kind.", messages=TURNS)
    assert count.input_tokens == reply.usage.input_tokens


def test_messages_stop_at_a_sequence(claude):
    story = [{"role": "user", "content": "Tell me a story."}]
    reply = claude.messages.create(
        model="house/chat", max_tokens=200, messages=story, stop_sequences=["."], extra_body=GREEDY
    )
    assert reply.stop_reason == "stop_sequence" and reply.stop_sequence == "."
    assert "." not in reply.content[0].text


def test_messages_use_a_tool(claude):
    tool = {"name": "weather", "description": "Weather.", "input_schema": SCHEMA}
    asked = dict(model="house/chat", max_tokens=80, messages=TURNS, tools=[tool])
    reply = claude.messages.create(**asked, tool_choice={"type": "any"})
    (use,) = [block for block in reply.content if block.type == "tool_use"]
    assert use.input["city"] in ("Rome", "Oslo") and reply.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [*TURNS, {"role": "assistant", "content": reply.content}]
    turns += [{"role": "user", "content": [result]}]
    after = claude.messages.create(model="house/chat", max_tokens=5, messages=turns)
    assert after.type == "message"


def test_errors_are_anthropics(claude):
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="house/chat", max_tokens=5, messages=[])
    assert caught.value.body["type"] == "error"


# ---- Ollama --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(served):
    return ollama.Client(host=served.url)


def test_ollama_chats_and_generates(llama, own):
    options = {"temperature": 0, "num_predict": 30}
    reply = llama.chat(model="house/chat", messages=TURNS, options=options)
    said = own(TURNS, temperature=0, max_tokens=30).text
    assert reply.message.content == said
    pieces = llama.chat(model="house/chat:latest", messages=TURNS, options=options, stream=True)
    parts = list(pieces)
    assert "".join(part.message.content for part in parts) == said and parts[-1].done
    assert llama.generate(model="house/chat", prompt=HELLO, options=options).response == said
    raw = llama.generate(model="house/text", prompt="Once", options=options).response
    assert raw == daedal.load("house/text")("Once", temperature=0, max_tokens=30).text
    formed = llama.chat(model="house/chat", messages=TURNS, format=SCHEMA)
    assert json.loads(formed.message.content)["city"] in ("Rome", "Oslo")


def test_ollama_lists_shows_and_embeds(llama):
    assert "house/chat" in [model.model for model in llama.list().models]
    assert "completion" in llama.show("house/chat").capabilities
    assert len(llama.embed(model="house/text", input=["a", "b"]).embeddings) == 2
    assert "house/text" in [model.model for model in llama.ps().models]
    with pytest.raises(ollama.ResponseError) as caught:
        llama.chat(model="nothing", messages=TURNS)
    assert caught.value.status_code == 404


# ---- batches -------------------------------------------------------------------------------------


def test_a_batch_answers_every_line(client, own):
    rows = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "house/chat", "messages": TURNS, "seed": i, "max_tokens": 8}
            | ({"temperature": 9} if i == 2 else {}),
        }
        for i in range(4)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    for _ in range(200):
        if (batch := client.batches.retrieve(batch.id)).status in ("completed", "failed"):
            break
        time.sleep(0.05)
    assert batch.status == "completed" and batch.request_counts.completed == 3
    lines = [json.loads(x) for x in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r3"]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]
    assert said == [own(TURNS, seed=i, max_tokens=8).text for i in (0, 1, 3)]
    (bad,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(bad)["response"]["status_code"] == 400
    assert batch.id in [each.id for each in client.batches.list()]


def test_a_batch_with_a_line_that_is_no_request_fails(client):
    file = client.files.create(file=("in.jsonl", b"{not json\n"), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    for _ in range(100):
        if (batch := client.batches.retrieve(batch.id)).status == "failed":
            break
        time.sleep(0.05)
    assert "line 1" in batch.errors.data[0].message
