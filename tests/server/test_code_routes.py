"""The routes of code, with the models that are here: what needs no code model to be right."""

import json
import time

import httpx
import pytest

from daedal.sandbox.sandbox import Sandbox


def test_a_model_without_tokens_for_a_gap_says_so(served):
    for path in ("/v1/completions", "/v1/fim/completions"):
        reply = served.post(path, model="house/text", prompt="Once", suffix="the end.")
        assert reply.status_code == 400 and "no tokens for filling a gap" in reply.text
    reply = served.post(
        "/infill", model="house/text", input_prefix="Once", input_suffix="end", n_predict=5
    )
    assert reply.json()["content"] and "no tokens" in reply.json()["remark"]


def test_verbs_ask_for_what_they_need(served):
    for verb, need in (("write", "task"), ("test", "code"), ("fix", "failing")):
        reply = served.post(f"/v1/code/{verb}", model="house/chat")
        assert reply.status_code == 400 and reply.json()["error"]["param"] == need
    assert served.post("/v1/code/nothing", code="x").status_code == 404
    reply = served.post("/v1/code/test", model="house/chat", code="def (")
    assert reply.status_code == 400 and "not Python" in reply.text


def test_what_a_small_model_cannot_do_is_not_claimed(served):
    """The chat model writes no code: every verb says so, and nothing is claimed."""
    asked = {"model": "house/chat", "task": "Double a number. double(2) == 4", "n": 4}
    write = served.post("/v1/code/write", **asked).json()
    assert write["code"] == "" and not write["sure"] and write["verdict"]
    stages = []
    with served.http.stream("POST", "/v1/code/solve", json=asked) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                stages.append(json.loads(line[6:]))
    assert stages[0]["stage"] == "sampled" and stages[-1]["code"] is None
    fix = {"model": "house/chat", "code": "def f(): return 1\n", "failing": "assert f() == 2"}
    assert not served.post("/v1/code/fix", **fix).json()["sure"]


def test_tests_are_added_from_what_the_code_gives(served):
    """Without one usable assert of the model's, inputs that tell mutants apart are kept."""
    code = "def double(x: int) -> int:\n    return x * 2\n"
    found = served.post("/v1/code/test", model="house/chat", code=code).json()
    assert found["killed"] == found["mutants"] > 0
    with Sandbox(workers=1) as sandbox:
        assert sandbox.run(f"{code}\n{found['code']}").status == "ok"
    assert "python" in served.http.get("/health").json()["sandbox"]  # the languages that it runs


def test_work_ends_when_its_client_is_gone(served):
    task = "Write a very long list of words. " * 20
    for path, more in [("/v1/code/write", {"task": task}), ("/infill", {"input_prefix": task})]:
        body = {"model": "house/text", "n_predict": 400, **more}
        with pytest.raises(httpx.ReadTimeout):
            served.http.post(path, json=body, timeout=0.3)
        deadline = time.monotonic() + 5
        while served.http.get("/health").json()["generations"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline


@pytest.mark.real
def test_the_coder_fills_and_solves(serve):
    served = serve()
    body = {
        "model": "coder",
        "prompt": "def add(a, b):\n    return ",
        "suffix": "\n\nprint(add(1, 2))\n",
    }
    body |= {"temperature": 0, "max_tokens": 16}
    assert "a + b" in served.post("/v1/completions", **body).json()["choices"][0]["text"]
    assert "a + b" in served.post("/v1/fim/completions", **body).json()["choices"][0]["text"]
    write = served.post("/v1/code/write", task="Double a number. double(2) == 4").json()
    assert write["sure"] and write["model"] == "coder"
