"""Each loss against numbers worked by hand, and what must not change it."""

from math import exp, log

import pytest
import torch
from torch import tensor

from daedal.train.pair_objectives import (
    bradley_terry,
    centring,
    dpo,
    ipo,
    kto,
    orpo,
    plackett_luce,
    process_loss,
    simpo,
)


def close(loss: torch.Tensor, *wanted: float) -> None:
    torch.testing.assert_close(loss, tensor(wanted), rtol=1e-5, atol=1e-6)


def test_bradley_terry() -> None:
    close(bradley_terry(tensor([2.0]), tensor([1.0])), log(1 + exp(-1)))
    close(bradley_terry(tensor([2.0]), tensor([1.0]), tensor([1.0])), log(2))


def test_plackett_luce() -> None:
    rewards, ranks = tensor([[0.0, 2.0, 1.0]]), tensor([[3, 1, 2]])
    first = exp(2) / (exp(2) + exp(1) + 1)  # 2.0 wins among all, then 1.0 against 0.0
    second = exp(1) / (exp(1) + 1)
    close(plackett_luce(rewards, ranks), -log(first) - log(second))
    close(plackett_luce(rewards, tensor([[1, 1, 1]])), 0.0)
    # the first is not there
    close(
        plackett_luce(rewards, tensor([[0, 2, 1]])),
        bradley_terry(tensor([1.0]), tensor([2.0])).item(),
    )
    close(plackett_luce(rewards, tensor([[2, 1, 2]])), -log(first))  # ties do not compete
    torch.testing.assert_close(plackett_luce(rewards + 5, ranks), plackett_luce(rewards, ranks))


def test_centring_leaves_differences() -> None:
    rewards = tensor([[3.0, 1.0, 9.0]], requires_grad=True)
    loss = centring(rewards, tensor([[1, 2, 0]]))
    loss.sum().backward()
    close(loss, 16.0)
    assert rewards.grad.tolist() == [[8.0, 8.0, 0.0]]


def test_process() -> None:
    loss = process_loss(
        tensor([[0.0, log(3.0), 7.0]]), tensor([[1, 0, 1]]), tensor([[True, True, False]])
    )
    close(loss, (log(2) + log(4)) / 2)


PAIR = [tensor([-1.0]), tensor([-2.0]), tensor([-2.0]), tensor([-2.5])]  # log-ratios 1 and 0.5


def test_dpo_cdpo_ipo() -> None:
    close(dpo(*PAIR, beta=2.0), log(1 + exp(-1)))
    close(dpo(*PAIR, beta=2.0, smoothing=0.25), 0.75 * log(1 + exp(-1)) + 0.25 * log(1 + exp(1)))
    close(ipo(*PAIR, beta=0.5), 0.25)
    close(dpo(PAIR[0], PAIR[1], PAIR[0], PAIR[1], beta=0.1), log(2))  # at the start


def test_dpo_gradient_at_the_start_is_half_beta() -> None:
    chosen, rejected = tensor([-3.0], requires_grad=True), tensor([-4.0], requires_grad=True)
    dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.2).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.1) and rejected.grad.item() == pytest.approx(0.1)


def test_kto() -> None:
    logp, ref, good = tensor([-1.0, -1.0]), tensor([-2.0, -2.0]), tensor([True, False])
    close(
        kto(logp, ref, good, tensor(0.5), beta=2.0, good_weight=1.0, bad_weight=2.0),
        1 - 1 / (1 + exp(-1)),
        2 * (1 - 1 / (1 + exp(1))),
    )
    # an estimate below 0 is 0
    torch.testing.assert_close(
        kto(logp, ref, good, tensor(-3.0), 1.0), kto(logp, ref, good, tensor(0.0), 1.0)
    )


def test_orpo() -> None:
    p, q = 0.5, 0.25  # odds 1 and 1/3
    close(orpo(tensor([log(p)]), tensor([log(q)]), beta=0.1), -log(p) - 0.1 * log(3 / 4))
    assert torch.isfinite(orpo(tensor([0.0]), tensor([-1.0]), 0.1)).all()


def test_simpo() -> None:
    close(simpo(tensor([-1.0]), tensor([-2.0]), beta=2.0, gamma=1.0), log(1 + exp(-1)))
