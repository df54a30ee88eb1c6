"""Traces over HTTP: the nearest training examples of a model that has an index."""

from daedal.checkpoints import resolve
from daedal.trust.memorised.examples import Example
from daedal.trust.memorised.trace import NAME, Index

TALE = "the old heron of the long lake had lost his left shoe in the reeds on a monday"


def ask(served, **fields):
    return served.http.post("/v1/traces", **fields)


def test_a_repeated_tale_is_found_with_its_licence(served, monkeypatch, tmp_path):
    label = {"place": "tales:7", "licence": "CC0-1.0"}
    Index.build([Example("text", TALE, label)]).save(tmp_path / NAME)
    monkeypatch.setattr("daedal.server.routes.traces.resolve", lambda name: tmp_path)
    said = f"Once upon a time {TALE} and so he went home."
    found = ask(served, data={"text": said, "model": "house/text"}).json()
    assert found["kind"] == "text" and found["nearest"][0]["label"] == label
    assert found["nearest"][0]["words"] == len(TALE.split())
    assert "CC0-1.0" in found["sentences"][0]
    other = ask(
        served,
        files={"file": ("a.txt", b"Nothing of this was ever read before.")},
        data={"model": "house/text"},
    )
    assert other.json()["nearest"] == []


def test_what_cannot_be_traced_is_said(served):
    assert "one of the two" in ask(served, data={"model": "house/text"}).json()["error"]["message"]
    nameless = ask(served, data={"text": "hello"})
    assert nameless.status_code == 400 and "give model" in nameless.json()["error"]["message"]
    none = ask(served, data={"text": "hello", "model": "house/text"})
    assert not none.json()["indexed"] and "no index" in none.json()["sentences"][0]
    assert not (resolve("house/text") / NAME).exists()
    unknown = ask(served, data={"text": "hello", "model": "house/txt"})
    assert unknown.status_code == 404 and "house/text" in unknown.json()["error"]["message"]
