"""Smaller networks out of trained ones: whole layers and feed-forward neurons that matter least on
some text are cut out. Distillation (daedal.train.distil_text) then teaches what is left.

A layer matters as far as it turns its input (1 - cosine of what goes in and comes out: Men et al.
2024, "block influence"); a neuron as far as it is active, times the weight of what it adds (after
Muralidharan et al. 2024).

Legend: B batch, T tokens, D width, I neurons of a layer."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.checkpoints.files import copy_companions
from daedal.checkpoints.folder import load_plain, save
from daedal.errors import DaedalError
from daedal.networks import build
from daedal.networks.decoder import Decoder
from daedal.nn.mlp import GatedMLP


@torch.no_grad()
def importance(network: Decoder, batches: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(L,) of layers and a list of (I,) of each layer's neurons, on token ids (B, T)."""
    layers: Any = network.layers
    turned = torch.zeros(len(layers))
    active = [torch.zeros(layer.mlp.down_proj.in_features) for layer in layers]
    handles = []

    def watch(i: int, layer: Any) -> None:
        def around(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
            turned[i] += (1 - F.cosine_similarity(given[0].float(), out.float(), dim=-1)).sum()

        def within(module: nn.Module, given: tuple[Any, ...]) -> None:
            active[i].add_(given[0].float().abs().flatten(0, -2).sum(0))

        handles.append(layer.register_forward_hook(around))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(within))

    for i, layer in enumerate(layers):
        watch(i, layer)
    count = 0
    for tokens in batches:
        network.hidden(tokens)
        count += tokens.numel()
    for handle in handles:
        handle.remove()
    if not count:
        raise DaedalError(
            "there is no text to see what matters on; give --calibrate a file with some."
        )
    weights = [layer.mlp.down_proj.weight.float().norm(dim=0) for layer in layers]
    neurons = [seen * weight / count for seen, weight in zip(active, weights, strict=True)]
    return turned / count, neurons


def best(scores: Tensor, count: int) -> Tensor:
    """The numbers of the `count` highest, in order."""
    return scores.topk(count).indices.sort().values


def prune(
    network: Decoder,
    batches: Iterable[Tensor],
    layers: int | None = None,
    intermediate: int | None = None,
) -> Decoder:
    """A new network of so many layers (the first and the last stay) and neurons a layer; None keeps
    all."""
    c: Any = network.config
    if not all(isinstance(layer.mlp, GatedMLP) for layer in network.layers):  # type: ignore[union-attr]
        raise DaedalError(
            f"pruning is for families with a gated feed-forward (Llama, Qwen, Gemma, ...); this is {c.model_type}."
        )
    for name, wanted, held in (
        ("layers", layers, c.num_hidden_layers),
        ("intermediate", intermediate, c.intermediate_size),
    ):
        if wanted is not None and not (2 if name == "layers" else 8) <= wanted <= held:
            raise DaedalError(
                f"{name}={wanted} is out of range; this model has {held}, and at least {2 if name == 'layers' else 8} must stay."
            )
    turned, active = importance(network, batches)
    turned[0] = turned[-1] = torch.inf
    kept = best(turned, layers or c.num_hidden_layers).tolist()
    inner = intermediate or c.intermediate_size
    sizes: dict[str, Any] = {"num_hidden_layers": len(kept), "intermediate_size": inner}
    if getattr(c, "layer_types", None):
        sizes["layer_types"] = tuple(c.layer_types[i] for i in kept)
    with torch.device("meta"):
        smaller = build(replace(c, **sizes))
    state = network.state_dict()
    made = {name: tensor for name, tensor in state.items() if not name.startswith("layers.")}
    for new, old in enumerate(kept):
        chosen, prefix = best(active[old], inner), f"layers.{old}."
        for name, tensor in state.items():
            if name.startswith(prefix):
                made[name.replace(prefix, f"layers.{new}.", 1)] = cut(name, tensor, chosen)
    smaller.load_state_dict(made, assign=True)
    return smaller.eval()


def cut(name: str, tensor: Tensor, chosen: Tensor) -> Tensor:
    """The rows or columns of the chosen neurons, of the three matrices that have them."""
    if ".mlp.down_proj.weight" in name:
        return tensor[:, chosen]
    rows = any(f".mlp.{part}_proj." in name for part in ("gate", "up"))
    return tensor[chosen] if rows else tensor


def prune_folder(
    folder: Path,
    out: Path,
    batches: Iterable[Tensor],
    layers: int | None,
    intermediate: int | None,
    shard_bytes: int = 5_000_000_000,
) -> Decoder:
    """Write a pruned model's folder, with the tokenizer of the whole one."""
    network = load_plain(folder, kind=Decoder)
    smaller = prune(network.float(), batches, layers, intermediate)
    save(smaller.to(torch.bfloat16), out, shard_bytes)
    copy_companions(folder, out)
    return smaller
