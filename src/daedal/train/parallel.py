"""Scale-out by torchrun: DDP or FSDP2 around the module that computes the loss, and full state
dicts out of either."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from daedal.nn.mlp import MoE

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def start(device: torch.device) -> tuple[int, int]:
    """(rank, world size) of this process; joins the group when torchrun started it."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def everyones(mine: list[Any], world: int) -> list[Any]:
    """The lists of all processes, one after another."""
    if world == 1:
        return mine
    lists: list[list[Any]] = [[] for _ in range(world)]
    dist.all_gather_object(lists, mine)
    return [item for some in lists for item in some]


LEFT: list[Any] = []  # groups that were left


def finish() -> None:
    """Leave the group. It is kept until the process ends: freed by DDP's reducer, which holds the
    interpreter's lock, it waits for a thread that wants that lock, and once in a while for ever."""
    if dist.is_initialized():
        LEFT.append(dist.group.WORLD)
        dist.destroy_process_group()


def wrap(
    module: nn.Module, layers: nn.ModuleList, kind: str, world: int, dtype: torch.dtype
) -> nn.Module:
    """The module as it is (one process), in DDP, or sharded layer by layer with FSDP2 (bf16 compute
    over fp32 shards)."""
    if world == 1:
        return module
    if kind == "ddp":
        # an expert without tokens has no gradient
        sparse = any(isinstance(part, MoE) for part in layers.modules())
        return DistributedDataParallel(module, find_unused_parameters=sparse)
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mp_policy=policy)
    return fully_shard(module, mp_policy=policy)


def sync_gradients(module: nn.Module, on: bool) -> None:
    """Off while micro-batches accumulate; on for the last, which reduces."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = on
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)


def whole_model(network: nn.Module) -> dict[str, Tensor]:
    """All weights as whole tensors on the CPU."""
    return get_model_state_dict(network, options=FULL)


@torch.no_grad()
def gather(network: nn.Module, sharded: nn.Module) -> None:
    """Bring an unsharded copy of a sharded network up to date, one parameter at a time; all
    processes take part."""
    for p, shard in zip(network.parameters(), sharded.parameters(), strict=True):
        p.copy_(shard.full_tensor() if isinstance(shard, DTensor) else shard)


def full_state(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Whole tensors on the CPU, whatever the sharding, so that any number of processes can resume."""
    return {
        "model": whole_model(network),
        "optimizers": [get_optimizer_state_dict(network, o, options=FULL) for o in optimizers],
    }


def restore(
    network: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]
) -> None:
    set_model_state_dict(network, state["model"], options=StateDictOptions(full_state_dict=True))
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        # not strict: a parameter that no loss has reached yet has no state
        set_optimizer_state_dict(
            network, optimizer, saved, options=StateDictOptions(full_state_dict=True, strict=False)
        )


def random_states(device: torch.device, world: int) -> list[dict[str, Tensor]]:
    """The random state of each process, by rank, on the CPU and on its GPU."""
    mine = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(device)
    return everyones([mine], world)


def restore_random_state(
    states: list[dict[str, Tensor]], device: torch.device, rank: int, seed: int
) -> None:
    """Continue this rank's noise; a rank that was not there before starts its own from `seed`."""
    if rank >= len(states):
        torch.manual_seed(seed + rank)
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda" and "cuda" in states[rank]:
        torch.cuda.set_rng_state(states[rank]["cuda"], device)


def total(value: float, device: torch.device, world: int) -> float:
    """Sum over processes."""
    if world == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.item()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


class Gather(Function):
    """(B, ...) of each process -> (W * B, ...) of all, in order of rank. The gradient of a row is
    the sum of all processes' gradients of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(count())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(count())[rank()]


def gathered(x: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, in order of rank; differentiable."""
    return Gather.apply(x) if dist.is_initialized() else x


@torch.no_grad()
def average_buffers(network: nn.Module, names: tuple[str, ...]) -> None:
    """Make buffers so called, which each process has moved by its own samples, the mean of all
    processes, in place."""
    found = network.named_buffers()
    buffers = [buffer for name, buffer in found if name.rpartition(".")[2] in names]
    if count() == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    means = (flat / count()).split([buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean.view_as(buffer))
