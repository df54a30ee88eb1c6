"""Chats answered from the server's documents."""

import json

import pytest

from daedal.assist.documents import answer
from daedal.assist.documents.index import Index
from daedal.errors import DaedalError
from daedal.server import documents
from daedal.server.state import Options, Server

TALK = [{"role": "user", "content": "When are pears picked?"}]
COMMON = {"model": "house/chat", "max_tokens": 12, "seed": 1, "messages": TALK, "documents": True}
SAID = "Pears are picked in September. [1] The moon is green. [1]"


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    (folder / "guide.md").write_text("# Harvest\n\nPears are picked in September.\n")
    (folder / "other.md").write_text("# Moon\n\nThe moon is made of cheese, as the mice say.\n")
    with Index.open(folder) as index:
        index.update()
    return folder


def asked(serve, notes, monkeypatch, **more):
    """What the server makes of SAID, put in the mouth of its model."""
    checked = answer.checked

    def spoken(question, said, hits, embedder=None):
        return checked(question, SAID, hits, embedder)

    monkeypatch.setattr(documents, "checked", spoken)
    return serve(documents=notes).post("/v1/chat/completions", **COMMON, **more)


def test_an_answer_has_its_sources_as_annotations(serve, notes, monkeypatch):
    reply = asked(serve, notes, monkeypatch).json()
    message = reply["choices"][0]["message"]
    assert message["content"] == "Pears are picked in September. [1]"
    (mark,) = message["annotations"]
    place = mark["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == "[1]"
    assert (mark["type"], place["url"]) == ("url_citation", "guide.md#line%203")
    found = reply["daedal"]["documents"]
    assert found["sources"][0]["text"] == "Pears are picked in September."
    assert [s["supported"] for s in found["sentences"]] == [True, False]
    assert reply["usage"]["prompt_tokens"] > 20 and reply["object"] == "chat.completion"


def test_a_stream_has_the_same(serve, notes, monkeypatch):
    reply = asked(serve, notes, monkeypatch, stream=True, stream_options={"include_usage": True})
    events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    first, last, counts = (json.loads(event) for event in events[:-1])
    assert events[-1] == "[DONE]" and first["object"] == "chat.completion.chunk"
    delta = first["choices"][0]["delta"]
    assert delta["content"].endswith("[1]") and len(delta["annotations"]) == 1
    assert last["choices"][0]["finish_reason"] == "stop" and last["daedal"]["documents"]["found"]
    assert counts["choices"] == [] and counts["usage"]["total_tokens"] > 0


def test_what_the_documents_do_not_hold_is_not_asked_of_the_model(serve, notes):
    talk = [{"role": "user", "content": "Who won the match against Lisbon?"}]
    reply = serve(documents=notes).post("/v1/chat/completions", **COMMON | {"messages": talk})
    made = reply.json()
    assert made["choices"][0]["message"]["content"] == f"This is {answer.NONE}."
    assert made["choices"][0]["message"]["annotations"] == []
    assert made["usage"]["total_tokens"] == 0


def test_without_documents_it_says_how_to_give_some(served, tmp_path):
    reply = served.post("/v1/chat/completions", **COMMON)
    assert reply.status_code == 400 and "daedal serve --documents FOLDER" in reply.text
    with pytest.raises(DaedalError, match="has no index; make one with"):
        Server(Options(folder=tmp_path / "server", documents=tmp_path))


@pytest.mark.parametrize(
    "more", [{"n": 2}, {"response_format": {"type": "json_object"}}, {"messages": [{"role": "system", "content": "Hi"}]}]
)  # fmt: skip
def test_what_cannot_be_answered_from_documents_is_refused(serve, notes, more):
    reply = serve(documents=notes).post("/v1/chat/completions", **COMMON | more)
    assert reply.status_code == 400 and ("leave out" in reply.text or "no question" in reply.text)
