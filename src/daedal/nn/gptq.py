"""GPTQ (Frantar et al. 2022): 4-bit rounding that follows the data.

Columns of a weight are rounded one after another; the error of each is spread over the columns
still to come so that the layer's output on the calibration data, not the weight, stays close.
Layers go in order, each on the outputs of the rounded ones before it.

Legend: N outputs, K inputs, B batch, T tokens, D width."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.blocks import GRIDS, KINDS, inverse
from daedal.nn.quantized import QuantLinear, finish_, kinds_for, quantize_, swappable

GROUP = 32  # columns that are rounded before their errors reach the others; they share a step

# of the mean diagonal, added to the Hessian: inputs that calibration hardly saw keep their nearest
# level
DAMPING = 0.01


def gptq(weight: Tensor, hessian: Tensor, kind: str) -> Tensor:
    """weight (N, K) and X^T X (K, K) -> blocks of `kind`, q4_k or q5_0, uint8 (N, bytes). The grid
    is that of rounding to the nearest; which level each weight takes follows the data."""
    weight, hessian = weight.clone(), hessian.clone()
    diagonal = hessian.diagonal()
    diagonal += DAMPING * diagonal.mean() + 1e-8
    # rows: how errors spread
    spread = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True
    )
    size = KINDS[kind].weights
    grid = GRIDS[kind].of(weight.reshape(-1, size))
    step, least = (t.reshape(len(weight), -1) for t in grid.steps())  # (N, K / 32)
    by, top = inverse(step), grid.top
    for start in range(0, weight.shape[1], GROUP):
        group, at = slice(start, start + GROUP), start // GROUP
        near, errors = spread[group, group], torch.empty(len(weight), GROUP)
        block = weight[:, group]  # a view: rounded columns stay in `weight`
        for i in range(GROUP):
            level = ((block[:, i] + least[:, at]) * by[:, at]).round_().clamp_(0, top)
            rounded = level * step[:, at] - least[:, at]
            errors[:, i] = (block[:, i] - rounded) / near[i, i]
            block[:, i + 1 :] -= errors[:, i : i + 1] * near[i, i + 1 :]
            block[:, i] = rounded
        weight[:, start + GROUP :] -= errors @ spread[group, start + GROUP :]
    return grid.pack(weight.reshape(-1, size)).view(len(weight), -1)


def gptq_linear(linear: nn.Linear, hessian: Tensor, kind: str) -> QuantLinear:
    layer = QuantLinear.of(linear.weight, linear.bias, kind)
    layer.weight = gptq(linear.weight.float(), hessian, kind)
    return layer


@torch.no_grad()
def gptq_(network: Any, calibration: Iterable[Tensor]) -> Any:
    """Swap the linear layers of a decoder's blocks for 4-bit ones, calibrated on batches of token
    ids (B, T). Layers of more bits, the head, and those that no calibration token reaches (an idle
    expert) are rounded to the nearest."""
    kinds = kinds_for(network, 4)
    states = [first_states(network, tokens) for tokens in calibration]
    if not states:
        raise DaedalError("calibration has no batches; give at least one of token ids (B, T).")
    for number, block in enumerate(network.layers):
        layers = {name: module for name, module, _ in swappable(block)}
        hessians = gather(block, layers, states)
        for name, module in layers.items():
            hessian, kind = hessians[name], kinds[f"layers.{number}.{name}"]
            block.set_submodule(
                name,
                QuantLinear.of(module.weight, module.bias, kind)
                if hessian is None or kind not in GRIDS
                else gptq_linear(module, hessian, kind),
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
