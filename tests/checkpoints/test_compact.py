"""Weights in 8 and 4 bits in files, and weight norms: what is read is what was written, nearly."""

import pytest
import torch

from daedal.checkpoints.compact import compacted, eight, expanded
from daedal.checkpoints.weight_norm import folded, parts


def tensors():
    torch.manual_seed(0)
    return {
        "conv.weight": torch.randn(24, 64, 3),
        "linear.weight": torch.randn(40, 192),
        "odd.weight": torch.randn(30, 37),
        "norm.weight": torch.randn(2000),
        "small.weight": torch.randn(3, 3),
        "ids": torch.arange(5),
    }


@pytest.mark.parametrize(("bits", "error"), [(8, 0.012), (4, 0.13)])
def test_rounded_weights_are_near(bits, error):
    given = tensors()
    stored = dict(compacted(given.items(), lambda name: bits))
    made = dict(expanded(iter(stored.items())))
    assert made.keys() == given.keys()
    for name, tensor in given.items():
        assert made[name].shape == tensor.shape
        off = (made[name].float() - tensor.float()).norm() / tensor.float().norm()
        assert off < error, name
    size = sum(t.numel() * t.element_size() for n, t in stored.items() if n.startswith("conv"))
    assert size < given["conv.weight"].numel() * (bits / 8) * 1.1
    assert made["ids"].equal(given["ids"]) and stored["norm.weight"].dtype == torch.float16


def test_what_is_expanded_is_rounded_to_itself():
    once = dict(expanded(compacted(tensors().items(), eight)))
    twice = dict(expanded(compacted(once.items(), eight)))
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name].float(), tensor.float(), atol=2e-2, rtol=1e-2)


def test_parameters_of_such_names_are_left_alone():
    given = {"layer.scale": torch.randn(4, 4).half(), "b.scale": torch.randn(3)}
    made = dict(expanded(iter(given.items())))
    assert all(made[name].equal(tensor) for name, tensor in given.items())


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_weight_norms_are_folded_in_both_spellings(spelling):
    conv = torch.nn.Conv1d(4, 6, 3)
    weight = conv.weight.detach().clone()
    normed = torch.nn.utils.parametrizations.weight_norm(conv) if spelling == "new" else None
    if normed is not None:
        state = dict(normed.state_dict())
    else:
        g, v = weight.flatten(1).norm(dim=1)[:, None, None], 3 * weight
        state = {"weight_g": g, "weight_v": v, "bias": conv.bias}
    state = {f"layer.{name}": tensor for name, tensor in state.items()}
    made = dict(folded(iter(state.items())))
    assert made.keys() == {"layer.weight", "layer.bias"}
    torch.testing.assert_close(made["layer.weight"], weight)
    again = dict(folded(parts("layer.weight", weight)))
    torch.testing.assert_close(again["layer.weight"], weight)


def test_half_of_a_pair_keeps_its_name():
    given = {"a.weight_g": torch.ones(2, 1), "b.weight": torch.ones(2)}
    assert dict(folded(iter(given.items()))).keys() == given.keys()
