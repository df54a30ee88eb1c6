"""The trainer's invariances: a kill and a restart, micro-batches, and processes change nothing; a
run ends in a folder others open."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

import daedal
from daedal.errors import DaedalError
from daedal.train import checkpoint, pretrain
from daedal.train.tasks import load_recipe, plan, run

TINY = Path(__file__).parents[2] / "recipes/text/tiny.yaml"
QUICK = ["steps=12", "checkpoint_every=4", "evaluate_every=100", "sample_every=100", "model.context=32", "rows=4", "micro_rows=4", "tokenizer.vocab_size=300",
         "data.validation=[]", "tokenizer.documents=300", "optimizer.warmup=3", "dtype=fp32"]  # fmt: skip


def train(out, *overrides):
    return run(load_recipe(TINY, [*QUICK, f"out={out}", *overrides]))


def losses(out) -> list[float]:
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    train(out)
    return out


def command(out, *overrides):
    code = "import sys, torch; torch.set_num_threads(1); from daedal.cli import main; sys.argv[0] = 'daedal'; main()"
    return [sys.executable, "-c", code, "train", str(TINY), *QUICK, f"out={out}", *overrides]


def test_learns_and_ends_in_a_folder(reference):
    assert losses(reference)[-1] < losses(reference)[0] - 0.5
    text = daedal.load(str(reference / "model"))("Once", max_tokens=5, seed=0)
    assert text.tokens
    theirs = transformers.AutoModelForCausalLM.from_pretrained(reference / "model")
    ours = daedal.load(str(reference / "model")).network
    tokens = torch.randint(0, 300, (1, 20))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.dtype
def test_auto_learns_as_fp32_does(reference, tmp_path):
    train(tmp_path, "dtype=auto")
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path)), torch.tensor(losses(reference)), rtol=3e-2, atol=0
    )


def test_sigkill_and_restart_give_the_same_losses(reference, tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "run"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    metrics, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and process.poll() is None
        and not (metrics.exists() and metrics.read_text().count("\n") >= 6)
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(tmp_path / "run")) < 12
    with open(metrics, "a") as file:
        file.write('{"step": 99, "lo')  # a line that the kill cut short
    train(tmp_path / "run")
    assert losses(tmp_path / "run") == losses(reference)


def test_ctrl_c_saves_and_the_run_goes_on(reference, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "checkpoint_every=100"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (
        metrics.exists() and metrics.read_text().count("\n") >= 2
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "goes on from there" in errors
    train(tmp_path)
    assert losses(tmp_path) == losses(reference)


def test_a_run_that_starts_over_keeps_nothing_of_other_data(tmp_path):
    """The tokenizer and the lines of a run whose checkpoints were deleted are those of the present
    data."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "the sun is warm today and so is the sea"}\n' * 50)
    settings = ["steps=2", "tokenizer.vocab_size=270", f"data.train=[{{path: '{mine}'}}]"]
    train(tmp_path / "new", *settings)
    train(tmp_path / "old", "steps=2", "tokenizer.vocab_size=270")
    shutil.rmtree(tmp_path / "old/checkpoints")
    train(tmp_path / "old", *settings)
    assert losses(tmp_path / "old") == losses(tmp_path / "new")


def test_micro_batches_do_not_matter(reference, tmp_path):
    train(tmp_path, "micro_rows=1")
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path)), torch.tensor(losses(reference)), rtol=2e-4, atol=0
    )


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_give_the_same_losses(reference, tmp_path, kind):
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "daedal",
        "train",
        str(TINY),
        *QUICK,
    ]
    done = subprocess.run(
        [
            *run,
            f"out={tmp_path}",
            f"parallel={kind}",
            "micro_rows=2",
            "data.validation=[{path: 'tales:5:1'}]",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path)), torch.tensor(losses(reference)), rtol=2e-4, atol=0
    )
    # the first process holds all weights
    assert (tmp_path / "evaluations.jsonl").exists() == (kind == "ddp")
    # one process goes on from what two wrote
    one = train(tmp_path, "micro_rows=2", "steps=14", "data.validation=[{path: 'tales:5:1'}]")
    assert len(losses(tmp_path)) == 14 and one.exists()


def test_mixture_of_experts_trains(tmp_path):
    train(
        tmp_path,
        "model.family=mixtral",
        "model.options={num_local_experts: 4, num_experts_per_tok: 2}",
    )
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.3


def test_average_of_weights_is_saved_and_resumed(tmp_path):
    train(tmp_path / "whole", "ema=0.5")
    train(tmp_path / "parts", "ema=0.5", "checkpoint_every=5")
    # so that the last two steps are done again
    (tmp_path / "parts/checkpoints/step-00000012.pt").unlink()
    train(tmp_path / "parts", "ema=0.5", "checkpoint_every=5")
    state, again = (
        checkpoint.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts")
    )
    assert all(torch.equal(a, b) for a, b in zip(state["ema"], again["ema"], strict=True))
    assert not torch.equal(state["ema"][0], next(iter(state["model"].values())))
    saved = daedal.load(str(tmp_path / "whole/model")).network
    torch.testing.assert_close(next(saved.parameters()).data, state["ema"][0])


def test_nan_loss_stops_and_says_where(tmp_path):
    with pytest.raises(DaedalError, match=r"step \d+.*checkpoint"):
        train(tmp_path, "optimizer.name=adamw", "optimizer.adam_lr=1e30", "optimizer.clip=null")


def test_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.pt"] and checkpoint.newest(
        tmp_path
    ) == {"step": 1}


def test_another_recipe_is_refused(reference):
    with pytest.raises(DaedalError, match="another model"):
        train(reference, "model.depth=3")


def test_plan_counts_without_training(tmp_path):
    recipe = load_recipe(TINY, [f"out={tmp_path / 'none'}"])
    planned = plan(recipe)
    assert planned["parameters"] == pretrain.network_of(recipe, FakeTokenizer()).parameter_count()
    assert planned["units"] == "307,200 tokens" and planned["measured_peak_flops"] > 1e9
    assert not (tmp_path / "none").exists()


class FakeTokenizer:
    vocab_size, bos_id, eos_ids = 512, 0, (1,)
