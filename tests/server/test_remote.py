"""Models of servers behind the call of models here, tried against our own server."""

import json
import subprocess
import sys

import pytest

import daedal
from daedal.errors import DaedalError
from daedal.pipelines import remote

TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello there!"}]


@pytest.fixture(scope="module")
def own():
    return daedal.load("house/chat")


@pytest.fixture(scope="module")
def far(served):
    return daedal.load(f"openai:house/chat@{served.url}/v1")


def test_an_answer_is_that_of_the_model_itself(far, own):
    asked = {"seed": 3, "max_tokens": 40, "temperature": 0.9}
    assert far(TALK, **asked).text == own(TALK, **asked).text
    assert far("Hello there!", **asked).text == own("Hello there!", **asked).text
    pieces = [piece.text for piece in far.stream(TALK, **asked)]
    assert len(pieces) > 1 and "".join(pieces) == own(TALK, **asked).text


def test_several_answers_and_reasons(far):
    texts = far(TALK, n=3, max_tokens=4, seed=1)
    assert [text.finish_reason for text in texts] == ["length"] * 3
    assert len({text.text for text in texts}) > 1 and texts[0].recipe["digest"] is None


def test_anthropics_dialect(served, own):
    far = daedal.load(f"anthropic:house/chat@{served.url}")
    asked = {"max_tokens": 30, "temperature": 0}
    assert far(TALK, **asked).text == own(TALK, **asked).text
    with pytest.raises(DaedalError, match="seed=1 cannot be asked"):
        far(TALK, seed=1)


def test_a_schema_holds(far):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema |= {"additionalProperties": False}
    assert json.loads(far(TALK, schema=schema).text)["a"] in (1, 2)


def test_a_stream_that_is_left_is_cancelled(far, served):
    stream = far.start(TALK, max_tokens=400)
    next(iter(stream))
    stream.cancel()
    assert stream.result().finish_reason == "cancelled"


def test_what_goes_wrong_is_a_sentence(served, monkeypatch):
    with pytest.raises(DaedalError, match="is not openai:NAME"):
        daedal.load("openai:")
    with pytest.raises(DaedalError, match="does not answer"):
        daedal.load("openai:x@http://127.0.0.1:9/v1")("hi")
    with pytest.raises(DaedalError, match="model 'nothing' does not exist"):
        daedal.load(f"openai:nothing@{served.url}/v1")("hi")
    monkeypatch.setattr(remote, "delay", lambda reply, attempt: 0)
    served.server.admission.under_way["house/chat"] = 10**6
    try:
        with pytest.raises(DaedalError, match="no more are taken"):
            daedal.load(f"openai:house/chat@{served.url}/v1")("hi")
    finally:
        served.server.admission.under_way["house/chat"] = 0


def test_the_command_line(served, own):
    name = f"openai:house/chat@{served.url}/v1"
    command = [sys.executable, "-m", "daedal", "Hello there!", "--model", name]
    command += ["--seed", "3", "--max-tokens", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == own("Hello there!", seed=3, max_tokens=20).text.strip()
