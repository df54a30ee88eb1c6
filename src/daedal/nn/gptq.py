"""GPTQ (Frantar et al. 2022): int4 rounding that follows the data.

Columns of a weight are rounded one after another; the error of each is spread over the columns
still to come so that the layer's output on the calibration data, not the weight, stays close.
Layers go in order, each on the outputs of the rounded ones before it.

Legend: N outputs, K inputs, G = 32 inputs of a group, B batch, T tokens, D width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.packing import GROUP, int4_scales, pack_int4, pad, round_int4
from daedal.nn.quantized import QuantLinear, finish_, quantize_, swappable

# of the mean diagonal, added to the Hessian: inputs that calibration hardly saw keep their nearest
# level
DAMPING = 0.01


def gptq(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, K) and X^T X (K, K), K a multiple of 32 -> levels (N, K) in -8..7 and scales (N,
    K/32)."""
    weight, hessian = weight.clone(), hessian.clone()
    diagonal = hessian.diagonal()
    diagonal += DAMPING * diagonal.mean() + 1e-8
    # rows: how errors spread
    inverse = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True
    )
    levels, scales = torch.empty_like(weight), []
    for start in range(0, weight.shape[1], GROUP):
        group, spread = (
            slice(start, start + GROUP),
            inverse[start : start + GROUP, start : start + GROUP],
        )
        block = weight[:, group].clone()
        scale = int4_scales(block)  # (N, 1), of the group as the errors before it left it
        errors = torch.empty_like(block)
        for i in range(block.shape[1]):
            level = round_int4(block[:, i : i + 1], scale)
            errors[:, i] = (block[:, i] - (level * scale)[:, 0]) / spread[i, i]
            block[:, i + 1 :] -= errors[:, i : i + 1] * spread[i, i + 1 :]
            levels[:, start + i] = level[:, 0]
        weight[:, start + GROUP :] -= errors @ inverse[group, start + GROUP :]
        scales.append(scale)
    return levels, torch.cat(scales, 1)


def gptq_linear(linear: nn.Linear, hessian: Tensor) -> QuantLinear:
    packed = QuantLinear(linear.in_features, linear.out_features, 4, linear.bias is not None)
    extra = packed.in_features_padded - linear.in_features
    levels, scale = gptq(
        pad(linear.weight.float(), 8), nn.functional.pad(hessian, (0, extra, 0, extra))
    )
    packed.weight, packed.scale = pack_int4(levels, scale)
    packed.bias = None if linear.bias is None else linear.bias.detach().float()
    return packed


@torch.no_grad()
def gptq_(network: Any, calibration: Iterable[Tensor]) -> Any:
    """Swap the linear layers of a decoder's blocks for int4 ones, calibrated on batches of token
    ids (B, T); the head follows as `quantize_` does it. A layer that no calibration token reaches
    (an idle expert) is rounded to the nearest."""
    states = [first_states(network, tokens) for tokens in calibration]
    if not states:
        raise DaedalError("calibration has no batches; give at least one of token ids (B, T).")
    for block in network.layers:
        layers = {name: module for name, module, _ in swappable(block)}
        hessians = gather(block, layers, states)
        for name, module in layers.items():
            hessian = hessians[name]
            block.set_submodule(
                name,
                QuantLinear.of(module.weight, module.bias, 4)
                if hessian is None
                else gptq_linear(module, hessian),
            )
        states = [(block(x, *rest), *rest) for x, *rest in states]
    return finish_(quantize_(network, 4))


class Reached(Exception):
    """Carries what the first block was called with."""


def first_states(network: Any, tokens: Tensor) -> tuple[Any, ...]:
    """The arguments of the first block: x (B, T, D) and its context."""

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise Reached(args)

    handle = network.layers[0].register_forward_pre_hook(stop)
    try:
        network(tokens)
    except Reached as reached:
        x, *rest = reached.args[0]
        return (x.float(), *rest)
    finally:
        handle.remove()
    raise DaedalError("the network did not call its first block.")


def gather(
    block: nn.Module, layers: dict[str, nn.Linear], states: list[tuple[Any, ...]]
) -> dict[str, Tensor | None]:
    """X^T X (K, K) of the inputs of each layer."""
    sums: dict[str, Tensor | None] = dict.fromkeys(layers)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].flatten(0, -2).float()
            total = sums[name]
            sums[name] = x.T @ x if total is None else total.addmm_(x.T, x)

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    for x, *rest in states:
        block(x, *rest)
    for handle in handles:
        handle.remove()
    return sums
