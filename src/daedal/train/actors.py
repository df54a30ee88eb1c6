"""Rollouts in other processes, here or on a cluster: Ray actors (Moritz et al. 2018), each with an
engine and a copy of the policy.

    daedal train recipes/chat/grpo.yaml rollout.actors=2        # RAY_ADDRESS names a cluster;
    without it Ray starts here

The trainer sends them what has learned, shares out the prompts, and hands completions to the
rewards as each actor answers. A prompt's seed alone decides what is drawn for it, so the course is
that of a run without actors."""

import copy
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train.rollout import Completion, complete

Weights = dict[str, Any]  # name -> numpy array, which Ray shares without a copy


class Worker:
    """What an actor is: a policy that is brought up to date and completes prompts."""

    def __init__(
        self,
        network: Decoder,
        tokenizer: Tokenizer,
        params: SamplingParams,
        group: int,
        batch: int,
        device: str,
    ) -> None:
        self.network, self.tokenizer, self.params = network.to(device), tokenizer, params
        self.group, self.batch = group, batch

    def complete(
        self, weights: Weights, prompts: list[list[int]], seeds: list[int]
    ) -> list[tuple[Completion, str]]:
        parameters = dict(self.network.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(torch.tensor(value))
        requests = complete(
            self.network, self.tokenizer, prompts, self.params, seeds, self.group, batch=self.batch
        )
        return [(Completion.of(request), request.text) for request in requests]


class Actors:
    """`count` workers around copies of `network`. On GPUs each takes one."""

    def __init__(
        self,
        count: int,
        network: Decoder,
        tokenizer: Tokenizer,
        params: SamplingParams,
        group: int,
        batch: int,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise DaedalError(
                'rollout.actors needs Ray; pip install "daedal[cluster]", or leave actors out.'
            ) from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        device = network.embed_tokens.weight.device.type
        made = ray.remote(Worker).options(
            num_cpus=0, num_gpus=int(device == "cuda"), scheduling_strategy="SPREAD"
        )
        parts = ray.put(copy.deepcopy(network).cpu())
        self.ray, self.group, self.weights = ray, group, ray.put({})
        given = (parts, tokenizer, params, group, batch, device)
        self.workers = [made.remote(*given) for _ in range(count)]

    def take(self, weights: Weights) -> None:
        """What the next completions are drawn with: the parameters that learn."""
        self.weights = self.ray.put(weights)

    def complete(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        finished: Callable[[int, str], Any],
    ) -> list[Completion]:
        """As daedal.train.rollout.complete; `finished(row, text)`."""
        ends = [len(prompts) * i // len(self.workers) for i in range(len(self.workers) + 1)]
        shares = [slice(*some) for some in pairwise(ends)]
        asked = {
            worker.complete.remote(self.weights, prompts[s], seeds[s]): s.start
            for worker, s in zip(self.workers, shares, strict=True)
            if prompts[s]
        }
        found: dict[int, Completion] = {}
        while asked:
            [done], _ = self.ray.wait(list(asked), num_returns=1)
            try:
                answered = self.ray.get(done)
            except self.ray.exceptions.RayActorError as error:
                why = str(error).partition("\n")[0].rstrip(".: ")
                raise DaedalError(
                    f"an actor of the rollout died ({why}); the same command goes on from the last checkpoint."
                ) from None
            for row, (completion, text) in enumerate(answered, asked.pop(done) * self.group):
                found[row] = completion
                finished(row, text)
        return [found[row] for row in sorted(found)]
