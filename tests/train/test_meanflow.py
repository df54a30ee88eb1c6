"""MeanFlow: the identity where the average velocity is known, forward derivatives against finite
differences, one step that lands right."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.networks.media_codecs import grid_positions
from daedal.train import meanflow
from daedal.train.tasks import load_recipe, run

TINY = MediaConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, vocab_size=300, text_layers=1, text_length=12, token_size=768,
    patch_size=16, spans=True,
)  # fmt: skip
MEAN, STD = 2.0, 0.5  # of the clean data


def spread(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def moved(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Where the path through x at t is at r: Gaussian data keep their place in standard deviations."""
    return (1 - r) * MEAN + spread(r) / spread(t) * (x - (1 - t) * MEAN)


def exact(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    return (x - moved(x, t, r)) / (t - r)


def instant(x: Tensor, t: Tensor) -> Tensor:
    """d moved / dr at r = t."""
    return -MEAN + (t - (1 - t) * STD**2) / spread(t) ** 2 * (x - (1 - t) * MEAN)


def wild(config: MediaConfig = TINY) -> MediaTransformer:
    network = MediaTransformer(config).init_weights(0)
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return network


def test_the_exact_average_implies_the_exact_velocity() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(50, 1, 1).double() * 2, torch.rand(50, 1, 1).double() * 0.8 + 0.2
    r = t * torch.rand(50, 1, 1).double() * 0.95
    torch.testing.assert_close(
        meanflow.velocity(exact, x, t, r, instant(x, t)), instant(x, t), atol=1e-9, rtol=1e-9
    )


def test_one_step_lands_where_the_data_are() -> None:
    """A small network that learns by the identity alone: from noise, x - u(x, 1, 0) has the data's
    mean and spread."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    u = lambda x, t, r: net(torch.cat([x, t, r], -1))  # noqa: E731
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(700):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 700)
        x0, eps = MEAN + STD * torch.randn(512, 1), torch.randn(512, 1)
        r, t = torch.rand(512, 2, 1).sort(1).values.unbind(1)
        r = torch.where(torch.rand(512, 1) < 0.5, r, t)
        x = (1 - t) * x0 + t * eps
        with torch.no_grad():
            along = u(x, t, t)
        (meanflow.velocity(u, x, t, r, along) - (eps - x0)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        eps, one = torch.randn(4000, 1), torch.ones(4000, 1)
        made = eps - u(eps, one, 0 * one)
    assert made.mean().item() == pytest.approx(
        MEAN, abs=0.08
    ) and made.std().item() == pytest.approx(STD, abs=0.1)


@pytest.mark.parametrize("prediction", ["flow", "x0"])
def test_forward_derivatives_are_those_of_finite_differences(prediction: str) -> None:
    network = wild(replace(TINY, prediction=prediction)).double()
    network.compute_dtype = torch.float64
    positions, text = grid_positions(64, 64, 16), network.encode_text(torch.randint(300, (2, 12)))
    u = meanflow.averaging(network, positions, text)
    u = lambda x, t, r, u=u: u(x, t, r).double()  # noqa: E731
    x, along = torch.randn(2, 2, 16, 768).double()
    t, r, h = torch.full((2, 1, 1), 0.7).double(), torch.full((2, 1, 1), 0.3).double(), 2e-5
    with torch.no_grad():
        slope = (meanflow.velocity(u, x, t, r, along) - u(x, t, r)) / (t - r)
        near = (u(x + h * along, t + h, r) - u(x - h * along, t - h, r)) / (2 * h)
    assert (slope - near).norm() < 0.02 * near.norm()


def test_a_trained_network_starts_as_it_is_and_learns_spans(tmp_path: Path) -> None:
    """With its new input at zero, a flow network's average velocity is its velocity; a step of
    training moves the input."""
    plain = wild(replace(TINY, spans=False))
    checkpoints.save(plain, tmp_path / "start")
    Tokenizer.train(
        ["a red circle left of a blue star"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>"
    ).save(tmp_path / "start")
    overrides = [
        f"out={tmp_path}",
        f"model.start={tmp_path / 'start'}",
        "steps=2",
        "rows=4",
        "micro_rows=4",
        "evaluate_pictures=1",
        "ema=null",
    ]
    recipe = load_recipe("recipes/image/meanflow.yaml", overrides)
    network = meanflow.flow.network_of(recipe, 300)
    x, positions, words = (
        torch.randn(2, 16, 768),
        grid_positions(64, 64, 16),
        torch.randint(300, (2, 12)),
    )
    with torch.no_grad():

        def ask(n, **more):
            return n(x, positions, torch.full((2, 1), 0.6), n.encode_text(words), **more)

        torch.testing.assert_close(ask(network, until=torch.full((2, 1), 0.2)), ask(plain))
    trained = checkpoints.load(run(recipe))
    assert trained.config.spans and trained.span_in.weight.abs().max() > 0
    assert json.loads((tmp_path / "model/generation_config.json").read_text()) == {
        "steps": 1,
        "shift": 1.0,
        "guidance_scale": 1.0,
        "sampler": "lcm",
    }
    with torch.no_grad():
        torch.testing.assert_close(ask(trained), ask(trained, until=torch.zeros(2, 1)))
        assert not torch.allclose(ask(trained), ask(trained, until=torch.full((2, 1), 0.6)))


def test_spans_are_needed() -> None:
    with pytest.raises(DaedalError, match=r"give model\.options\.spans=true"):
        load_recipe("recipes/image/meanflow.yaml", ["model.options={}"])
