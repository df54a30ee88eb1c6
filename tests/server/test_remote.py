"""Models of servers behind the call of models here, tried against our own server."""

import json
import subprocess
import sys

import pytest

import daedal
from daedal.errors import DaedalError
from daedal.media import images
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
    stream = far.start(TALK, max_tokens=480, ignore_eos=True)
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


# ---- the command line as a client ----------------------------------------------------------------


def daedal_command(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "daedal", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_verbs_by_a_server_make_what_they_make_here(served, own, tmp_path):
    asked = ("Hello there!", "--model", "house/chat", "--seed", "3", "--top-k", "20")
    done = daedal_command("text", *asked, "--server", served.url)
    assert done.stdout.strip() == own("Hello there!", seed=3, top_k=20).text.strip()
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    asked = ("a red circle left of a blue star", "--seed", "2", "--steps", "4", "-q")
    daedal_command("image", *asked, "--server", served.url, "-o", str(first))
    own_picture = daedal.load("house/image")(asked[0], seed=2, steps=4)
    assert (images.open_image(first) == own_picture.pixels).all()
    assert images.recipe_of(first)["digest"] == own_picture.recipe["digest"]
    edit = ("a green heart", "--seed", "1", "--steps", "4", "--init", str(first), "-q")
    done = daedal_command("image", *edit, "--server", served.url, "-o", str(second))
    here = daedal.load("house/image")("a green heart", seed=1, steps=4, init=first)
    assert (images.open_image(second) == here.pixels).all()


def test_what_a_server_does(served):
    served.post("/v1/models/load", model="house/text")
    assert "house/text" in daedal_command("ps", "--server", served.url).stdout
    assert daedal_command("stop", "house/text", "--server", served.url).returncode == 0
    assert "house/text" not in daedal_command("ps", "--server", served.url).stdout
    id = served.post("/v1/jobs", prompt="a red circle", settings={"steps": 1}).json()["id"]
    assert id in daedal_command("jobs", "--server", served.url).stdout
    lost = daedal_command("ps", "--server", "http://127.0.0.1:9")
    assert lost.returncode == 1 and "no server answers" in lost.stderr
