"""`/v1/audio/speech` and its voices: formats, streams, what is refused."""

import io
import json

import numpy as np
import openai
import pytest

from daedal.media import audio

SAID = "Good morning. It is half past seven."


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")


@pytest.mark.parametrize("kind", ["mp3", "opus", "flac", "wav", "pcm", "aac"])
def test_every_format_is_the_same_speech(served, kind):
    if kind == "aac":
        pytest.importorskip("av")
    reply = served.post("/v1/audio/speech", input=SAID, response_format=kind, seed=1)
    assert reply.status_code == 200, reply.text
    rate = int(reply.headers["x-daedal-rate"])
    wanted = served.post("/v1/audio/speech", input=SAID, response_format="pcm", seed=1).content
    seconds = len(wanted) / 2 / rate
    if kind == "pcm":
        assert reply.content == wanted and seconds > 1.5
        return
    samples, own = audio.open_audio(reply.content)
    assert abs(samples.shape[1] / own - seconds) < 0.15
    assert np.abs(samples).max() > 0.1


def test_an_openai_client_streams_speech(client):
    asked = dict(model="tts-1", voice="alloy", input=SAID, response_format="pcm")
    with client.audio.speech.with_streaming_response.create(**asked) as reply:
        parts = list(reply.iter_bytes(4096))
    assert len(parts) > 3 and sum(map(len, parts)) > 50_000


def test_events_carry_the_same_file(served):
    asked = dict(input=SAID, response_format="wav", seed=2)
    whole = served.post("/v1/audio/speech", **asked).content
    with served.http.stream(
        "POST", "/v1/audio/speech", json=asked | {"stream_format": "sse"}
    ) as reply:
        lines = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    assert [line["type"] for line in lines[:-1]] == ["speech.audio.delta"] * (len(lines) - 1)
    assert lines[-1]["type"] == "speech.audio.done" and lines[-1]["usage"]["total_tokens"] > 5
    import base64

    assert b"".join(base64.b64decode(line["audio"]) for line in lines[:-1]) == whole


def test_the_recipe_makes_it_again(served):
    reply = served.post("/v1/audio/speech", input=SAID, response_format="pcm", speed=1.3)
    recipe = json.loads(reply.headers["x-daedal-recipe"])
    assert recipe["settings"]["speed"] == 1.3 and recipe["model"] == "house/voice"
    seed = recipe["settings"]["seed"]
    again = served.post("/v1/audio/speech", input=SAID, response_format="pcm", speed=1.3, seed=seed)
    assert again.content == reply.content


def test_voices_are_listed_and_unknown_ones_refused(served):
    voices = [row["id"] for row in served.http.get("/v1/audio/voices").json()["data"]]
    assert "house/voice" in voices and "house/text" not in voices and "house/phonemes" not in voices
    reply = served.post("/v1/audio/speech", input=SAID, voice="house/vioce")
    assert reply.status_code == 400 and "did you mean 'house/voice'" in reply.text
    assert served.post("/v1/audio/speech", input=SAID, model="house/text").status_code == 400


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": ""}, "input"),
        ({"input": "привет"}, "Cyrillic"),
        ({"input": SAID, "speed": 9}, "speed"),
        ({"input": SAID, "response_format": "midi"}, "response_format"),
        ({"input": SAID, "subtitles": "/tmp/a.srt", "response_format": "pcm"}, None),
    ],
)
def test_what_cannot_be_said_is_one_sentence(served, body, word):
    reply = served.post("/v1/audio/speech", **body)
    if word is None:  # no field of the API: nothing is written on the server
        assert reply.status_code == 200
        return
    assert reply.status_code in (400, 422) and word in reply.text


def test_speech_comes_over_the_command_lines_server(served, tmp_path):
    from daedal.pipelines.speech import connect

    voice = connect(served.url, "house/voice")
    speech = voice(SAID, seed=3)
    whole = served.post("/v1/audio/speech", input=SAID, seed=3, response_format="wav").content
    samples, rate = audio.open_audio(io.BytesIO(whole).getvalue())
    assert rate == speech.rate and np.abs(samples - speech.samples).max() < 1e-3
