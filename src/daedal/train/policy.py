"""The networks of reinforcement learning: the policy with an adapter or a value network on it, and
the reference it may not leave.

Legend: B completions, T tokens."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.networks.scalar import ScalarModel
from daedal.nn.lora import adapters
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.recipe.chat import RLRecipe
from daedal.train.rollout import in_chunks, scored
from daedal.train.shared import Shared
from daedal.train.trainer import Batch


def policy_of(recipe: RLRecipe) -> Decoder:
    """The model to train, with the recipe's adapter on it, and for PPO with a value network beside
    it."""
    network = assistant.network_of(recipe.start, recipe.adapter)
    assistant.adapted(recipe, network)
    if recipe.method == "ppo":
        network.critic = critic_of(recipe, network.config.vocab_size)
    return network


def critic_of(recipe: RLRecipe, vocabulary: int) -> ScalarModel:
    if recipe.value is None:
        return ScalarModel(assistant.network_of(recipe.start))
    critic = checkpoints.load(
        checkpoints.resolve(recipe.value), dtype=torch.float32, kind=ScalarModel
    ).requires_grad_(True)
    if critic.config.vocab_size != vocabulary:
        raise DaedalError(
            f"value has a vocabulary of {critic.config.vocab_size} and the policy of {vocabulary}; give one made from the same model."
        )
    return critic


def critic_in(network: nn.Module) -> ScalarModel:
    return cast(ScalarModel, network.critic)


@contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """The network as it was before its LoRA layers: the updates count nothing."""
    layers = list(adapters(network).values())
    scales = [layer.scale for layer in layers]
    for layer in layers:
        layer.scale = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scale = scale


class Reference:
    """The policy's start: the same weights with the adapter off, or a frozen copy."""

    def __init__(self, network: Decoder, recipe: RLRecipe) -> None:
        # whose magnitudes stay when its update is off
        self.shared = recipe.adapter is not None and not recipe.adapter.dora
        self.network = network if self.shared else frozen_copy(network)

    def logprobs(self, batch: Batch, params: SamplingParams, rows: int) -> Tensor:
        if not self.shared:
            return scored(self.network, batch, params, rows)
        with adapters_off(self.network):
            return scored(self.network, batch, params, rows)


def frozen_copy(network: Decoder) -> Decoder:
    critic = network._modules.pop("critic", None)
    twin = copy.deepcopy(network).requires_grad_(False)
    if critic is not None:
        network.critic = critic
    return twin


def values_in(network: Decoder, part: Batch) -> Tensor:
    """(B, T - 1): what the value network expects where each token was drawn, 0 elsewhere."""
    packed = Shared(part["tokens"], part["mask"])
    values = critic_in(network)(packed.tokens, cache=packed)[0].index_select(0, packed.drawn)
    return torch.zeros(part["mask"].shape, device=values.device).masked_scatter(
        part["mask"], values
    )


def values_of(network: Decoder, batch: Batch, rows: int) -> Tensor:
    """`values_in` of many completions, `rows` at a time, without gradient."""
    device = network.embed_tokens.weight.device
    return in_chunks(lambda part: values_in(network, part), batch, device, rows)
