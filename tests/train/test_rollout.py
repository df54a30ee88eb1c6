"""Rollouts: the training pass gives what the engine drew exactly the probability that it will be
compared with, and new weights are seen."""

import dataclasses
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams
from daedal.train import rewards, rollout
from daedal.train.rl_objectives import truncates

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.8},
]


@pytest.fixture
def network(tiny_folder: Path) -> Decoder:
    return checkpoints.load(tiny_folder, dtype=torch.float32).train()


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.load(tiny_folder)


def drawn(
    network: Decoder, tokenizer: Tokenizer, params: SamplingParams, group: int = 4
) -> dict[str, Tensor]:
    prompts = [
        tokenizer.encode(text)
        for text in ("Once upon a time", "Mia", "The fox and the owl went to")
    ]
    requests = rollout.complete(
        network, tokenizer, prompts, params, [rollout.seed_of(3, i) for i in range(3)], group
    )
    tokens, mask = rollout.padded(requests)
    for row, request in enumerate(requests):
        assert tokens[row, 1:][mask[row]].tolist() == request.output
    batch = {"tokens": tokens, "mask": mask}
    support = rollout.support_of(network, batch, params, 4)
    return batch if support is None else batch | {"support": support}


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_first_ratio_on_policy_is_exactly_one(
    network: Decoder, tokenizer: Tokenizer, settings: dict
) -> None:
    params = SamplingParams(max_tokens=12, **settings)
    batch = drawn(network, tokenizer, params)
    assert ("support" in batch) == truncates(params)
    old = rollout.scored(network, batch, params, rows=4)
    for start in range(0, 12, 4):
        part = rollout.trimmed({key: value[start : start + 4] for key, value in batch.items()})
        logp, entropy = rollout.score(network, part, params)
        assert logp.requires_grad and (entropy[part["mask"]] >= 0).all()
        ratio = (logp - old[start : start + 4, : logp.shape[1]]).exp()
        assert (ratio == 1).all()
    assert (
        (old[batch["mask"]] <= 0).all()
        and old[batch["mask"]].isfinite().all()
        and (old[~batch["mask"]] == 0).all()
    )


def test_the_engines_own_log_probabilities_are_near(network: Decoder, tokenizer: Tokenizer) -> None:
    params = SamplingParams(max_tokens=12, logprobs=0)
    prompts = [tokenizer.encode("Once upon a time")]
    requests = rollout.complete(network, tokenizer, prompts, params, [1], 8)
    tokens, mask = rollout.padded(requests)
    ours = rollout.scored(network, {"tokens": tokens, "mask": mask}, params, rows=8)
    for row, request in enumerate(requests):
        engines = torch.tensor([token.logprob for token in request.stream])
        torch.testing.assert_close(engines, ours[row][mask[row]], rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_rollouts_follow_the_weights(
    network: Decoder, tokenizer: Tokenizer, dtype: torch.dtype | None
) -> None:
    """Whatever the engine captured or kept of the weights before, the next rollout is of these."""
    network.compute_dtype = dtype
    params, prompt = (
        SamplingParams(max_tokens=10, temperature=0, ignore_eos=True),
        tokenizer.encode("Once upon a time"),
    )
    before = rollout.complete(network, tokenizer, [prompt], params, [1], 1)[0].output
    with torch.no_grad():
        for p in network.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    after = rollout.complete(network, tokenizer, [prompt], params, [1], 1)[0].output
    assert after != before
    if dtype is None:
        assert after == generate(network, prompt, params)


def test_what_a_prompt_draws_does_not_depend_on_what_runs_beside_it(
    network: Decoder, tokenizer: Tokenizer
) -> None:
    params = SamplingParams(max_tokens=8)
    prompts = [tokenizer.encode(text) for text in ("Once", "Mia went", "One day, Tom")]
    together = [
        r.output for r in rollout.complete(network, tokenizer, prompts, params, [5, 6, 7], 3)
    ]
    alone = [
        r.output
        for seed, prompt in zip((5, 6, 7), prompts, strict=True)
        for r in rollout.complete(network, tokenizer, [prompt], params, [seed], 3)
    ]
    assert together == alone and len({tuple(output) for output in together}) > 3


# ---- rewards -------------------------------------------------------------------------------------


def scoring(reward: Callable[[str, str], float], completions: list[str]) -> tuple[Tensor, str]:
    with ThreadPoolExecutor(4) as pool:
        some = rewards.Scoring(pool)
        for row, completion in reversed(list(enumerate(completions))):
            some.ask(row, reward, "p", completion)
        return some.rewards(), some.why


def test_rewards_come_in_order_and_from_threads() -> None:
    together = threading.Barrier(2, timeout=10)  # passes only when two are asked at once

    def reward(prompt: str, completion: str) -> float:
        together.wait()
        return len(completion)

    assert scoring(reward, ["a", "bb"])[0].tolist() == [1, 2]


def test_a_reward_that_raises_or_is_no_number_drops_its_sample() -> None:
    answers = {"a": 1, "b": "2.5", "c": math.nan, "d": math.inf, "e": None, "f": "much"}
    found, why = scoring(lambda prompt, completion: answers[completion], [*answers, "not there"])
    assert found[:2].tolist() == [1, 2.5] and found[2:].isnan().all() and why
    rewards.check_dropped(found, 0.9, why)
    with pytest.raises(DaedalError, match=r"5 of 7 completions.*dropped_most = 0\.5"):
        rewards.check_dropped(found, 0.5, why)


def test_a_reward_is_named_by_its_module() -> None:
    assert rewards.named("math:dist") is math.dist
    with pytest.raises(DaedalError, match="not importable"):
        rewards.named("math:nothing")


def test_a_prompt_of_its_own_seed(network: Decoder, tokenizer: Tokenizer) -> None:
    params = dataclasses.replace(SamplingParams(max_tokens=8), seed=None)
    one, two = (
        rollout.complete(network, tokenizer, [tokenizer.encode("Once")], params, [seed], 2)
        for seed in (1, 2)
    )
    assert [r.output for r in one] != [r.output for r in two]
