"""The bundled tunes: a prompt's words and settings are kept, files come out, the size holds."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import daedal
from daedal.cli import verbs
from daedal.data.tunes import legal, text_of
from daedal.errors import DaedalError
from daedal.media.score import tonic_class
from daedal.pipelines import history
from daedal.pipelines.music_params import MusicMeasuring, MusicParams
from daedal.pipelines.tunes import MARK, order_of

FOLDER = Path(daedal.__file__).parent / "house" / "tunes"


@pytest.fixture(scope="module")
def band():
    return daedal.load("house/tunes")


def test_size_and_card():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 4_000_000
    assert (FOLDER / MARK).exists() and "licence" in (FOLDER / "README.md").read_text().lower()


def test_a_tune_is_as_asked(band):
    piece = band("a jig in D major for fiddle, 120 bpm, 8 bars, AB", seed=1)
    tune = piece.tune
    assert (tune.rhythm, tune.metre, tune.tonic, tune.mode, tune.bpm) == (
        "jig",
        (6, 8),
        "D",
        "major",
        120,
    )
    assert piece.instrument == "fiddle" and legal(text_of(tune))
    assert piece.seconds == pytest.approx(tune.seconds + 0.6, abs=0.01)
    last = [note for note in tune.played() if note.pitch is not None][-1]
    assert last.pitch % 12 == tonic_class("D")
    assert band.reproduce(piece.recipe).logged == piece.logged
    exact = band("a jig, 8 bars, AB", seed=1, key="Am", bpm=90, seconds=7.25, instrument="harp")
    assert (exact.tune.tonic, exact.tune.mode, exact.tune.bpm) == ("A", "minor", 90)
    assert exact.samples.shape == (1, round(7.25 * exact.rate)) and exact.instrument == "harp"
    assert 0.05 < np.abs(exact.samples).max() <= 1


def test_what_is_snapped_or_refused(band):
    assert (
        order_of("a jig in 4/4", MusicParams())
        .remarks[0]
        .startswith("a jig is written in 6/8, not 4/4")
    )
    assert "written as" in order_of("a reel, 13 bars", MusicParams()).remarks[0]
    assert order_of("a reel", MusicParams(key="f# minor")).tonic == "F#"
    for settings, sentence in (
        ({"instrument": "tuba"}, "'tuba' is not one that plays here"),
        ({"key": "H major"}, "the key"),
        ({"bpm": 5}, "bpm=5 is out of range"),
        ({"init": "x.wav"}, "cannot be given init"),
    ):
        with pytest.raises(DaedalError, match=sentence):
            band("a jig", **settings)
    with pytest.raises(DaedalError, match="the prompt is empty"):
        band(" ")


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        made = CliRunner().invoke(verbs(), ["music", "a polka, 8 bars, AB", "--seed", "2", *words])
        assert made.exit_code == 0, made.output

    run()
    assert (tmp_path / "a-polka-8-bars-ab-2.wav").read_bytes().startswith(b"RIFF")
    for name, beginning in (
        ("a.mid", b"MThd"),
        ("a.abc", b"X:1"),
        ("a.svg", b"<svg"),
        ("a.opus", b"OggS"),
    ):
        run("-o", name)
        assert (tmp_path / name).read_bytes().startswith(beginning)
    entry = history.entries(limit=1)[0]
    again = CliRunner().invoke(verbs(), ["again", str(entry.id), "-o", "b.abc"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "b.abc").read_text() == (tmp_path / "a.abc").read_text()


def test_instruments_of_the_evaluation(band):
    """The ear for tempo and key is right on tunes whose tempo and key are known."""
    from daedal.evals.music import evaluate, tempo_heard

    report = evaluate(band, MusicMeasuring(n=2)).values["as asked"]
    assert report["legal"]["value"] == 1 and report["metre"]["value"] == 1
    piece = band("a reel in G major for piano, 132 bpm, 8 bars, AB", seed=3)
    assert tempo_heard(piece) == 132
