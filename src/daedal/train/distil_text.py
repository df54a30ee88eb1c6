"""Distillation of language models: a student learns a teacher's distributions over next tokens beside the text itself.

Legend: B batch, T tokens, n positions, V vocabulary, D width (of each network its own).
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.nn.quantized import dequantize_
from daedal.train import pretrain
from daedal.train.objectives import linear_cross_entropy
from daedal.train.recipe import DistilTextRecipe
from daedal.train.trainer import Batch, Objective


def divergence(student: Tensor, teacher: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    """How far two distributions of log-probabilities (n, V) are apart, (n,) nats. forward: KL(teacher || student), which covers all that the
    teacher says; reverse: KL(student || teacher), which keeps to its likeliest; js: the generalised Jensen-Shannon divergence with weight
    beta (Agarwal et al. 2024, eq. 1), forward KL as beta -> 0 and reverse as beta -> 1, each divided by it."""
    kl = lambda p, q: (p.exp() * (p - q)).sum(-1)  # noqa: E731
    if kind == "forward":
        return kl(teacher, student)
    if kind == "reverse":
        return kl(student, teacher)
    middle = torch.logaddexp(teacher + torch.tensor(beta).log(), student + torch.tensor(1 - beta).log())
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)


def log_probabilities(hidden: Tensor, network: Decoder, temperature: float) -> Tensor:
    """hidden (n, D) -> (n, V), of the temperature."""
    logits = network.lm_head(hidden).float()
    if network.softcap is not None:
        logits = network.softcap * (logits / network.softcap).tanh()
    return (logits / temperature).log_softmax(-1)


def distance(ours: Tensor, theirs: Tensor, student: Decoder, teacher: Decoder, recipe: DistilTextRecipe, chunk: int = 512) -> Tensor:
    """Sum over positions of the divergence between two networks' next tokens, from their hidden states (n, D), in chunks whose logits are
    made again for the backward pass; times T^2, so that gradients keep their size (Hinton et al. 2015, section 2)."""

    def of(a: Tensor, b: Tensor) -> Tensor:
        T = recipe.temperature
        with torch.no_grad():
            wanted = log_probabilities(b, teacher, T)
        return T**2 * divergence(log_probabilities(a, student, T), wanted, recipe.divergence, recipe.beta).sum()

    parts = zip(ours.split(chunk), theirs.split(chunk), strict=True)
    return torch.stack([recomputed(of, a, b, use_reentrant=False) for a, b in parts]).sum()  # type: ignore[arg-type]


def distillation(recipe: DistilTextRecipe, teacher: Decoder) -> Objective:
    """Sum over tokens of (1 - weight) next-token loss + weight times the divergence from the teacher."""

    def loss(network: Decoder, part: Batch) -> Tensor:
        tokens, goal = part["tokens"][:, :-1], part["tokens"][:, 1:]
        hidden = network.hidden(tokens)
        with torch.no_grad():
            theirs = teacher.to(tokens.device).hidden(tokens)
        away = distance(hidden.flatten(0, 1), theirs.flatten(0, 1), network, teacher, recipe)
        text = linear_cross_entropy(hidden, network.lm_head.weight, goal, softcap=network.softcap) if recipe.weight < 1 else torch.zeros(())
        return (1 - recipe.weight) * text + recipe.weight * away

    return Objective(loss, lambda batch: batch["tokens"][:, 1:].numel())


def teacher_of(recipe: DistilTextRecipe) -> Decoder:
    folder = checkpoints.resolve(recipe.teacher)
    network = checkpoints.load(folder)
    if "quantization_config" in checkpoints.read_config(folder):
        dequantize_(network)
    return network.float().requires_grad_(False).eval()


def run(recipe: DistilTextRecipe) -> Path:
    """Train the student, and write `out/model`. Its tokenizer is the teacher's."""
    teacher = teacher_of(recipe)
    return pretrain.run(recipe, partial(checked, teacher=teacher))


def checked(recipe: Any, network: Decoder, teacher: Decoder) -> Objective:
    if network.config.vocab_size != teacher.config.vocab_size:
        raise DaedalError(
            f"the student has {network.config.vocab_size} tokens and the teacher {teacher.config.vocab_size}; a student learns from a teacher of its "
            f"own vocabulary: set tokenizer.path to the teacher's folder."
        )
    return distillation(recipe, teacher)


plan = pretrain.plan
