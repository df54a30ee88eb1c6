"""Tools that the server calls itself."""

import pytest

TALK = [{"role": "user", "content": "What is 2 + 2?"}]
COMMON = {"model": "house/chat", "max_tokens": 6, "seed": 1, "messages": TALK}


def test_a_chat_with_tools_of_the_server(served):
    made = served.post("/v1/chat/completions", run_tools=["calc", "time"], **COMMON).json()
    assert made["choices"][0]["message"]["role"] == "assistant"
    assert isinstance(made["daedal"]["calls"], list) and made["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "more, said",
    [
        ({"run_tools": ["files"]}, "daedal serve --tools"),
        ({"run_tools": ["memory"]}, "daedal serve --tools"),
        ({"run_tools": ["calculator"], "stream": True}, "whole"),
    ],
)
def test_only_harmless_tools_unless_it_was_started_with_more(served, more, said):
    reply = served.post("/v1/chat/completions", **COMMON, **more)
    assert reply.status_code == 400 and said in reply.text
