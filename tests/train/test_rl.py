"""The loop of reinforcement learning: it learns, it stops when it should, and neither kills nor
splits change its course."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import daedal
from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.scalar import ScalarModel
from daedal.nn.lora import add_lora
from daedal.train import policy, rl
from daedal.train.recipe.base import ModelRecipe
from daedal.train.rewards import named
from daedal.train.tasks import load_recipe, run
from daedal.worlds import arithmetic

GRPO = Path(__file__).parents[2] / "recipes/chat/grpo.yaml"
TEMPLATE = "<|bos|>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
QUICK = [
    "rollout={questions: 4, group: 4}", "rows=8", "micro_rows=4", "steps=6", "answer_tokens=8", "checkpoint_every=2", "evaluate_every=100",
    "evaluate_tasks=2", "sample_every=100", "optimizer.adam_lr=0.002", "data.reward=tests.train.test_rl:vowels", "shortest=0",
]  # fmt: skip


def vowels(prompt: str, completion: str) -> float:
    """Counts what a policy of any weights can learn to say more of."""
    return sum(c in "ae" for c in completion) / (1 + len(completion))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import random

    folder = tmp_path_factory.mktemp("policy")
    texts = [
        " ".join((task.prompt, task.answer))
        for task in (arithmetic.task(random.Random(i)) for i in range(200))
    ]
    special = ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>")
    tokenizer = Tokenizer.train(
        texts, 400, special, bos="<|bos|>", eos="<|end|>", chat_template=TEMPLATE
    )
    raw = ModelRecipe(
        depth=1, context=128, options={"hidden_size": 64, "tie_word_embeddings": True}
    ).config(400, 0, 1)
    network = build(config_from_dict(raw)).init_weights(0)
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    checkpoints.save(network, folder)
    tokenizer.save(folder)
    (folder / "short.jsonl").write_text(
        "".join(f'{{"prompt": "{name} has"}}\n' for name in ("Mia", "Tom", "Ana"))
    )
    return folder


def recipe(start: Path, out: Path, *overrides: str) -> Any:
    return load_recipe(GRPO, [f"start={start}", *QUICK, f"out={out}", *overrides])


def train(start: Path, out: Path, *overrides: str) -> Path:
    return run(recipe(start, out, *overrides))


def lines(out: Path, *keys: str) -> list[list[float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [[row[key] for key in keys] for row in rows]


COURSE = ("loss", "kl", "entropy", "reward", "length")


@pytest.fixture(scope="module")
def reference(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference")
    train(start, out)
    return out


def test_a_run_ends_in_a_folder_and_logs_its_curves(reference: Path) -> None:
    keys = ("reward", "kl", "entropy", "length", "dropped", "clipped", "ended")
    assert len(lines(reference, *keys)) == 6
    [(first,), *_, (last,)] = lines(reference, "kl")
    assert first == 0 and last > 0  # the first step's policy is the reference, to the last bit
    assert daedal.load(str(reference / "model"))("Mia", max_tokens=3, seed=0).tokens


def test_sigkill_and_restart_give_the_same_trajectory(
    start: Path, reference: Path, tmp_path: Path
) -> None:
    """Also with a checkpoint in the middle of a rollout: three steps, two steps a rollout."""
    overrides = [f"start={start}", *QUICK, f"out={tmp_path}", "checkpoint_every=3"]
    code = "import sys, torch; torch.set_num_threads(1); from daedal.cli import main; sys.argv[0] = 'daedal'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", str(GRPO), *overrides],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and process.poll() is None
        and not (metrics.exists() and metrics.read_text().count("\n") >= 4)
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(lines(tmp_path, "loss")) < 6
    train(start, tmp_path, "checkpoint_every=3")
    # to rounding: a fresh process and one that has run a thousand tests multiply at other addresses
    course = (torch.tensor(lines(folder, *COURSE)) for folder in (tmp_path, reference))
    torch.testing.assert_close(*course, rtol=1e-4, atol=1e-6)


def test_micro_batches_do_not_matter(start: Path, reference: Path, tmp_path: Path) -> None:
    train(start, tmp_path, "micro_rows=2")
    torch.testing.assert_close(
        torch.tensor(lines(tmp_path, *COURSE)),
        torch.tensor(lines(reference, *COURSE)),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_same_course(
    start: Path, reference: Path, tmp_path: Path, parallel: str
) -> None:
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "daedal",
        "train",
        str(GRPO),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*run, f"start={start}", *QUICK, f"out={tmp_path}", f"parallel={parallel}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(
        torch.tensor(lines(tmp_path, *COURSE)),
        torch.tensor(lines(reference, *COURSE)),
        rtol=1e-3,
        atol=1e-4,
    )
    for mine, theirs in zip(
        *(checkpoints.load(out / "model").parameters() for out in (tmp_path, reference)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "method", ["grpo", "rloo", "reinforce++", "dapo", "dr_grpo", "gspo", "cispo"]
)
def test_every_method_earns_more(start: Path, tmp_path: Path, method: str) -> None:
    rollout = f"rollout={{questions: 8, group: 8, dynamic: {str(method == 'dapo').lower()}}}"
    more = [
        rollout,
        "rows=64",
        "micro_rows=64",
        "steps=10",
        "checkpoint_every=100",
        "kl=0",
        "optimizer={adam_lr: 0.01, warmup: 1}",
    ]
    train(
        start,
        tmp_path,
        f"method={method}",
        f"data.train=[{{path: {start / 'short.jsonl'}}}]",
        *more,
    )
    rewards = [reward for (reward,) in lines(tmp_path, "reward")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.08


@pytest.fixture(scope="module")
def judge(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the policy's shape that likes one direction of its last state."""
    folder = tmp_path_factory.mktemp("judge")
    model = ScalarModel(checkpoints.load(start, dtype=torch.float32))
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    checkpoints.save(model, folder)
    Tokenizer.load(start).save(folder)
    return folder


PPO = [
    "method=ppo",
    "rollout={questions: 32, group: 1}",
    "rows=16",
    "micro_rows=16",
    "epochs=2",
    "steps=8",
]


def test_ppo_learns_policy_and_value_and_goes_on_after_a_stop(
    start: Path, judge: Path, tmp_path: Path
) -> None:
    """A rollout is four steps here, and the second run begins in the middle of one."""
    overrides = [
        *PPO,
        f"data.reward={judge}",
        f"value={judge}",
        "kl=0.1",
        "kl_target=0.5",
        "steps=10",
    ]
    train(start, tmp_path / "whole", *overrides, "checkpoint_every=100")
    train(start, tmp_path / "parts", *overrides, "checkpoint_every=7")
    # so that the last three steps are done again
    (tmp_path / "parts/checkpoints/step-00000010.pt").unlink()
    train(start, tmp_path / "parts", *overrides, "checkpoint_every=7")
    assert lines(tmp_path / "parts", *COURSE, "kl_weight") == lines(
        tmp_path / "whole", *COURSE, "kl_weight"
    )
    weights = [weight for (weight,) in lines(tmp_path / "whole", "kl_weight")]
    assert weights[0] == 0.1 and weights[-1] != 0.1
    value = checkpoints.load(tmp_path / "whole/value", kind=ScalarModel)
    assert not torch.equal(
        value.score.weight, checkpoints.load(judge, kind=ScalarModel).score.weight
    )


def test_ppo_earns_more(start: Path, tmp_path: Path) -> None:
    more = [
        "method=ppo",
        "rollout={questions: 64, group: 1}",
        "rows=64",
        "micro_rows=64",
        "steps=10",
        "kl=0",
        "optimizer={adam_lr: 0.01, warmup: 1}",
    ]
    train(
        start,
        tmp_path,
        *more,
        f"data.train=[{{path: {start / 'short.jsonl'}}}]",
        "checkpoint_every=100",
    )
    rewards = [reward for (reward,) in lines(tmp_path, "reward")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.03


def test_a_reward_model_reads_the_end_of_the_answer(start: Path, judge: Path) -> None:
    reward, tokenizer = named(str(judge)), Tokenizer.load(start)
    ids = tokenizer.encode(
        "<|bos|><|user|>Mia?<|end|><|assistant|>yes<|end|>", special=True, add_bos=False
    )
    assert reward("Mia?", "yes") == pytest.approx(
        checkpoints.load(judge, kind=ScalarModel)(torch.tensor([ids]))[0, -1].item(), abs=1e-5
    )


def test_a_value_network_of_another_vocabulary_is_refused(start: Path, tmp_path: Path) -> None:
    raw = ModelRecipe(depth=1, context=128, options={"hidden_size": 64}).config(500, 0, 1)
    checkpoints.save(ScalarModel(build(config_from_dict(raw)).init_weights(0)), tmp_path / "other")
    with pytest.raises(DaedalError, match="vocabulary of 500 and the policy of 400"):
        train(start, tmp_path / "out", *PPO, f"value={tmp_path / 'other'}")


@pytest.mark.parametrize("rank", [0, 4])
def test_epochs_and_lora(start: Path, tmp_path: Path, rank: int) -> None:
    train(
        start,
        tmp_path,
        "epochs=2",
        "steps=8",
        f"adapter={{rank: {rank}}}" if rank else "adapter=null",
    )
    assert lines(tmp_path, "kl")[-1][0] > 0 and (tmp_path / "adapter").exists() == bool(rank)
    trained, before = (checkpoints.load(folder) for folder in (tmp_path / "model", start))
    assert not torch.equal(
        trained.layers[0].mlp.up_proj.weight, before.layers[0].mlp.up_proj.weight
    )
    if rank:
        assert torch.equal(trained.norm.weight, before.norm.weight)


def test_the_reference_of_a_lora_is_the_network_with_it_off(start: Path) -> None:
    network, tokens = checkpoints.load(start, dtype=torch.float32), torch.randint(400, (2, 9))
    before = network(tokens)
    add_lora(network, 4, targets=["q_proj", "up_proj"])
    for name, p in network.named_parameters():
        p.data += 0.1 * (".lora_B" in name)
    with policy.adapters_off(network):
        assert torch.equal(network(tokens), before)
    assert not torch.allclose(network(tokens), before)


def test_answers_to_held_out_questions_are_measured(start: Path, tmp_path: Path) -> None:
    train(start, tmp_path, "steps=1")
    [line] = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["held_out"] == 0.0 and "standard_error" in json.loads(line)


# ---- what stops a run ----------------------------------------------------------------------------


def test_a_policy_far_from_the_reference_stops_the_run_and_keeps_a_checkpoint(
    start: Path, tmp_path: Path
) -> None:
    with pytest.raises(DaedalError, match=r"kl_stop = 0\.05.*checkpoint, of step \d+, is kept"):
        train(
            start,
            tmp_path,
            "optimizer.adam_lr=0.01",
            "kl_stop=0.05",
            "steps=40",
            "kl=0",
            "checkpoint_every=1",
        )
    kept = max(
        int(path.stem.removeprefix("step-")) for path in (tmp_path / "checkpoints").iterdir()
    )
    assert train(start, tmp_path, f"steps={kept}").exists()  # as the sentence says


def test_held_out_tasks_that_get_worse_stop_the_run(start: Path, tmp_path: Path) -> None:
    """The reward pays for vowels, the tasks' own check for a right result; nothing is right, where
    once much was."""
    train(start, tmp_path, "steps=2")
    [path] = (tmp_path / "checkpoints").iterdir()
    state = torch.load(path, weights_only=True)
    state["data"]["best"] = 0.9
    torch.save(state, path)
    with pytest.raises(
        DaedalError, match=r"own check, down from 0\.9.*please the reward.*step 2, is kept"
    ):
        train(start, tmp_path, "steps=4", "held_out_drop=0.5", "checkpoint_every=100")


def silence(prompt: str, completion: str) -> float:
    return -len(completion)


def test_a_collapsed_length_stops_the_run(start: Path, tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match=r"down to \d\.\d tokens on average"):
        train(
            start, tmp_path, "data.reward=tests.train.test_rl:silence", "shortest=7.9", "steps=40"
        )


CALLS = iter(range(10**6))


def fails_at_times(prompt: str, completion: str) -> float:
    if next(CALLS) % 4 == 0:
        raise OSError("the judge is out")
    return vowels(prompt, completion)


def fails(prompt: str, completion: str) -> float:
    return float("nan")


def test_failing_rewards_drop_samples_and_too_many_stop(start: Path, tmp_path: Path) -> None:
    train(start, tmp_path / "some", "data.reward=tests.train.test_rl:fails_at_times", "steps=2")
    assert lines(tmp_path / "some", "dropped") == [[4.0], [4.0]]
    with pytest.raises(
        DaedalError, match=r"the reward failed for 16 of 16 completions.*the reward is nan"
    ):
        train(start, tmp_path / "all", "data.reward=tests.train.test_rl:fails")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["rollout.group=1", "rollout.questions=16"], "at least 2"),
        (["rows=7"], "must split into rows = 7"),
        (["parallel=fsdp", "adapter={rank: 4}"], "use parallel: ddp"),
        (["method=ppg"], "method"),
        (["answer_tokens=120"], "the prompt .* tokens"),
        (["rollout.temperature=0"], "rollout.temperature"),
        (["data.reward=check", "data.train=[{path: PROMPTS}]"], "nothing checks an answer"),
    ],
)
def test_bad_recipes_are_one_sentence(
    start: Path, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    with pytest.raises(DaedalError, match=sentence):
        train(
            start,
            tmp_path / "out",
            *(
                override.replace("PROMPTS", str(tmp_path / "prompts.jsonl"))
                for override in overrides
            ),
        )


def test_prompts_of_a_file_are_checked_by_their_answers(start: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "2 + 2?", "answer": "4"}\n{"prompt": "Who?", "answer": "Mia"}\n'
    )
    train(
        start,
        tmp_path / "out",
        "data.reward=check",
        f"data.train=[{{path: {tmp_path / 'prompts.jsonl'}}}]",
        "steps=2",
    )
    assert rl.Questions and lines(tmp_path / "out", "dropped") == [[0.0], [0.0]]
