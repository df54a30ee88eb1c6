"""OpenAI's own client sends sounds to an ear: every format, word times, events, translations."""

import json

import numpy as np
import openai
import pytest

from daedal.media.audio import encode
from tests.server.conftest import serving
from tests.systems.ear import small_ear
from tests.systems.sounds import stable_audio


@pytest.fixture(scope="module")
def ear(tmp_path_factory, zoo):
    models = {"ear": str(small_ear(tmp_path_factory.mktemp("ear")))}
    models["rain"] = str(tmp_path_factory.mktemp("rain"))
    stable_audio(zoo, models["rain"])
    with serving(tmp_path_factory.mktemp("server"), models=models, loading={"dtype": "fp32"}) as s:
        yield s


@pytest.fixture(scope="module")
def client(ear):
    return openai.OpenAI(base_url=f"{ear.url}/v1", api_key="none", max_retries=0)


def sound(seconds=2.0):
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, (1, int(seconds * 16000))).astype(np.float32)
    return ("talk.flac", encode(samples, 16000, ".flac"))


OWN = {"temperature": 0.3}  # no second tries, which random weights always ask for


def test_every_format(client):
    def asked(kind, **more):
        return client.audio.transcriptions.create(
            file=sound(), model="ear", language="en", response_format=kind, **more, **OWN
        )

    text = asked("json").text
    assert text and asked("text").strip() == text
    verbose = asked("verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.text == text and verbose.language == "english" and verbose.duration == 2
    assert verbose.segments[0].end > 0 and verbose.words[0].word
    only = asked("verbose_json", timestamp_granularities=["word"])
    assert only.words and not only.segments
    assert asked("srt").startswith("1\n00:00:0") and asked("vtt").startswith("WEBVTT\n")


def test_events(client):
    stream = client.audio.transcriptions.create(
        file=sound(), model="ear", language="en", stream=True, **OWN
    )
    events = list(stream)
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done" and len(events) > 1
    assert "".join(event.delta for event in events[:-1]).strip() == events[-1].text


def test_translations(client):
    reply = client.audio.translations.create(
        file=sound(), model="ear", response_format="verbose_json", **OWN
    )
    assert reply.text and reply.model_dump()["task"] == "translate"


def test_what_is_refused(ear, client):
    for file, sentence in ((("x.wav", b"RIFF nonsense"), "damaged"), (("x.wav", b""), "no sound")):
        with pytest.raises(openai.BadRequestError, match=sentence):
            client.audio.transcriptions.create(file=file, model="ear")
    with pytest.raises(openai.BadRequestError, match="'xx' is none that this model knows"):
        client.audio.transcriptions.create(file=sound(), model="ear", language="xx")
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.audio.transcriptions.create(file=sound(), model="ear", response_format="docx")  # type: ignore[call-overload]
    job = ear.post("/v1/jobs", medium="transcription", model="ear", prompt="/etc/hostname")
    assert job.status_code == 400 and "a file of the server's" in job.json()["error"]["message"]
    wrong = client.audio.transcriptions.with_raw_response
    with pytest.raises(openai.APIStatusError, match="house/text"):
        wrong.create(file=sound(), model="house/text")


def test_the_command_line_through_the_server(ear, tmp_path):
    from daedal.pipelines.transcription import connect, load

    (tmp_path / "talk.flac").write_bytes(sound()[1])
    remote = connect(ear.url, "ear")
    heard = remote(tmp_path / "talk.flac", language="en", temperature=0.3, words=True)
    own = load(ear.server.options.models["ear"], dtype="fp32")
    here = own(tmp_path / "talk.flac", language="en", temperature=0.3, words=True)
    assert heard.text == here.text and heard.seconds == here.seconds
    assert json.loads(heard.formatted("verbose_json"))["text"] == here.text
    assert [s.start for s in heard.segments] == [s.start for s in here.segments]


def test_music(ear, client):
    """A tune as sound and as notes; what is asked is in it; jobs make it too."""
    asked = {"prompt": "a polka in G major, 8 bars, AB", "seed": 4, "bpm": 140}
    for kind, beginning in (
        ("wav", b"RIFF"),
        ("flac", b"fLaC"),
        ("opus", b"OggS"),
        ("mid", b"MThd"),
        ("abc", b"X:1"),
        ("svg", b"<svg"),
    ):
        reply = ear.post("/v1/audio/generations", response_format=kind, **asked)
        assert reply.status_code == 200 and reply.content.startswith(beginning), reply.text
    assert "K:G" in ear.post("/v1/audio/generations", response_format="abc", **asked).text
    wrong = ear.post("/v1/audio/generations", prompt="a jig", key="H")
    assert wrong.status_code == 400 and "the key" in wrong.json()["error"]["message"]
    from daedal.pipelines.music import connect, load

    remote = connect(ear.url, "house/tunes")("a polka, 8 bars, AB", seed=4)
    here = load("house/tunes")("a polka, 8 bars, AB", seed=4)
    assert remote.rate == here.rate and np.abs(remote.samples - here.samples).max() < 1e-4
    assert remote.recipe["settings"]["seed"] == 4
    job = ear.post(
        "/v1/jobs", medium="music", prompt="a polka, 8 bars, AB", settings={"seed": 4}
    ).json()
    while (row := ear.http.get(f"/v1/jobs/{job['id']}").json())["status"] not in (
        "completed",
        "failed",
    ):
        pass
    assert ear.http.get(f"/v1/jobs/{job['id']}/content").content.startswith(b"RIFF"), row


def test_sounds(ear):
    asked = {"prompt": "a cat", "seed": 4, "steps": 2, "seconds": 0.1}
    for kind, beginning in (("wav", b"RIFF"), ("flac", b"fLaC"), ("opus", b"OggS")):
        reply = ear.post("/v1/audio/sounds", response_format=kind, **asked)
        assert reply.status_code == 200 and reply.content.startswith(beginning), reply.text
    from daedal.pipelines.sound import connect, load

    settings = {key: value for key, value in asked.items() if key != "prompt"}
    remote = connect(ear.url, "rain")("a cat", **settings)
    here = load(ear.server.options.models["rain"], dtype="fp32")("a cat", **settings)
    assert remote.rate == here.rate and np.abs(remote.samples - here.samples).max() < 1e-4
    long = ear.post("/v1/audio/sounds", **asked | {"seconds": 90})
    assert long.status_code == 400 and "was trained to make" in long.json()["error"]["message"]
    other = ear.post("/v1/audio/sounds", model="house/tunes", **asked)
    assert other.status_code == 400 and "cannot do sound" in other.json()["error"]["message"]
