"""Preference training: log-probabilities by hand, the reference is the start, every method moves
the way it should, bad data get a sentence."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import daedal
from daedal.data import chat
from daedal.data.comparisons import load, stacked
from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.train import assistant, metrics, sampled
from daedal.train.preference import as_pairs, as_singles, logprobs_of
from daedal.train.recipe.chat import SampledRecipe
from daedal.train.tasks import load_recipe, run

RECIPES = Path(__file__).parents[2] / "recipes/chat"
QUICK = ["steps=6", "rows=4", "micro_rows=2", "context=128", "evaluate_tasks=0", "sampled=null", "optimizer.warmup=1", "optimizer.decay=0",
         "optimizer.adam_lr=0.002", "device=cpu", "evaluate_every=100", "sample_every=100", "dtype=fp32"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(chat_base: Path) -> Tokenizer:
    return chat.prepared(Tokenizer.load(chat_base))


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text(
        "".join(
            f'{{"prompt": "say {n}", "chosen": "yes {n}", "rejected": "no no {n}"}}\n'
            for n in range(30)
        )
    )
    return file


def train(base: Path, out: Path, data: Path, *overrides: str) -> Path:
    recipe = load_recipe(
        RECIPES / "dpo.yaml",
        [*QUICK, f"data.train=[{{path: '{data}'}}]", f"start={base}", f"out={out}", *overrides],
    )
    return run(recipe)


def lines(out: Path, name: str = "metrics") -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def test_logprobs_by_hand(chat_base: Path, tokenizer: Tokenizer, pairs_file: Path) -> None:
    network = assistant.network_of(chat_base)
    some = load(ChatSource(path=str(pairs_file)), tokenizer, 128, 0, Counter(), 0)
    totals, counts = logprobs_of(network, stacked(some))
    for b, comparison in enumerate(some):
        for k, talk in enumerate(comparison.talks):
            ids = torch.from_numpy(talk.ids).long()
            logp = network(ids[None]).log_softmax(-1)[0]
            by_hand = sum(logp[i - 1, ids[i]] for i in range(1, len(ids)) if talk.mask[i])
            torch.testing.assert_close(totals[b, k], by_hand, rtol=1e-4, atol=1e-4)
            assert counts[b, k] == talk.mask.sum()


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo", "simpo"])
def test_margins_grow(chat_base: Path, tmp_path: Path, pairs_file: Path, method: str) -> None:
    folder = train(
        chat_base, tmp_path, pairs_file, f"method={method}", "evaluate_every=1", "beta=0.3"
    )
    margins = [line["margin"] for line in lines(tmp_path, "evaluations")]
    # IPO's has a size, 1 / (2 beta)
    assert (
        margins[-1] == pytest.approx(1 / 0.6, abs=0.5)
        if method == "ipo"
        else margins[-1] > margins[0]
    )
    assert lines(tmp_path)[-1]["loss"] < lines(tmp_path)[0]["loss"]
    assert daedal.load(str(folder)).tokenizer.chat_template


def test_dpo_starts_at_log_two_and_micro_batches_do_not_matter(
    chat_base: Path, tmp_path: Path, pairs_file: Path
) -> None:
    for name, options in (("a", ["smoothing=0.1"]), ("b", ["smoothing=0.1", "micro_rows=4"])):
        train(chat_base, tmp_path / name, pairs_file, *options)
    a, b = ([line["loss"] for line in lines(tmp_path / name)] for name in "ab")
    assert a[0] == pytest.approx(math.log(2), rel=1e-5) and a == pytest.approx(b, rel=1e-3)


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize(("method", "first"), [("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5)])
def test_log_ratios_start_at_zero(
    chat_base: Path, tmp_path: Path, pairs_file: Path, method: str, first: float, dtype: str
) -> None:
    """In any precision the reference rounds as the policy does, with an adapter or without one."""
    options = ["steps=1", "beta=0.1", f"method={method}", f"dtype={dtype}"]
    train(chat_base, tmp_path, pairs_file, *options, "micro_rows=4")
    train(chat_base, tmp_path / "lora", pairs_file, *options, "adapter={rank: 4}")
    for out in (tmp_path, tmp_path / "lora"):
        assert lines(out)[0]["loss"] == pytest.approx(first, rel=1e-3 if dtype == "fp32" else 5e-3)


def test_the_reference_of_another_dtype_is_made_anew(
    chat_base: Path, tmp_path: Path, pairs_file: Path
) -> None:
    for dtype in ("fp32", "bf16"):
        train(chat_base, tmp_path, pairs_file, "steps=1", f"dtype={dtype}")
        (tmp_path / "checkpoints/step-00000001.pt").unlink()
    assert {file.name.split("-")[1] for file in tmp_path.glob("reference-*.safetensors")} == {
        "float32",
        "bfloat16",
    }
    assert lines(tmp_path)[0]["loss"] == pytest.approx(math.log(2), rel=5e-3)


def test_the_reference_of_other_pairs_is_made_anew(chat_base: Path, tmp_path: Path) -> None:
    """In the same file, after the checkpoints were deleted to start over: other words, more rows."""
    file = tmp_path / "pairs.jsonl"
    for words, count in (("yes", 4), ("by all means, of course", 4), ("yes", 6)):
        row = '{{"prompt": "say {0}", "chosen": "{1} {0}", "rejected": "no {0}"}}\n'
        file.write_text("".join(row.format(n, words) for n in range(count)))
        train(chat_base, tmp_path / "run", file, "steps=1")
        assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
        (tmp_path / "run/checkpoints/step-00000001.pt").unlink()


def test_a_restart_keeps_the_reference(chat_base: Path, tmp_path: Path, pairs_file: Path) -> None:
    train(chat_base, tmp_path, pairs_file, "checkpoint_every=3")
    first = lines(tmp_path)
    (tmp_path / "checkpoints/step-00000006.pt").unlink()
    train(chat_base, tmp_path, pairs_file, "checkpoint_every=3")
    assert [line["loss"] for line in lines(tmp_path)] == [line["loss"] for line in first]
    # pairs that the first run did not need
    train(chat_base, tmp_path, pairs_file, "checkpoint_every=3", "steps=9")
    assert len(lines(tmp_path)) == 9 and len(list(tmp_path.glob("reference-*.safetensors"))) == 1


def test_an_adapters_reference_is_its_base(
    chat_base: Path, tmp_path: Path, pairs_file: Path
) -> None:
    train(chat_base, tmp_path, pairs_file, "adapter={rank: 4}", "evaluate_every=1")
    assert lines(tmp_path)[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert (
        lines(tmp_path, "evaluations")[-1]["margin"] > 0
        and (tmp_path / "adapter/adapter_config.json").exists()
    )


def test_kto_from_labels(chat_base: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"say {n}",
            "completion": f"{'yes' if n % 2 else 'no'} {n}",
            "label": bool(n % 2),
        }
        for n in range(6)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(chat_base, tmp_path, file, "method=kto", "evaluate_every=1", "beta=0.3")
    last = lines(tmp_path, "evaluations")[-1]
    assert (
        lines(tmp_path)[0]["loss"] == pytest.approx(0.5)
        and last["gained_good"] > last["gained_bad"]
    )
    with pytest.raises(DaedalError, match="method=kto"):
        train(chat_base, tmp_path / "dpo", file)


def test_labels_mean_what_they_say(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    for label, rank in ((True, 1), ("true", 1), (1, 1), (0.0, 2), ("False", 2), ("0", 2)):
        file.write_text(json.dumps({"prompt": "a", "completion": "b", "label": label}) + "\n")
        assert load(ChatSource(path=str(file)), tokenizer, 64, 0, Counter(), 0)[0].ranks == (rank,)
    for row, words in (
        ({"completion": "b", "label": "maybe"}, "neither yes nor no"),
        ({"completions": ["b", "c"], "ranks": [1.5, 2]}, "whole numbers"),
        ({"completions": ["b", "c"], "ranks": [0, 1]}, "1 for the best"),
        ({"chosen": "b", "rejected": "c", "margin": "wide"}, "margin = 'wide'"),
    ):
        file.write_text(json.dumps({"prompt": "a", **row}) + "\n")
        with pytest.raises(DaedalError, match=words):
            load(ChatSource(path=str(file)), tokenizer, 64, 0, Counter(), 0)


def test_good_ones_alone_write_json_without_nan(chat_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"say {n}", "completion": "yes", "label": True}) + "\n"
            for n in range(4)
        )
    )
    train(chat_base, tmp_path / "run", file, "method=kto", "steps=2", "evaluate_every=1")
    assert "NaN" not in (tmp_path / "run/evaluations.jsonl").read_text()
    assert {"gained_good"} == set(lines(tmp_path / "run", "evaluations")[-1]) - {"step"}
    assert metrics.curves([tmp_path / "run"]).size


def test_singles_of_pairs_and_pairs_of_lists(tokenizer: Tokenizer, pairs_file: Path) -> None:
    pool = load(ChatSource(path=str(pairs_file)), tokenizer, 128, 0, Counter(), 0)
    singles = as_singles(pool)
    assert [c.ranks for c in singles[:2]] == [(1, 0), (2, 0)] and len(singles) == 60
    text = tokenizer.decode(singles[0].talks[1].ids.tolist())
    assert text == "say 0yes 1" and singles[0].talks[1].mask.sum() == singles[2].talks[0].mask.sum()
    assert as_pairs(pool)[0].talks == pool[0].talks


def test_its_own_answers(
    chat_base: Path, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(network, tokenizer, asked, params):
        return [["Red or blue. Yes.", "red", "red", ""] for _ in asked]

    monkeypatch.setattr(assistant, "answers", answers)
    found = sampled.tried(SampledRecipe(tasks=200, kinds=["question"]), None, tokenizer, 0, 8)
    assert all(a[0] >= b[0] for _, tried in found for a, b in pairwise(tried))
    assert all(
        row["chosen"] == "red" or row["rejected"] == "red" for row in sampled.pairs(found)
    ) and sampled.pairs(found)
    kept = sampled.kept(found, 1.0)
    assert kept and all(row["completion"] == "red" for row in kept)
    with pytest.raises(DaedalError, match="threshold"):
        recipe = load_recipe(
            RECIPES / "sft.yaml",
            [
                f"start={chat_base}",
                f"out={tmp_path}",
                "context=128",
                "sampled={tasks: 2, kinds: [story]}",
            ],
        )
        run(recipe)


def test_pairs_of_the_policy_train_it_in_one_command(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sampled,
        "pairs",
        lambda found: [
            {"prompt": task.prompt, "chosen": "yes", "rejected": tried[-1][1] or "no"}
            for task, tried in found
        ],
    )
    settings = [
        *QUICK,
        f"start={chat_base}",
        f"out={tmp_path}",
        "sampled={tasks: 3, n: 2}",
        "answer_tokens=4",
    ]
    for steps in (6, 8):  # the second goes on
        run(load_recipe(RECIPES / "dpo.yaml", [*settings, f"steps={steps}"]))
        [file] = tmp_path.glob("pairs-*.jsonl")
        assert len(file.read_text().splitlines()) == 3 and len(lines(tmp_path)) == steps
