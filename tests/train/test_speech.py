"""Training of letters to phonemes and of a voice's student: they learn, resume, and write folders
that open."""

import json
import random

import pytest
import torch

from daedal import checkpoints
from daedal.data.phonemes.speller import Speller
from daedal.networks.vits import VitsModel
from daedal.train import tasks
from daedal.train.phonemes import scores

SOUNDS = {
    "a": "AA1",
    "b": "B",
    "c": "K",
    "d": "D",
    "e": "EH1",
    "x": "K S",
    "t": "T",
    "i": "IH1",
    "s": "S",
}


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """A language in which every letter has its sound."""
    rng, file = random.Random(0), tmp_path_factory.mktemp("words") / "toy.dict"
    words = {"".join(rng.choices(list(SOUNDS), k=rng.randint(2, 4))) for _ in range(600)}
    file.write_text(
        "\n".join(f"{w} {' '.join(SOUNDS[c] for c in w)}" for w in sorted(words)) + "\n"
    )
    return file


def recipe(dictionary, out, **more):
    given = {
        "dictionary": str(dictionary),
        "out": str(out),
        "steps": 60,
        "rows": 32,
        "micro_rows": 32,
        "evaluate_every": 60,
        **more,
    }
    model = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "ffn_dim": 32,
        "state_size": 32,
        "embedding_size": 16,
    }
    optimizer = {"name": "adamw", "adam_lr": 0.01, "warmup": 5}
    raw = {"task": "phonemes", "model": model, "optimizer": optimizer, "dtype": "fp32", **given}
    return tasks.check(raw, "test")


def test_it_learns_to_spell_words_that_it_never_saw(dictionary, tmp_path):
    folder = tasks.run(recipe(dictionary, tmp_path / "a"))
    found = json.loads((tmp_path / "a" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert found["words_right"] > 0.9 and found["phoneme_error"] < 0.05 and found["words"] > 10
    speller = Speller.load(folder)
    assert speller("xabb") == ("K", "S", "AA1", "B", "B")
    readings = {
        line.split()[0]: tuple(line.split()[1:]) for line in dictionary.read_text().splitlines()
    }
    assert all(speller(word) == reading for word, reading in readings.items())  # the lexicon mends


def test_a_stopped_run_goes_on_to_the_same_losses(dictionary, tmp_path):
    tasks.run(recipe(dictionary, tmp_path / "whole", steps=8))
    tasks.run(recipe(dictionary, tmp_path / "cut", steps=4))
    tasks.run(
        recipe(
            dictionary,
            tmp_path / "cut",
            steps=8,
            optimizer={"name": "adamw", "adam_lr": 0.01, "warmup": 5},
        )
    )
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert losses[0][:4] == losses[1][:4] and len(losses[1]) == 8
    assert tasks.plan(recipe(dictionary, tmp_path / "plan"))["parameters"] > 1000


def test_scores_take_the_nearest_reading():
    right = {"read": [("R", "EH1", "D"), ("R", "IY1", "D")], "cat": [("K", "AE1", "T")]}
    found = scores({"read": ("R", "IY1", "D"), "cat": ("K", "AE2", "P")}, right)
    assert found["words_right"] == 0.5 and found["phoneme_error"] == pytest.approx(1 / 6)


def test_a_student_learns_the_teachers_latents(tmp_path):
    texts = tmp_path / "a.txt"
    texts.write_text("\n\n".join(f"The captain number {i} looked at the sea." for i in range(20)))
    source = [{"path": str(texts)}]
    raw = {
        "task": "voice",
        "teacher": "house/voice",
        "texts": source,
        "validation": source,
        "sentences": 16,
        "evaluate_sentences": 2,
        "out": str(tmp_path / "out"),
        "steps": 6,
        "rows": 2,
        "micro_rows": 2,
        "evaluate_every": 6,
        "student": {"blocks": 1, "inner": 16},
        "ema": None,
        "optimizer": {"name": "adamw", "adam_lr": 0.003, "warmup": 1},
        "dtype": "fp32",
    }
    folder = tasks.run(tasks.check(raw, "test"))
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert 0 < json.loads((tmp_path / "out" / "evaluations.jsonl").read_text())["unexplained"] < 2
    made = checkpoints.load(folder, torch.float32)
    assert isinstance(made, VitsModel) and made.config.student_blocks == 1
    from daedal.pipelines.speech import load

    assert load(folder)("Good morning.").seconds > 0.4
