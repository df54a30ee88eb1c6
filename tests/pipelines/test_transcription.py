"""`daedal hear`: an ear with random weights on files of every kind, from Python and the command
line, in every format."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import daedal
from daedal.cli import verbs
from daedal.errors import DaedalError
from daedal.media.audio import save_audio
from daedal.pipelines import history
from daedal.pipelines.registry import medium_of
from tests.systems.ear import small_ear


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_ear(tmp_path_factory.mktemp("ear"))


@pytest.fixture(scope="module")
def ear(folder):
    return daedal.load(folder, dtype="fp32")


@pytest.fixture
def sound(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    monkeypatch.chdir(tmp_path)
    return save_audio(noise(5), tmp_path / "talk.flac", 16000)


def noise(seconds, rate=16000, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (1, int(seconds * rate))).astype(np.float32)


def run(*words):
    return CliRunner().invoke(verbs(), [str(word) for word in words])


def test_python(ear, sound):
    assert medium_of(ear.name).name == "transcription"
    heard = ear(sound, language="en", beams=1, temperature=0)
    assert str(heard) == heard.text and len(heard.segments) > 1 and heard.seconds == 5
    assert ear.reproduce(heard.recipe) == heard
    pieces = list(ear.stream(sound, language="en", beams=1, temperature=0))
    assert "".join(piece.text for piece in pieces).strip() == heard.text
    assert [piece.segment for piece in pieces] == list(heard.segments)
    samples = ear(noise(5)[0], language="English", beams=1, temperature=0)
    assert samples.seconds == 5 and samples.recipe["prompt"].startswith("sha256:")
    assert ear(sound, beams=1, temperature=0).language in ("en", "de")  # heard


def test_formats(ear, sound, tmp_path):
    heard = ear(sound, language="en", beams=1, temperature=0, words=True, format="verbose_json")
    value = json.loads(heard.whole)
    assert value["language"] == "english" and value["duration"] == 5 and value["text"] == heard.text
    assert len(value["segments"]) == len(heard.segments)
    assert (
        all(a["start"] <= a["end"] for a in value["words"]) and "words" not in value["segments"][0]
    )
    srt = heard.formatted("srt").split("\n\n")
    assert len(srt) == len(heard.segments) and srt[1].startswith("2\n00:00:0")
    assert re.match(r"1\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n", srt[0])
    assert heard.formatted("vtt").startswith("WEBVTT\n\n00:00:0")
    assert heard.save(tmp_path / "out.vtt").read_text() == heard.formatted("vtt") + "\n"
    streamed = "".join(
        p.text for p in ear.stream(sound, language="en", beams=1, temperature=0, format="srt")
    )
    assert streamed.strip() == heard.formatted("srt")
    with pytest.raises(DaedalError, match=r"format .str. is not one of text.*did you mean 'srt'"):
        ear(sound, format="str")


def test_command_line(folder, sound):
    asked = ("hear", sound, "--model", folder, "--dtype", "fp32", "--language", "de", "--beams", 1)
    plain = run(*asked, "--temperature", 0)
    assert plain.exit_code == 0 and plain.stdout.strip(), plain.output
    value = json.loads(
        run(*asked, "--temperature", 0, "--format", "verbose_json", "--translate").stdout
    )
    assert value["task"] == "translate" and value["language"] == "german"
    assert run(*asked, "--temperature", 0, "-o", "a.srt").exit_code == 0
    entry = history.entries(limit=1)[0]
    assert entry.prompt == str(sound) and entry.settings["language"] == "de"
    again = run("again", entry.id)
    assert again.exit_code == 0 and again.stdout.strip() == plain.stdout.strip(), again.output
    assert str(run("hear", "--model", folder).exception).startswith(
        "there is no file; write daedal hear FILE"
    )


def test_what_holds_no_speech(ear, folder, sound, tmp_path):
    quiet = save_audio(np.zeros((1, 40000), np.float32), tmp_path / "quiet.wav", 16000)
    handle = ear.start(quiet)
    assert handle.results()[0].text == "" and handle.results()[0].segments == ()
    assert handle.remarks == ("nothing was heard that is speech.",)
    said = run("hear", quiet, "--model", folder, "--dtype", "fp32")
    assert said.exit_code == 0 and "nothing was heard" in said.stderr
    (tmp_path / "broken.wav").write_bytes(b"RIFFxxxxWAVE" + bytes(range(200)))
    with pytest.raises(DaedalError, match=r"broken.wav is damaged, or no sound file"):
        ear(tmp_path / "broken.wav")
    with pytest.raises(DaedalError, match=r"there is no sound file .*none.wav"):
        ear("none.wav")
    with pytest.raises(DaedalError, match="language 'xx' is none that this model knows"):
        ear(quiet, language="xx")


def test_any_rate_and_the_sound_of_a_video(ear, sound, tmp_path):
    """8 kHz in stereo, and a video with a sound track."""
    telephone = save_audio(np.repeat(noise(3, 8000), 2, 0), tmp_path / "call.wav", 8000)
    assert ear(telephone, language="en", beams=1, temperature=0).seconds == 3
    video = filmed(tmp_path / "film.mp4")
    assert ear(video, language="en", beams=1, temperature=0).seconds == pytest.approx(2, abs=0.1)


def filmed(path):
    import av

    with av.open(str(path), "w") as out:
        picture, track = out.add_stream("mpeg4", rate=10), out.add_stream("aac", rate=16000)
        picture.width = picture.height = 32
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        whole = noise(2)
        for at in range(0, 32000, 1024):
            part = np.ascontiguousarray(whole[:, at : at + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, at
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def test_cancelled_within_a_token(ear, sound):
    handle = ear.start(noise(60)[0], language="en", beams=1, temperature=0)
    next(iter(handle))
    handle.cancel()
    assert handle.generation.finished == "cancelled"
    with pytest.raises(DaedalError, match="cancelled"):
        handle.results()


def test_error_rates(ear, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from daedal.evals.transcription import edits, evaluate
    from daedal.pipelines.transcription_params import TranscriptionMeasuring

    assert edits("kitten", "sitting") == 3 and edits("", "ab") == 2 and edits("ab", "ab") == 0
    clips = [
        save_audio(noise(1, seed=i), tmp_path / f"{i}.wav", 16000).read_bytes() for i in (1, 2)
    ]
    pq.write_table(pa.table({"audio": clips, "text": ["one two", "three"]}), tmp_path / "x.parquet")
    report = evaluate(ear, TranscriptionMeasuring(data=str(tmp_path / "x.parquet")))
    assert (
        report.values["error"]["words"]["n"] == 2 and report.values["error"]["words"]["value"] > 0
    )
