"""Averages of the weights whose length is chosen after training (Karras et al. 2024, section 3 and
appendix C).

During a run a few power-function averages are kept, each weighing step s of t as s^gamma, and now
and then written. Any other average, of any length and end, is afterwards the combination of what
was written that comes nearest to it. A length is the spread of an average's weights over training,
as a share of it: 0.05 looks back over about the last tenth, 0.10 over a fifth."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daedal.errors import DaedalError

UNSHIPPED = "auxiliary."  # parameters that only training needs


def gamma_of(length: float) -> float:
    """The exponent of an average of this length: (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) =
    length^2 (eq. 126)."""
    low, high = 0.0, 1e6
    for _ in range(100):
        gamma = (low + high) / 2
        longer = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > length**2
        low, high = (gamma, high) if longer else (low, gamma)
    return gamma


def inner(t: Tensor, gamma: Tensor, s: Tensor, delta: Tensor) -> Tensor:
    """The product of two averages' weights over training, (t, gamma) ending at t and (s, delta) at
    s; broadcasts (algorithm 3)."""
    shorter = torch.minimum(t, s)
    ratio = (shorter / t) ** gamma * (shorter / s) ** delta  # no overflow: both are at most 1
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * ratio * shorter / (t * s)


def combination(
    steps: Sequence[float], lengths: Sequence[float], step: float, length: float
) -> Tensor:
    """What each written average counts (N,) in the one of `length` that ends at `step`: the least
    squared distance of their weights over training."""
    t = torch.tensor(steps, dtype=torch.float64)
    g = torch.tensor([gamma_of(value) for value in lengths], dtype=torch.float64)
    end, gamma = (torch.tensor(float(x)).double() for x in (step, gamma_of(length)))
    products, wanted = inner(t[:, None], g[:, None], t, g), inner(t, g, end, gamma)
    return torch.linalg.lstsq(products, wanted[:, None], driver="gelsd").solution[:, 0]


class Averages:
    """Averages of these lengths, of a network in training."""

    def __init__(self, network: nn.Module, lengths: Sequence[float]) -> None:
        self.lengths = lengths
        self.kept = [[p.detach().clone() for p in network.parameters()] for _ in lengths]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After step `step`, from 1: beta = (1 - 1/step)^(gamma + 1) (eq. 2)."""
        for length, kept in zip(self.lengths, self.kept, strict=True):
            beta = (1 - 1 / step) ** (gamma_of(length) + 1)
            torch._foreach_lerp_(kept, list(network.parameters()), 1 - beta)

    def write(self, network: nn.Module, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name, _ in network.named_parameters()]
        for length, kept in zip(self.lengths, self.kept, strict=True):
            pairs = (
                (n, p) for n, p in zip(names, kept, strict=True) if not n.startswith(UNSHIPPED)
            )
            tensors = {name: p.cpu().contiguous() for name, p in pairs}
            save_file(tensors, folder / f"step-{step:08d}-{length:.3f}.safetensors")


# ---- afterwards ----------------------------------------------------------------------------------


def written(folder: Path) -> Iterable[tuple[int, float, Path]]:
    for path in sorted(folder.glob("step-*.safetensors")):
        if found := re.fullmatch(r"step-(\d+)-([\d.]+)", path.stem):
            yield int(found[1]), float(found[2]), path


def rebuilt(folder: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of this length at `step` (the last one by default), from what a run wrote into
    `folder`."""
    found = list(written(folder))
    if not found:
        raise DaedalError(f"{folder} holds no averages; train with averages=[0.05,0.1].")
    step = step or found[-1][0]
    found = [entry for entry in found if entry[0] <= step]
    if not found or found[-1][0] != step:
        raise DaedalError(
            f"no average was written at step {step}; the steps are {', '.join(str(s) for s in sorted({s for s, _, _ in written(folder)}))}."
        )
    result: dict[str, Tensor] = {}
    steps, lengths, paths = zip(*found, strict=True)
    shares = combination(steps, lengths, step, length)
    for share, path in zip(shares, paths, strict=True):
        for name, tensor in load_file(path).items():
            result[name] = result.get(name, 0) + float(share) * tensor
    return result


def ship(run: Path, length: float, out: Path, step: int | None = None) -> Path:
    """`run/model` with the weights of another average, in the folder `out`. A model that is a part
    of what was trained (a codec of a codec and its critic) has its part's names."""
    average, used = rebuilt(run / "averages", length, step), 0
    shutil.copytree(run / "model", out)
    for path in out.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            own = re.compile(r"(\w+\.)?" + re.escape(name))
            match = [full for full in average if own.fullmatch(full)]
            if match:
                tensors[name], used = average[match[0]].to(tensor.dtype), used + 1
        save_file(tensors, path, metadata={"format": "pt"})
    if not used:
        raise DaedalError(
            f"no tensor of {run / 'model'} has the name of an averaged one; is it what this run trained?"
        )
    return out
