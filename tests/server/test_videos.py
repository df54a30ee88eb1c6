"""Clips over HTTP, as OpenAI's client and curl ask for them."""

import io
import time

import numpy as np
import openai
import pytest

from daedal.media import images, video

PNG = images.encode(np.full((32, 32, 3), (200, 30, 30), np.uint8), "PNG")


@pytest.fixture
def filming(serve, clip_model):
    return serve(models={"clips": str(clip_model)}, loading={"dtype": "fp32"})


def done(served, id, seconds=60):
    end = time.monotonic() + seconds
    while (made := served.http.get(f"/v1/videos/{id}").json())["status"] in (
        "queued",
        "in_progress",
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
    return made


def test_the_life_of_a_clip(filming, tmp_path):
    client = openai.OpenAI(base_url=f"{filming.url}/v1", api_key="none")
    made = client.videos.create_and_poll(
        model="clips", prompt="a red circle moves", seconds="1", size="32x32", input_reference=("a.png", PNG, "image/png")
    )  # fmt: skip
    assert made.status == "completed" and made.progress == 100
    assert (made.seconds, made.size, made.object) == ("1", "32x32", "video")
    for variant in ("video", "thumbnail", "spritesheet"):
        (tmp_path / variant).write_bytes(
            client.videos.download_content(made.id, variant=variant).read()
        )
    (tmp_path / "video").rename(tmp_path / "a.mp4")
    frames, rate = video.open_clip(tmp_path / "a.mp4")
    assert frames.shape == (8, 32, 32, 3) and rate == 8
    assert np.abs(frames[0].mean((0, 1)) - (200, 30, 30)).max() < 6  # the reference
    assert images.open_image(tmp_path / "spritesheet").shape[1] == 8 * 32
    part = filming.http.get(f"/v1/videos/{made.id}/content", headers={"range": "bytes=4-7"})
    assert part.status_code == 206 and part.content == b"ftyp"
    assert [each.id for each in client.videos.list()] == [made.id]
    other = client.videos.remix(made.id, prompt="a blue circle moves")
    assert done(filming, other.id)["remixed_from_video_id"] == made.id
    recipes = [
        done(filming, id)["daedal"]["recipe"]["settings"]["seed"] for id in (made.id, other.id)
    ]
    assert recipes[0] == recipes[1]
    client.videos.delete(made.id)
    assert filming.http.get(f"/v1/videos/{made.id}").status_code == 404


def test_json_settings_and_keys(filming):
    body = {"model": "clips", "prompt": "a red otter moves", "seconds": 0.5, "seed": 7, "steps": 1}
    headers = {"idempotency-key": "once"}
    first, again = (
        filming.http.post("/v1/videos", json=body, headers=headers).json() for _ in range(2)
    )
    assert first["id"] == again["id"]
    made = done(filming, first["id"])
    assert made["seconds"] == "0.5" and made["daedal"]["recipe"]["settings"]["seed"] == 7
    assert "never trained on the words otter" in " ".join(made["daedal"]["remarks"])
    assert filming.http.get("/v1/models").json()["data"]


def test_wrong_requests_are_one_sentence(filming):
    def asked(status, param, **body):
        reply = filming.http.post(
            "/v1/videos", json={"model": "clips", "prompt": "a circle"} | body
        )
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["param"] == param

    asked(400, "prompt", prompt="")
    asked(400, "seconds", seconds=600)
    asked(400, "size", size="8000x8000")
    asked(400, "steps", steps=0)
    asked(400, "images", input_reference={"image_url": "http://127.0.0.1/a.png"})
    asked(404, "model", model="no/such")
    bad = filming.http.post(
        "/v1/videos",
        data={"model": "clips", "prompt": "a"},
        files={"input_reference": io.BytesIO(b"no")},
    )
    assert bad.status_code == 400 and "not an image" in bad.json()["error"]["message"]
    assert (
        filming.http.post("/v1/videos", json={"model": "house/text", "prompt": "a"}).status_code
        == 400
    )
    assert filming.http.get("/v1/videos/job_0").status_code == 404
