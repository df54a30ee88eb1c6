"""Reward models: rewards do not depend on what lies beside a completion, pairs are learned, the
folder opens in transformers."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.data import chat, steps
from daedal.data.comparisons import Comparisons, comparison_of, encoded, load, stacked
from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.scalar import ScalarModel
from daedal.train import assistant, reward, sampled
from daedal.train.rewards import RewardModel
from daedal.train.tasks import load_recipe, run
from daedal.worlds import arithmetic, instructions

RECIPE = Path(__file__).parents[2] / "recipes/chat/reward.yaml"
QUICK = ["steps=8", "rows=8", "micro_rows=4", "context=128", "evaluate_tasks=8", "task_pairs=40", "data.train=[{path: 'tasks:question'}]",
         "data.validation=[]", "optimizer.warmup=1", "device=cpu"]  # fmt: skip
SOURCE = ChatSource(path="pairs.jsonl")
HI = [{"role": "user", "content": "Hi"}]


def train(base: Path, out: Path, *overrides: str) -> Path:
    return run(
        load_recipe(RECIPE, [*QUICK, "sampled=null", f"start={base}", f"out={out}", *overrides])
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer(chat_base: Path) -> Tokenizer:
    return chat.prepared(Tokenizer.load(chat_base))


def pair(
    tokenizer: Tokenizer, chosen: str, rejected: str, left_out: Counter, length: int = 99, **more
):
    return encoded(
        tokenizer,
        *comparison_of({"prompt": "Hi", "chosen": chosen, "rejected": rejected} | more, SOURCE),
        length,
        left_out,
    )


def test_shapes_of_comparisons() -> None:
    told = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
    want = (HI, [[told[0]], [told[1]]], (1, 2), 0.0)
    assert comparison_of({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, SOURCE) == want
    assert comparison_of({"chosen": [*HI, told[0]], "rejected": [*HI, told[1]]}, SOURCE) == want
    assert comparison_of(
        {"prompt": HI, "chosen": [told[0]], "rejected": [told[1]], "margin": 2}, SOURCE
    ) == (*want[:3], 2.0)
    assert (
        comparison_of({"prompt": "Hi", "completions": ["yes", "no"], "ranks": [1, 2]}, SOURCE)
        == want
    )
    assert comparison_of({"prompt": "Hi", "completion": "no", "label": False}, SOURCE) == (
        HI,
        [[told[1]]],
        (2,),
        0.0,
    )
    with pytest.raises(DaedalError, match="columns:"):
        comparison_of({"question": "Hi"}, SOURCE)


def test_equal_empty_and_long_ones_are_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    assert (
        pair(tokenizer, "yes", "yes", left_out) is None
        and pair(tokenizer, "yes", " ", left_out) is None
    )
    assert (
        pair(tokenizer, "yes", "no", left_out, length=4) is None
        and pair(tokenizer, "yes", "no", left_out) is not None
    )
    assert left_out == {"equal answers": 1, "an empty answer": 1, "more than 4 tokens": 1}
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Hi", "chosen": "a", "rejected": "a"}\n' * 3)
    with pytest.raises(DaedalError, match="3 with equal answers"):
        load(ChatSource(path=str(tmp_path / "pairs.jsonl")), tokenizer, 99, 0, Counter(), 1)


def test_a_long_prompt_loses_its_oldest_turns(tokenizer: Tokenizer) -> None:
    turns = [
        {"role": role, "content": "word " * 8} for _ in range(4) for role in ("user", "assistant")
    ] + HI
    whole = pair(tokenizer, "yes", "no", Counter(), 10_000, prompt=turns)
    cut = pair(tokenizer, "yes", "no", Counter(), 60, prompt=turns)
    assert whole and cut and len(cut.talks[0]) <= 60 < len(whole.talks[0])
    for talk in (*whole.talks, *cut.talks):
        said = tokenizer.decode(
            [int(i) for i, m in zip(talk.ids, talk.mask, strict=True) if m], skip_special=False
        )
        # answers within the prompt are not the completion
        assert said in ("yes<|end|>", "no<|end|>")


def test_rewards_do_not_depend_on_what_lies_beside(chat_base: Path, tokenizer: Tokenizer) -> None:
    network = ScalarModel(assistant.network_of(chat_base))
    torch.nn.init.normal_(network.score.weight)
    pairs = load(ChatSource(path="tasks:question,list"), tokenizer, 128, 0, Counter(), 5)
    together = reward.rewards_of(network, stacked(pairs))
    for row, comparison in zip(together, pairs, strict=True):
        for value, talk in zip(row, comparison.talks, strict=True):
            alone = network(torch.from_numpy(talk.ids).long()[None])[0, -1]
            torch.testing.assert_close(value, alone, rtol=1e-4, atol=1e-4)


def test_learns_and_opens_in_transformers(chat_base: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        "".join(f'{{"prompt": "{n}", "chosen": "yes", "rejected": "no"}}\n' for n in range(8))
    )
    folder = train(
        chat_base,
        tmp_path,
        f"data.train=[{{path: '{tmp_path}/pairs.jsonl'}}]",
        "optimizer.adam_lr=0.01",
        "steps=12",
    )
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] * 0.7
    last = json.loads((tmp_path / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (
        last["low/tasks"] <= last["accuracy/tasks"] <= last["high/tasks"]
        and abs(last["reward_mean"]) < 3
    )
    ours, theirs = (
        checkpoints.load(folder, kind=ScalarModel),
        transformers.AutoModelForSequenceClassification.from_pretrained(folder),
    )
    tokens = torch.randint(8, 400, (2, 20))
    assert theirs.num_labels == 1
    torch.testing.assert_close(
        ours(tokens)[:, -1], theirs(tokens).logits[:, 0], rtol=1e-4, atol=1e-4
    )
    theirs.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(
        checkpoints.load(tmp_path / "theirs", kind=ScalarModel)(tokens), ours(tokens)
    )


def test_micro_batches_do_not_matter_and_a_restart_goes_on(chat_base: Path, tmp_path: Path) -> None:
    train(chat_base, tmp_path / "a", "checkpoint_every=5")
    train(chat_base, tmp_path / "b", "micro_rows=8")
    (tmp_path / "a/checkpoints/step-00000008.pt").unlink()
    train(chat_base, tmp_path / "a", "checkpoint_every=5")
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "a")),
        torch.tensor(losses(tmp_path / "b")),
        rtol=2e-4,
        atol=0,
    )


@pytest.mark.parametrize("bits", ["null", "4"])
def test_ranked_lists_and_an_adapter(chat_base: Path, tmp_path: Path, bits: str) -> None:
    row = {"prompt": "Hi", "completions": ["yes", "no no", "what"], "ranks": [1, 3, 2]}
    (tmp_path / "ranks.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    source = f"data.train=[{{path: '{tmp_path}/ranks.jsonl'}}]"
    folder = train(
        chat_base,
        tmp_path,
        source,
        f"adapter={{rank: 2, bits: {bits}}}",
        "steps=25",
        "optimizer.adam_lr=0.01",
        "evaluate_tasks=4",
    )
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] * 0.8
    assert checkpoints.load(folder, kind=ScalarModel).score.weight.abs().sum() > 0


def test_steps_end_where_they_end(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {
        "prompt": "1 + 1 + 1?",
        "completions": ["1 + 1 = 2.", "2 + 1 = 4."],
        "labels": [True, False],
    }
    (tmp_path / "steps.jsonl").write_text(json.dumps(row) + "\n")
    some = steps.load(
        ChatSource(path=str(tmp_path / "steps.jsonl")), tokenizer, 128, 0, Counter(), 0
    )
    some += steps.load(ChatSource(path="tasks:arithmetic"), tokenizer, 128, 0, Counter(), 20)
    assert some[0].ranks == (1, 2) and {2 in c.ranks for c in some} == {True, False}
    for c in some:
        ids = c.talks[0].ids.tolist()
        ends = [tokenizer.decode(ids[: i + 1]) for i in c.talks[0].mask.nonzero()[0]]
        assert len(ends) == len(c.ranks) and all(text.endswith(".") for text in ends)


def test_made_solutions_slip_once_and_go_on_from_there() -> None:
    """A step is labelled right if and only if the chain up to it is the task's own."""
    for i in range(200):
        prompt, made, labels = steps.worked(random.Random(i), False)
        task = instructions.task(random.Random(i), ["arithmetic"], False)
        right, _ = steps.parts(task.answer)
        assert (
            prompt == task.prompt
            and len(made) == len(labels) == len(right)
            and right[-1].startswith("The answer is")
        )
        first = labels.index(False) if False in labels else len(labels)
        assert (
            labels == [True] * first + [False] * (len(labels) - first)
            and made[:first] == right[:first]
        )
        assert first == len(labels) or made[first] != right[first]
        said = [steps.STEP.fullmatch(step) for step in made[:-1]]
        assert all(a[4] == b[1] for a, b in pairwise(said)) and (
            first == len(labels) - 1 or arithmetic.result_of(made[-1]) == int(said[-1][4])
        )


def test_steps_are_scored_where_they_end(
    chat_base: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    network = ScalarModel(assistant.network_of(chat_base))
    torch.nn.init.normal_(network.score.weight)
    checkpoints.save(network, tmp_path)
    tokenizer.save(tmp_path)
    model = RewardModel(str(tmp_path))
    talk = [{"role": "user", "content": "How many?"}]
    for text in ("3 + 4 = 7. 7 - 2 = 5. The answer is 5.", "3 + 4 = 7\n7 - 2 = 5\nThe answer is 5"):
        by_hand = []
        for end in ("= 7", "= 5", "is 5"):
            part = text[: text.index(end) + len(end) + ("." in text)]
            ids = chat.encode(tokenizer, talk) + tokenizer.encode(part, add_bos=False)
            by_hand.append(network(torch.tensor([ids]))[0, -1].sigmoid().item())
        assert (
            model.steps("How many?", text)
            == pytest.approx(by_hand, rel=1e-4)
            == model.steps(talk, text)
        )
    assert model.steps("How many?", "") == [0.0]


def test_process_rewards_learn_which_step_is_wrong(
    chat_base: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{n}?", "completions": ["yes.", "no.", "yes."], "labels": [True, False, True]}
        for n in range(8)
    ]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data={{train: [{{path: '{tmp_path}/steps.jsonl'}}], validation: [{{path: '{tmp_path}/steps.jsonl'}}]}}"
    folder = train(
        chat_base,
        tmp_path,
        data,
        "kind=process",
        "evaluate_tasks=0",
        "steps=40",
        "optimizer.adam_lr=0.01",
        "optimizer.matrix_lr=0.02",
    )
    assert losses(tmp_path)[0] == pytest.approx(0.6931, abs=1e-3)
    assert (
        json.loads((tmp_path / "evaluations.jsonl").read_text().splitlines()[-1])["accuracy/steps"]
        == 1
    )
    some = steps.load(ChatSource(path=f"{tmp_path}/steps.jsonl"), tokenizer, 128, 0, Counter(), 0)
    values = reward.step_rewards(checkpoints.load(folder, kind=ScalarModel), stacked(some))
    assert (values[:, [0, 2]] > 0).all() and (values[:, 1] < 0).all()


def test_a_text_model_is_no_reward_model(chat_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match="not a reward model"):
        checkpoints.load(chat_base, kind=ScalarModel)
    checkpoints.save(ScalarModel(assistant.network_of(chat_base)), tmp_path)
    assert (checkpoints.load(tmp_path, kind=ScalarModel)(torch.tensor([[1, 2]])) == 0).all()


def test_epochs_show_every_pair_once(tokenizer: Tokenizer) -> None:
    pairs = load(ChatSource(path="tasks:list"), tokenizer, 128, 0, Counter(), 6)
    batches = Comparisons([pairs, pairs[:3]], [2, 1], 3)
    seen = [number for _ in range(3) for number in next(iter(batches))["number"].tolist()]
    assert sorted(seen) == list(range(9))


def test_the_start_s_own_best_and_worst_answers_are_pairs_too(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [instructions.task(random.Random(i), ["question"]) for i in range(6)]
    monkeypatch.setattr(
        sampled,
        "tried",
        lambda *given: [
            (task, [(1.0, task.answer), (0.5, "Yes."), (0.0, "No, no.")]) for task in tasks
        ],
    )
    train(chat_base, tmp_path, "sampled={tasks: 6}", "data.train=[]", "steps=2")
    [file] = tmp_path.glob("pairs-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        (task.messages, task.answer, "No, no.") for task in tasks
    ]
