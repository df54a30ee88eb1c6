"""`/v1/content_provenance_checks` answers from every signal, and of a text with a model's tokenizer."""

import base64

import numpy as np
import pytest

from daedal.media import images
from daedal.trust import manifest

RECIPE = {
    "model": "house/image", "digest": "ab" * 32, "prompt": "a red circle", "settings": {"seed": 1},
    "sample": 0, "runtime": {},
}  # fmt: skip


def check(served, name, data, **fields):
    answer = served.http.post(
        "/v1/content_provenance_checks", files={"file": (name, data)}, data=fields
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_signed_picture(served, tmp_path, monkeypatch):
    pytest.importorskip("c2pa")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    path = images.save_image(pixels, tmp_path / "a.png", RECIPE)
    manifest.sign(path, RECIPE)
    found = check(served, "a.png", path.read_bytes())
    assert found["manifest"]["state"] == "Trusted" and found["recipe"]["model"] == "house/image"
    assert found["file"] == "a.png" and found["object"] == "content_provenance_check"


def test_pictures_are_sent_signed(served, tmp_path, monkeypatch):
    pytest.importorskip("c2pa")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("DAEDAL_PROVENANCE", "1")
    answer = served.post("/v1/images/generations", prompt="a red circle", steps=1)
    picture = base64.b64decode(answer.json()["data"][0]["b64_json"])
    found = check(served, "a.png", picture)["manifest"]
    assert found["state"] == "Trusted" and found["actions"] == ["c2pa.created"]
    edit = served.http.post(
        "/v1/images/edits",
        files={"image": ("a.png", picture)},
        data={"prompt": "a blue circle", "steps": 1},
    )
    edited = base64.b64decode(edit.json()["data"][0]["b64_json"])
    assert check(served, "b.png", edited)["manifest"]["generated"]
    assert b"compositeWithTrainedAlgorithmicMedia" in edited


def test_a_watermarked_answer(served, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    asked = dict(model="house/text", prompt="Once upon a time", max_tokens=250, seed=3)
    marked, plain = (
        served.post("/v1/completions", **asked, **more).json()["choices"][0]["text"]
        for more in ({"watermark": True, "watermark_strength": 5}, {})
    )
    tests = [
        check(served, "a.txt", text.encode(), model="house/text")["mark"]
        for text in (marked, plain)
    ]
    assert [test["marked"] for test in tests] == [True, False]


def test_odd_files(served):
    found = check(served, "a.\x01\u00e9/..", b"")
    assert found["sentences"] and "human" not in " ".join(found["sentences"])
    assert check(served, "a.png", b"no picture")["manifest"] is None
