"""The trainer: one loop for every objective.

It is given a network, endless batches that know their own position, and an objective; it steps,
logs a line a step to `out/metrics.jsonl`, writes atomic checkpoints, and started again with the
same `out` it goes on to the same losses, bit for bit on a CPU."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from daedal import device as machine
from daedal.energy import METER
from daedal.errors import DaedalError
from daedal.train import checkpoint, parallel
from daedal.train.averages import Averages
from daedal.train.metrics import whole_lines
from daedal.train.progress import Progress
from daedal.train.start import Start

Batch = dict[str, Tensor]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    return {key: value.to(device) for key, value in batch.items()}


def slice_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Some of a batch's rows."""
    return {key: value[start:stop] for key, value in batch.items()}


class Batches(Protocol):
    def __iter__(self) -> Iterator[Batch]: ...
    def state(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Objective:
    """`loss(network, part)` is a sum over what `count(batch)` counts, so that the mean does not
    depend on how a batch is split. `after(network)` follows every step: what moves with the weights
    without a gradient. `measured()` is asked once a step for more of its line; a DaedalError there
    ends the run before the step is kept."""

    loss: Callable[[Any, Batch], Tensor]
    count: Callable[[Batch], int]
    after: Callable[[Any], None] | None = None
    measured: Callable[[], dict[str, float]] | None = None


class Trainable(Protocol):
    """What the trainer trains: a network with `layers` (what is sharded and compiled one by one) and
    `compute_dtype`. `optimizers(dtype)` builds them once the network is sharded; `evaluate(network)
    -> metrics` and `sample(network, step) -> text`, where they are not None, run every so many steps
    in the first process, which must hold all weights: not under FSDP. Progress counts `unit`s
    (tokens, images), so many and so many FLOPs a step."""

    recipe: Any
    start: Start
    network: Any
    batches: Batches
    objective: Objective
    unit: str
    units: int
    flops: float
    evaluate: Callable[[Any], dict[str, float]] | None = None
    sample: Callable[[Any, int], str] | None = None

    def optimizers(self, dtype: torch.dtype) -> list[torch.optim.Optimizer]: ...


class Loss(nn.Module):
    """The network and its objective as one module, which is what DDP and FSDP wrap."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, part: Batch) -> Tensor:
        return self.objective.loss(self.network, part)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the checkpoint is written, the run can go on."""


class Trainer:
    """Trains a task, from the beginning or from the checkpoint of its start."""

    def __init__(self, task: Trainable) -> None:
        self.task, self.recipe, self.network = task, task.recipe, task.network
        start, recipe, network = task.start, task.recipe, task.network
        rank, world = self.rank, self.world = start.rank, start.world
        self.device, self.out = start.device, start.out
        self.watches = world == 1 or (rank == 0 and recipe.parallel == "ddp")
        dtype = network.compute_dtype or torch.float32
        loss = Loss(network, task.objective)
        self.module = parallel.wrap(loss, network.layers, recipe.parallel, world, dtype)
        if recipe.compile:
            for layer in network.layers:
                layer.compile()  # in place: parameter names stay
        self.optimizers = task.optimizers(start.dtype)  # after sharding replaced the parameters
        self.peak = machine.matrix_peak(self.device, dtype) * world
        self.peaks = [[group["lr"] for group in each.param_groups] for each in self.optimizers]
        self.step, self.seconds, self.joules, self.mark = 0, 0.0, 0.0, METER.mark()
        self.ema = [p.detach().clone() for p in network.parameters()] if recipe.ema else None
        self.averages = Averages(network, recipe.averages) if recipe.averages else None
        self.stop = False
        self.board = tensorboard(self.out) if recipe.tensorboard and rank == 0 else None
        if start.resume:
            self.restore(start.resume)
        self.trim_logs()

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to `recipe.steps`. Raises Interrupted after a signal (state saved), and DaedalError
        on a loss or a gradient that is not finite, which changes no weights.
        Several processes end at a signal as torchrun ends them, and go on from the last checkpoint.
        """
        signals = (signal.SIGINT, signal.SIGTERM) if self.world == 1 else ()
        handlers = {number: signal.signal(number, self.on_signal) for number in signals}
        try:
            with Progress(self.recipe.steps, self.task.unit, self.rank == 0) as progress:
                batches = iter(self.task.batches)
                while self.step < self.recipe.steps:
                    progress.update(self.one_step(next(batches)))
                    self.sometimes(progress)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def one_step(self, batch: Batch) -> dict[str, Any]:
        started = time.perf_counter()
        factor = self.recipe.optimizer.factor(self.step, self.recipe.steps)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        loss = self.gradients(batch)
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss} at step {self.step + 1}")
        norm = self.clip_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average()
        if self.task.objective.after:
            self.task.objective.after(self.network)
        machine.synchronize(self.device)
        self.step += 1
        took = time.perf_counter() - started
        self.seconds += took
        self.joules += METER.since(self.mark)  # with what stood between the steps
        self.mark = METER.mark()
        measured, unit, units = self.task.objective.measured, self.task.unit, self.task.units
        line = {"step": self.step, "loss": loss, "grad_norm": norm, "lr": factor}
        line |= {unit: self.step * units, f"{unit}_per_second": units / took}
        line |= {
            "mfu": self.task.flops / took / self.peak,
            "seconds": self.seconds,
            "joules": self.joules,
        }
        return self.log(line | (measured() if measured else {}))

    def gradients(self, batch: Batch) -> float:
        """Gradients of the mean loss of a global batch; each process works on its rows, in
        micro-batches."""
        rows = len(next(iter(batch.values()))) // self.world
        mine = slice_rows(batch, self.rank * rows, (self.rank + 1) * rows)
        count, total = self.task.objective.count(batch), 0.0
        starts = range(0, rows, self.recipe.micro_rows)
        for start in starts:
            part = to_device(slice_rows(mine, start, start + self.recipe.micro_rows), self.device)
            parallel.sync_gradients(self.module, start == starts[-1])
            loss = self.module(part) / count
            (loss * self.world).backward()  # DDP and FSDP average gradients over processes
            total += loss.item()
        return parallel.total(total, self.device, self.world)

    def clip_gradients(self) -> float:
        """The norm of all gradients, which are scaled down to `optimizer.clip`. A loss may be
        finite while its slope is not (the root of 0, say), and one such number would reach all
        weights."""
        parameters = list(self.network.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not math.isfinite(value):
            raise self.diverged(
                f"the gradient's norm is {value} at step {self.step + 1}{self.worst_gradient()}"
            )
        if self.recipe.optimizer.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.recipe.optimizer.clip, norm)
        return value

    def worst_gradient(self) -> str:
        """The first weight whose gradient is not finite, in words."""
        named = self.network.named_parameters()
        found = (name for name, p in named if p.grad is not None and not finite([p.grad]))
        first = next(found, None)
        return f" (first in {first})" if first else ""

    def diverged(self, what: str) -> DaedalError:
        """The sentence of a run that stops before a number that is not finite is kept."""
        kept = checkpoint.checkpoints(self.out / "checkpoints")
        good = f"the last good checkpoint, {kept[-1]}, is kept" if kept else ""
        where = good or "no checkpoint was due before"
        return DaedalError(
            f"{what}; {where}. Lower optimizer.matrix_lr and optimizer.adam_lr, or lengthen optimizer.warmup."
        )

    def check_weights(self) -> None:
        """Before anything is written: a finite gradient can still overflow the weights or a mean."""
        kept = [kept for optimizer in self.optimizers for kept in optimizer.state.values()]
        state = [v for values in kept for v in values.values() if isinstance(v, Tensor)]
        tensors = [*self.network.parameters(), *self.network.buffers(), *state, *(self.ema or [])]
        if parallel.total(float(not finite(tensors)), self.device, self.world):
            raise self.diverged(
                f"weights or optimizer states are not finite after step {self.step}"
            )

    @torch.no_grad()
    def average(self) -> None:
        if self.ema is not None:
            decay = ema_decay(self.recipe.ema or 0.0, self.step + 1)
            torch._foreach_lerp_(self.ema, list(self.network.parameters()), 1 - decay)
        if self.averages:
            self.averages.update(self.network, self.step + 1)

    @contextmanager
    def shipped(self) -> Iterator[None]:
        """The network with the weights that `result` would ship now: those of the EMA, if there is
        one."""
        if self.ema is None:
            yield
            return
        parameters = list(self.network.parameters())
        live = [p.data for p in parameters]
        try:
            for p, average in zip(parameters, self.ema, strict=True):
                p.data = average
            yield
        finally:
            for p, data in zip(parameters, live, strict=True):
                p.data = data

    def sometimes(self, progress: Progress) -> None:
        """Evaluation, samples and checkpoints, when they are due; the last step is due for all."""
        r, last = self.recipe, self.step == self.recipe.steps
        saves = last or self.stop or self.step % r.checkpoint_every == 0
        averages = self.averages if last or self.step % r.averages_every == 0 else None
        if saves or averages:
            self.check_weights()
        evaluate, sample = (self.task.evaluate, self.task.sample) if self.watches else (None, None)
        with self.shipped():
            if evaluate and (last or self.step % r.evaluate_every == 0):
                found = evaluate(self.network)
                progress.note(self.log({"step": self.step, **found}, "evaluations.jsonl"))
            if sample and (last or self.step % r.sample_every == 0):
                progress.text(sample(self.network, self.step))
        if averages and self.rank == 0:
            averages.write(self.network, self.out / "averages", self.step)
        if saves:
            self.save(progress, last)
        if self.stop:
            raise Interrupted(f"stopped at step {self.step}; the same command goes on from there.")

    def on_signal(self, number: int, frame: Any) -> None:
        if self.stop:
            sys.exit(130)  # the second Ctrl-C does not wait for the step to end
        self.stop = True

    # -- what is kept ------------------------------------------------------------------------------

    def log(self, metrics: dict[str, Any], file: str = "metrics.jsonl") -> dict[str, Any]:
        """Write a line; a number that is not finite is a mean of nothing, which JSON does not have."""
        if self.rank == 0:
            told = {key: value for key, value in metrics.items() if math.isfinite(value)}
            with open(self.out / file, "a") as f:
                f.write(json.dumps(told, allow_nan=False) + "\n")
            if self.board:
                for name, value in told.items():
                    self.board.add_scalar(name, value, metrics["step"])
        return metrics

    def save(self, progress: Progress, last: bool) -> None:
        state = parallel.full_state(self.network, self.optimizers) | {
            "step": self.step,
            "seconds": self.seconds,
            "joules": self.joules,
            "data": self.task.batches.state(),
            "rng": parallel.random_states(self.device, self.world),
            "ema": self.ema,
            "averages": self.averages and self.averages.kept,
            "fixed": self.task.start.fixed,
        }
        if self.rank:
            return
        try:
            checkpoint.save(self.out / "checkpoints", self.step, state)
        except OSError as error:
            sentence = f"the checkpoint of step {self.step} could not be written to {self.out} ({error.strerror}); the one before it is whole. Free some space."
            if last:
                raise DaedalError(sentence) from None
            progress.text("warning: " + sentence)

    def restore(self, state: dict[str, Any]) -> None:
        parallel.restore(self.network, self.optimizers, state)
        self.step, self.seconds = state["step"], state["seconds"]
        self.joules = state.get("joules", 0.0)
        seed = self.recipe.seed + self.step * 1_000_003  # not the noise of the first steps again
        parallel.restore_random_state(state["rng"], self.device, self.rank, seed)
        if self.ema is not None:
            self.ema = [average.to(self.device) for average in state["ema"]]
        if self.averages:
            kept = state["averages"]
            self.averages.kept = [[average.to(self.device) for average in one] for one in kept]

    def trim_logs(self) -> None:
        """Drop the lines past the present step, which will be written again."""
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            if self.rank == 0 and (self.out / file).exists():
                lines = whole_lines(self.out / file)
                kept = [line for line in lines if json.loads(line)["step"] <= self.step]
                partial = self.out / f".{file}.partial"
                partial.write_text("".join(kept))
                os.replace(partial, self.out / file)

    def result(self) -> dict[str, Tensor]:
        """The weights to ship: the average if there is one."""
        if self.ema is not None:
            for p, average in zip(self.network.parameters(), self.ema, strict=True):
                p.data.copy_(average)
        return parallel.whole_model(self.network)


def ema_decay(decay: float, step: int) -> float:
    """Of step `step`, from 1: short at first, so that the random start is soon forgotten (the ramp
    of TensorFlow's ExponentialMovingAverage). A plain 0.999 still holds 37 % of it after 1,000
    steps."""
    return min(decay, (1 + step) / (10 + step))


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite; of a sharded tensor, those of this process."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    return all(bool(t.isfinite().all()) for t in local if t.is_floating_point())


def tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DaedalError(
            'tensorboard: true needs the package; pip install "daedal[tensorboard]".'
        ) from None
    return SummaryWriter(str(out / "tensorboard"))
