"""Adversarial losses by hand-worked numbers; neither side's loss reaches the other's weights."""

import math

import pytest
import torch
from torch import nn

from daedal.train.adversarial import GAMES, PatchGAN, difference, duel, frozen, steepness


def test_games_by_hand() -> None:
    real, made = torch.tensor([2.0, -0.5]), torch.tensor([-1.0, 3.0])
    log = lambda x: math.log1p(math.exp(x))  # noqa: E731
    expected = {
        "logistic": ([log(1), log(-3)], [log(-2) + log(-1), log(0.5) + log(3)]),
        "hinge": ([1, -3], [0, 1.5 + 4]),
        "relativistic": ([log(3), log(-3.5)], [log(-3), log(3.5)]),
    }
    for name, (maker, critic) in expected.items():
        torch.testing.assert_close(
            GAMES[name].maker(real, made), torch.tensor(maker, dtype=torch.float32)
        )
        torch.testing.assert_close(
            GAMES[name].critic(real, made), torch.tensor(critic, dtype=torch.float32)
        )


def test_steepness_by_hand() -> None:
    """The slope of x0^2 + 3 x1 is (2 x0, 3); the penalty's own derivative after x0 is 8 x0."""
    x = torch.tensor([[2.0, 5.0], [-1.0, 0.0]], requires_grad=True)
    penalty = steepness(x[:, 0].square() + 3 * x[:, 1], x)
    assert penalty.tolist() == [16 + 9, 4 + 9]
    penalty.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[16, 0], [-8, 0]]


class Line(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, 1) -> (B, 1)
        return x * self.weight


def test_a_duel_by_hand() -> None:
    """A maker 3 z and a critic 2 x. R1 and R2 are both the critic's slope squared, 4, whose half
    times gamma 0.5 is 2 together."""
    maker, critic, z, real = (
        Line(3.0),
        Line(2.0),
        torch.tensor([[1.0], [-1.0]]),
        torch.tensor([[0.5], [4.0]]),
    )
    made, judged = [[6.0], [-6.0]], [[1.0], [8.0]]
    first, second = duel(GAMES["relativistic"], critic, real, maker(z), gamma=0.5)
    softplus = nn.functional.softplus
    torch.testing.assert_close(first, softplus(torch.tensor(judged) - torch.tensor(made))[:, 0])
    torch.testing.assert_close(
        second, softplus(torch.tensor(made) - torch.tensor(judged))[:, 0] + 0.5 / 2 * (4 + 4)
    )
    one = torch.autograd.grad(
        first.sum(), [maker.weight, critic.weight], allow_unused=True, retain_graph=True
    )
    two = torch.autograd.grad(second.sum(), [maker.weight, critic.weight], allow_unused=True)
    assert one[0] is not None and one[1] is None and two[0] is None and two[1] is not None


@pytest.mark.parametrize("name", GAMES)
def test_one_backward_pass_is_two_alternating_ones(name: str) -> None:
    torch.manual_seed(0)
    maker, critic = Line(0.7), nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    z, real, game = torch.randn(5, 1), torch.randn(5, 1), GAMES[name]
    a, b = duel(game, critic, real, maker(z))
    (a + b).sum().backward()
    together = [p.grad.clone() for p in (*maker.parameters(), *critic.parameters())]
    maker.zero_grad()
    game.maker(critic(real), critic(maker(z))).sum().backward()
    apart = [p.grad.clone() for p in maker.parameters()]
    critic.zero_grad()
    game.critic(critic(real), critic(maker(z).detach())).sum().backward()
    torch.testing.assert_close(together, [*apart, *(p.grad for p in critic.parameters())])


def test_patches() -> None:
    critic = PatchGAN(width=8).init_weights(0)
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    logits, seen = critic(x)
    assert logits.shape == (2, 1, 6, 6) and [f.shape[1:] for f in seen] == [
        (8, 32, 32),
        (16, 16, 16),
        (32, 8, 8),
        (64, 7, 7),
    ]
    torch.testing.assert_close(critic(x[:1])[0], logits[:1], rtol=1e-4, atol=1e-5)
    held, _ = frozen(critic, x)
    assert torch.equal(held, logits)
    held.sum().backward()
    assert x.grad is not None and all(p.grad is None for p in critic.parameters())


def test_difference() -> None:
    a = [torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)]
    b = [torch.tensor([6.0, 8.0]).view(1, 2, 1, 1), torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)]
    torch.testing.assert_close(difference(a, b), torch.tensor([(0.0 + 2.0) / 2]))
