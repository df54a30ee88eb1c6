"""Policy optimisation against numbers worked by hand, and what must not matter to it."""

import math

import pytest
import torch
from torch import Tensor, tensor

from daedal.processes.sampling import SamplingParams
from daedal.train import rl_objectives as rl

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"typical_p": 0.7},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.8},
]


def close(a: Tensor, b: Tensor | list[float]) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-5, atol=1e-6)


# ---- log-probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
def test_logprobs_and_entropy_in_chunks_are_those_of_all_logits(settings: dict) -> None:
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(6, 19, bias=False), torch.randn(11, 6, requires_grad=True)
    params = SamplingParams(**settings)
    full = rl.truncate(head(hidden), params)
    targets = full.softmax(-1).multinomial(1)[:, 0]
    expected = full.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad(expected @ torch.arange(11.0), [hidden, head.weight])
    for chunk in (3, 100):
        logp, entropy = rl.token_logprobs(head, hidden, targets, params, chunk=chunk)
        close(logp, expected.detach())
        close(
            entropy,
            torch.distributions.Categorical(logits=full.detach()).entropy()
            if not rl.truncates(params)
            else entropy_of(full),
        )
        for mine, theirs in zip(
            torch.autograd.grad(logp @ torch.arange(11.0), [hidden, head.weight]),
            wanted,
            strict=True,
        ):
            close(mine, theirs)


def entropy_of(logits: Tensor) -> Tensor:
    p = logits.detach().softmax(-1)
    return -torch.where(p > 0, p * p.log(), 0.0).sum(-1)


def test_a_support_kept_from_sampling_is_what_later_weights_are_scored_on() -> None:
    torch.manual_seed(0)
    head, hidden, params = (
        torch.nn.Linear(6, 19, bias=False),
        torch.randn(11, 6),
        SamplingParams(top_k=4),
    )
    targets = rl.truncate(head(hidden), params).softmax(-1).multinomial(1)[:, 0]
    support = rl.supports(head, hidden, targets, params, chunk=4)
    assert support.shape == (11, 3) and (rl.unpacked(support, 19).sum(1) == 4).all()
    assert torch.equal(
        rl.token_logprobs(head, hidden, targets, params, support)[0],
        rl.token_logprobs(head, hidden, targets, params)[0],
    )
    with torch.no_grad():
        head.weight += torch.randn(19, 6)  # other tokens are the likeliest now
    assert rl.token_logprobs(head, hidden, targets, params)[0].isinf().any()
    assert rl.token_logprobs(head, hidden, targets, params, support, chunk=4)[0].isfinite().all()


# ---- divergences ---------------------------------------------------------------------------------


def test_kl_estimators_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): the exact mean of k1 and of k3 under p is KL(p, q)."""
    p, q = tensor([0.75, 0.25]), tensor([0.5, 0.5])
    exact = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for estimate in (rl.k1, rl.k3):
        assert float(p @ estimate(p.log(), q.log())) == pytest.approx(exact, abs=1e-6)
    close(rl.k3(p.log(), q.log()), [2 / 3 - 1 + math.log(1.5), 2 - 1 - math.log(2)])


def test_gradient_of_k1_is_nothing_and_of_k3_that_of_the_reverse() -> None:
    """Why k1 is for rewards alone. At samples of p, k3's gradient is that of KL(q, p)."""
    logits = tensor([0.3, -0.4], requires_grad=True)
    q, logp = tensor([0.6, 0.4]), logits.log_softmax(-1)
    at_samples = [(logp.exp().detach() * k(logp, q.log())).sum() for k in (rl.k1, rl.k3)]
    reverse = (q * (q.log() - logp)).sum()
    none, one, wanted = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (*at_samples, reverse)
    )
    close(none, [0.0, 0.0])
    close(one, wanted)


def test_kl_coefficient_fixed_and_adaptive() -> None:
    assert rl.next_kl_coefficient(0.1, 5.0, None, 256) == 0.1
    # the error is bounded by 0.2
    assert rl.next_kl_coefficient(0.1, 5.0, 2.0, 1000) == pytest.approx(0.1 * 1.02)
    assert rl.next_kl_coefficient(0.1, 1.8, 2.0, 1000) == pytest.approx(0.1 * 0.99)


# ---- advantages ----------------------------------------------------------------------------------


def test_group_advantages_by_hand() -> None:
    rewards = tensor([0.0, 1.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0])
    close(rl.group_advantages(rewards, 4, "mean"), [-1, 0, 0, 1, 0, 0, 0, 0])
    close(rl.group_advantages(rewards, 4, "rloo"), [-4 / 3, 0, 0, 4 / 3, 0, 0, 0, 0])
    std = math.sqrt(2 / 3) + 1e-4
    close(rl.group_advantages(rewards, 4, "std"), [-1 / std, 0, 0, 1 / std, 0, 0, 0, 0])
    assert rl.informative(rewards, 4).tolist() == [True] * 4 + [False] * 4


def test_dropped_samples_have_no_advantage_and_no_say() -> None:
    rewards = tensor([0.0, math.nan, 2.0, math.nan, math.nan, 3.0])
    close(rl.group_advantages(rewards, 3, "mean"), [-1, 0, 1, 0, 0, 0])
    assert rl.informative(rewards, 3).tolist() == [True] * 3 + [False] * 3
    assert rl.group_advantages(tensor([math.nan] * 2), 2).tolist() == [0, 0]


def test_gae_by_hand() -> None:
    """gamma 1/2, lambda 1/2; values 1, 2, 4 and rewards 0, 0, 10: deltas 0, 0, 6."""
    rewards, values = tensor([[0.0, 0, 0, 10, 0]]), tensor([[9.0, 1, 2, 4, 9]])
    mask = tensor([[False, True, True, True, False]])
    close(rl.gae(rewards, values, mask, 0.5, 0.5), [[0, 6 / 16, 6 / 4, 6, 0]])
    close(rl.returns_to_go(tensor([[1.0, 2, 3, 4, 5]]), mask), [[0, 9, 7, 4, 0]])
    holed = tensor([[True, False, True]])  # a tool spoke in between
    close(
        rl.gae(tensor([[1.0, 7, 4]]), tensor([[1.0, 9, 2]]), holed, 0.5, 0.5),
        [[1 + 1 - 1 + 0.25 * 2, 0, 2]],
    )


def test_shaped_rewards_put_the_score_on_the_last_token() -> None:
    mask = tensor([[False, True, True, False], [True, True, True, True], [False] * 4])
    kl = torch.full((3, 4), 2.0)
    close(
        rl.shaped_rewards(tensor([1.0, 3, 5]), kl, mask, 0.1),
        [[0, -0.2, 0.8, 0], [-0.2, -0.2, -0.2, 2.8], [0] * 4],
    )


def test_overlong_by_hand() -> None:
    assert [rl.overlong(n, 100, 20) for n in (50, 80, 90, 100, 120)] == [
        0,
        0,
        -0.5,
        -1,
        -1,
    ] and rl.overlong(100, 100, 0) == 0


def test_whitened_is_of_mean_zero_and_variance_one() -> None:
    mask = tensor([[True, True, False], [True, False, True]])
    out = rl.whitened(tensor([[1.0, 2, 100], [3, 100, 6]]), mask)
    assert (
        out[mask].mean().abs() < 1e-6
        and out[mask].var(unbiased=False).item() == pytest.approx(1)
        and (out[~mask] == 0).all()
    )


# ---- losses --------------------------------------------------------------------------------------


def test_ppo_reproduces_a_bandit_worked_by_hand() -> None:
    """Two arms of logits (theta, 0), p = sigmoid(theta). Arm 0 was drawn at theta = 0 (p = 1/2)
    with advantage 1, rate 1.

    Step 1: the gradient of -p / p_old is -2 p (1 - p) = -1/2, so theta = 1/2. There p =
    sigmoid(1/2) = 0.6225, the ratio 1.2449 is beyond 1.2, and no step follows. With advantage -1
    theta goes to -1/2, the ratio is 0.7551 < 0.8, and it stays as well; but from there a batch with
    advantage +1 moves it back by 2 p (1 - p) = 2 * 0.3775 * 0.6225."""
    old = tensor(0.5).log()

    def step(theta: Tensor, advantage: float) -> Tensor:
        theta = theta.detach().requires_grad_()
        logp = torch.stack([theta, torch.zeros(())]).log_softmax(0)[0]
        rl.clipped_loss(logp - old, tensor(advantage), 0.2, 0.2).backward()
        return theta.detach() - theta.grad

    first = step(tensor(0.0), 1.0)
    assert first.item() == pytest.approx(0.5, abs=1e-7) and step(first, 1.0).item() == first.item()
    down = step(tensor(0.0), -1.0)
    assert down.item() == pytest.approx(-0.5, abs=1e-7) and step(down, -1.0).item() == down.item()
    p = 1 / (1 + math.exp(0.5))
    assert step(down, 1.0).item() == pytest.approx(-0.5 + 2 * p * (1 - p), abs=1e-6)


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_on_policy_every_gradient_is_that_of_reinforce(kind: str) -> None:
    """At ratio 1 the gradient is -A grad log p, to the last bit (GSPO's, whose ratio is the
    sequence's, with each completion's mean)."""
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, requires_grad=True)
    mask = tensor([[True] * 5, [True, True, False, False, False], [False, True, True, True, False]])
    logp = logits.log_softmax(-1).gather(-1, torch.randint(7, (3, 5, 1)))[..., 0]
    advantages = rl.group_advantages(tensor([0.0, 1.0, 5.0]), 3)[:, None].expand(3, 5)
    log_ratio = logp - logp.detach()
    loss = {
        "clip": lambda: rl.clipped_loss(log_ratio, advantages),
        "gspo": lambda: rl.clipped_loss(rl.sequence_log_ratio(log_ratio, mask), advantages),
        "cispo": lambda: rl.cispo_loss(logp, log_ratio, advantages),
    }[kind]()
    mean = "sequence" if kind == "gspo" else "token"
    mine, reinforce = (
        torch.autograd.grad(rl.summed(x, mask, mean), logits, retain_graph=True)[0]
        for x in (loss, -advantages * logp)
    )
    torch.testing.assert_close(
        mine, reinforce, rtol=1e-6 if kind == "gspo" else 0, atol=1e-8 if kind == "gspo" else 0
    )


def test_clip_higher_and_cispo_by_hand() -> None:
    log_ratio = tensor([1.5, 0.5, 1.25]).log()
    close(rl.clipped_loss(log_ratio, tensor([1.0, 1.0, 1.0]), 0.2, 0.28), [-1.28, -0.5, -1.25])
    close(rl.clipped_loss(log_ratio, tensor([-1.0, -1.0, -1.0]), 0.2, 0.28), [1.5, 0.8, 1.25])
    logp = tensor([-1.0, -2.0, -3.0], requires_grad=True)
    loss = rl.cispo_loss(logp, log_ratio, tensor([1.0, 1.0, -1.0]), 1.0, 0.28)
    close(loss.detach(), [1.28, 1.0, -3.75])
    close(torch.autograd.grad(loss.sum(), logp)[0], [-1.28, -0.5, 1.25])


def test_value_loss_by_hand() -> None:
    """Returns 1: a value that jumped from 0 to 1 is still charged as 0.2; one that goes away is
    charged in full."""
    values = tensor([1.0, 0.1, -1.0])
    close(rl.value_loss(values, torch.zeros(3), torch.ones(3), 0.2), [0.32, 0.405, 2.0])
    close(rl.value_loss(values, torch.zeros(3), torch.ones(3), None), [0.0, 0.405, 2.0])


def test_means_by_hand() -> None:
    loss, mask = (
        tensor([[1.0, 2, 3, 4], [6, 0, 0, 0], [9, 9, 9, 9]]),
        tensor([[True] * 4, [True] + [False] * 3, [False] * 4]),
    )
    means = {
        mean: float(rl.summed(loss, mask, mean)) / rl.counted(mask, mean, 8)
        for mean in ("token", "sequence", "constant")
    }
    assert means == {"token": 16 / 5, "sequence": (2.5 + 6) / 2, "constant": 16 / 16}
    assert rl.counted(torch.zeros(2, 2, dtype=torch.bool), "token") == 1


@pytest.mark.parametrize("mean", ["token", "sequence", "constant"])
def test_no_split_of_a_batch_changes_its_loss(mean: rl.Mean) -> None:
    torch.manual_seed(0)
    loss, mask = torch.randn(8, 6, dtype=torch.float64), torch.rand(8, 6) > 0.5
    whole = rl.summed(loss, mask, mean) / rl.counted(mask, mean, 6)
    for size in (1, 2, 4):
        parts = zip(loss.split(size), mask.split(size), strict=True)
        close(
            sum(rl.summed(part, kept, mean) / rl.counted(mask, mean, 6) for part, kept in parts),
            whole,
        )
