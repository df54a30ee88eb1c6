"""One model out of several of the same shape, by arithmetic on their weights.

linear  a weighted mean (Wortsman et al. 2022)
slerp   along the great circle between two weights (Shoemake 1985)
ties    what each changed in `base`, its small changes dropped, summed where the signs agree (Yadav
et al. 2023)
dare    what each changed in `base`, a random part of it dropped and the rest scaled up (Yu et al.
2024)

Legend: M models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from daedal.checkpoints.files import copy_companions, publish, tensors
from daedal.checkpoints.folder import read_config, stem_of
from daedal.checkpoints.gguf_folder import source_of
from daedal.errors import DaedalError, nearest

Method = Literal["linear", "slerp", "ties", "dare"]
ALIKE = 0.9995  # cosine from which on a great circle is a straight line


def linear(weights: Tensor, models: Tensor) -> Tensor:
    """weights (M,), models (M, ...): the mean, weighted; the weights need not sum to one."""
    return torch.tensordot(weights / weights.sum(), models, 1)


def slerp(t: float, a: Tensor, b: Tensor) -> Tensor:
    """From a (t = 0) to b (t = 1) at even angles; lengths too go along."""
    cosine = float((a.flatten() @ b.flatten()) / (a.norm() * b.norm() + 1e-12))
    if abs(cosine) > ALIKE:
        return torch.lerp(a, b, t)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    return (((1 - t) * angle).sin() / angle.sin()).to(a.dtype) * a + (
        (t * angle).sin() / angle.sin()
    ).to(a.dtype) * b


def trimmed(change: Tensor, density: float) -> Tensor:
    """The share `density` of the entries that are largest, the others zero."""
    kept = max(1, round(density * change.numel()))
    chosen = change.abs().flatten().topk(kept).indices
    zeros = torch.zeros_like(change).flatten()
    return zeros.index_copy(0, chosen, change.flatten()[chosen]).view_as(change)


def ties(weights: Tensor, changes: Tensor, density: float) -> Tensor:
    """changes (M, ...) of the base: each trimmed, the sign of each entry elected by the sum, and
    the weighted mean of those that have it."""
    changes = torch.stack([trimmed(change, density) for change in changes])
    agree = changes.sign() == changes.sum(0).sign()
    agree &= changes != 0
    weighted = torch.einsum("m,m...->m...", weights.to(changes), changes)
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


def dare(weights: Tensor, changes: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """changes (M, ...) of the base: each entry kept with probability `density` and divided by it,
    and the weighted sum."""
    kept = torch.rand(changes.shape, generator=generator) < density
    return torch.tensordot(weights.to(changes), changes * kept / density, 1)


def merge(
    models: Sequence[Path],
    out: Path,
    method: Method = "linear",
    weights: Sequence[float] | None = None,
    base: Path | None = None,
    density: float = 0.5,
    seed: int = 0,
    shard_bytes: int = 1_000_000_000,
) -> Path:
    """Write the merged model with the config and tokenizer of the first. `weights`: one a model,
    1/M by default (ties: 1); slerp goes to the second as far as its weight is a share of both. One
    shard of the result is held in memory."""
    check(models, method, weights, base, density)
    equal = 1.0 if method == "ties" else 1 / len(models)
    shares = torch.tensor(list(weights) if weights else [equal] * len(models))
    folders, draw = [*models, *([base] if base else [])], torch.Generator().manual_seed(seed)
    config = read_config(models[0])
    stem = stem_of(config)
    # mapped from the files, read when they are needed
    streams = [dict(tensors(folder, stem=stem)) for folder in folders]
    for name, first in streams[0].items():
        for folder, stream in zip(folders, streams, strict=True):
            if name not in stream or stream[name].shape != first.shape:
                raise DaedalError(
                    f"{folder} has no {name} of {tuple(first.shape)}; merge models of one shape."
                )

    def merged(name: str) -> Tensor:
        values = torch.stack([stream[name].float() for stream in streams])
        own, start = values[: len(models)], values[-1]
        if method == "linear":
            made = linear(shares, own)
        elif method == "slerp":
            made = slerp(float(shares[1] / shares.sum()), own[0], own[1])
        elif method == "ties":
            made = start + ties(shares, own - start, density)
        else:
            made = start + dare(shares, own - start, density, draw)
        return made.to(streams[0][name].dtype)

    publish(((name, merged(name)) for name in streams[0]), config, out, shard_bytes, stem)
    copy_companions(models[0], out)
    return out


def check(
    models: Sequence[Path],
    method: str,
    weights: Sequence[float] | None,
    base: Path | None,
    density: float,
) -> None:
    if method not in get_args(Method):
        raise DaedalError(
            f"{method!r} is not a way to merge{nearest(method, list(get_args(Method)))}; choose from {', '.join(get_args(Method))}."
        )
    if len(models) < 2 or (method == "slerp" and len(models) != 2):
        raise DaedalError(
            f"{len(models)} models were given; {method} merges {'two' if method == 'slerp' else 'two or more'}."
        )
    if weights and len(weights) != len(models):
        raise DaedalError(
            f"{len(weights)} weights were given for {len(models)} models; give one a model."
        )
    if method in ("ties", "dare") and base is None:
        raise DaedalError(
            f"{method} merges what models changed in the one they were made from; give it as base (--base)."
        )
    if not 0 < density <= 1:
        raise DaedalError(
            f"density={density} is the share of changes that is kept; give more than 0 and at most 1."
        )
    for folder in (*models, *([base] if base else [])):
        if "quantization_config" in read_config(folder):
            place = source_of(Path(folder))
            raise DaedalError(
                f"{place} is packed; write it plain first: daedal convert {place} OUT."
            )
        if any(
            json.dumps(read_config(folder).get(key)) != json.dumps(read_config(models[0]).get(key))
            for key in ("_class_name", "model_type", "vocab_size")
        ):
            raise DaedalError(
                f"{folder} is of another family or vocabulary than {models[0]}; merge models that come from one."
            )
