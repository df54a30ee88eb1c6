"""A new medium works on every verb with the files of tests/toy and one line in the registry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import daedal
from daedal.cli import verbs
from daedal.errors import DaedalError
from daedal.pipelines.registry import MEDIA, medium_named
from daedal.settings import settings_of
from tests.toy.params import TONE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("daedal.pipelines.registry.MEDIA", MEDIA)
    MEDIA.insert(0, TONE)  # the one line
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tone.json").write_text('{"octave": 1}')
    (tmp_path / "model" / "config.json").write_text("{}")
    yield tmp_path / "model"
    MEDIA.remove(TONE)


def run(*words: Any) -> Any:
    return CliRunner().invoke(verbs(), [str(word) for word in words])


def test_from_python(folder: Path) -> None:
    pipeline = daedal.load(str(folder))
    seen: list[tuple[int, int]] = []
    tone = pipeline("a", seconds=0.3, on_progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)] and len(tone.wave) == 2400
    assert [len(each.wave) for each in pipeline("c", n=2)] == [800, 800]
    assert np.array_equal(pipeline.reproduce(tone.recipe).wave, tone.wave)
    assert [step.done for step in pipeline.stream("a", seconds=0.3)] == [1, 2, 3]
    handle = pipeline.start("a", seconds=10)
    handle.cancel()
    with pytest.raises(DaedalError, match="cancelled"):
        handle.results()
    with pytest.raises(DaedalError, match="did you mean 'seconds'"):
        pipeline("a", second=1)
    with pytest.raises(DaedalError, match="seconds=11 is out of range"):
        pipeline("a", seconds=11)
    with pytest.raises(DaedalError, match=r"does not apply to .*tones"):
        daedal.load(str(folder), quantize=8)


def test_on_every_verb(folder: Path) -> None:
    assert "--volume" in run("tone", "--help").output
    made = run("tone", "e", "--model", folder, "--seed", 3, "-n", 2, "-o", "e.wav")
    assert made.exit_code == 0 and made.stdout.split() == ["e-1.wav", "e-2.wav"], made.output
    listed = json.loads(run("history", "--json").stdout.splitlines()[0])
    assert (
        listed["medium"] == "tone" and listed["sample"] == 1 and "(tone)" in run("history").stdout
    )
    again = run("again", listed["id"], "-o", "again.wav")
    assert again.exit_code == 0, again.output
    assert Path("again.wav").read_bytes() == Path("e-2.wav").read_bytes()
    row = json.loads(run("tone", "a", "--model", folder, "--json").stdout)
    assert row["prompt"] == "a" and row["finish_reason"] == "stop"
    assert "pitch  880.0 Hz" in run("eval", folder, "--seconds", 1).stdout
    assert run("tone", "a", "--model", folder).stdout == "a-0.wav\n"
    words = ["tone", "a", "--model", str(folder)]
    assert CliRunner().invoke(verbs(), words, input="c\ne\n").stdout == "a-0.wav\n"  # not its input
    assert CliRunner().invoke(verbs(), ["tone", "--model", str(folder)], input="c\n").exit_code == 0


def test_each_medium_is_whole() -> None:
    for medium in MEDIA:
        assert medium_named(medium.name) is medium and medium.code.holds and medium.code.load
        assert {"seed", "n"} - ({"n"} if medium.file else set()) <= settings_of(
            medium.settings
        ).keys() and {
            "device",
            "dtype",
        } <= settings_of(medium.loading).keys()
    with pytest.raises(DaedalError, match="did you mean 'image'"):
        medium_named("images")


def test_a_setting_left_out_means_the_same_everywhere(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own recommendation, else the medium's default: from Python and from the command
    line."""
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "m")
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))

    def both() -> tuple[dict[str, Any], dict[str, Any]]:
        python = daedal.load(str(tmp_path / "m"))("Once", seed=1).recipe["settings"]
        assert run("text", "Once", "--model", tmp_path / "m", "--seed", 1).exit_code == 0
        return python, json.loads(run("history", "--json").stdout.splitlines()[0])["settings"]

    python, command = both()
    assert (
        (python["temperature"], python["top_p"])
        == (command["temperature"], command["top_p"])
        == (0.8, 0.95)
    )
    (tmp_path / "m" / "generation_config.json").write_text(
        '{"top_k": 7, "max_new_tokens": 5, "temperature": null}'
    )
    python, command = both()
    for settings in (python, command):
        assert (
            settings["temperature"],
            settings["top_p"],
            settings["top_k"],
            settings["max_tokens"],
        ) == (1.0, 1.0, 7, 5)
    (tmp_path / "m" / "generation_config.json").write_text('{"do_sample": false}')
    assert both()[0]["temperature"] == 0


def test_a_chat_model_answers_and_raw_continues() -> None:
    chat = daedal.load("house/chat")
    asked = {"temperature": 0, "max_tokens": 12}
    answer, raw = chat("Hello!", **asked), chat("Hello!", raw=True, **asked)
    assert answer.text == chat([{"role": "user", "content": "Hello!"}], **asked).text != raw.text
    assert answer.whole == answer.text and raw.whole == "Hello!" + raw.text
