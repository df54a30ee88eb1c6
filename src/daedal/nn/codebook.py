"""Vectors to discrete codes and back: vector quantisation (van den Oord et al. 2017) with a
codebook that follows its vectors by a moving average, and finite scalar quantisation (Mentzer et
al. 2023), which has no codebook to learn.

Legend: D width of a vector, N codes; leading dimensions (...) are free: positions of an image,
frames of a sound."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.linear import Embedding


@dataclass(frozen=True)
class Quantized:
    """`values` (..., D) with the gradient passed straight through to the input, `indices` (...)
    int64, and the two mean squared distances of eq. 3: `codebook` pulls codes to their vectors,
    `commitment` vectors to their codes (weighed by 0.25 in the paper)."""

    values: Tensor
    indices: Tensor
    codebook: Tensor
    commitment: Tensor


@torch.no_grad()
def nearest_rows(z: Tensor, table: Tensor) -> Tensor:
    """z (..., D), table (N, D) -> (...) int64: |z - e|^2 less the |z|^2 that all codes share, in
    float32."""
    codes, flat = table.float(), z.float().flatten(0, -2)
    return torch.addmm(codes.square().sum(1), flat, codes.T, alpha=-2).argmin(1).view(z.shape[:-1])


class VectorQuantizer(nn.Module):
    """Each vector is replaced by the nearest of N codes."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = Embedding(codes, dim)

    def forward(self, z: Tensor) -> Quantized:  # (..., D)
        indices = self.nearest(z)
        codes = self.lookup(indices).to(z.dtype)
        codebook, commitment = F.mse_loss(codes, z.detach()), F.mse_loss(z, codes.detach())
        return Quantized(straight_through(z, codes), indices, codebook, commitment)

    def nearest(self, z: Tensor) -> Tensor:
        return nearest_rows(z, self.embedding.weight)

    def lookup(self, indices: Tensor) -> Tensor:  # (...) -> (..., D)
        return self.embedding(indices)


class CodebookAverage(nn.Module):
    """Lets a codebook follow its vectors instead of a gradient: code i is the exponentially
    weighted mean of the vectors assigned to it (van den Oord et al. 2017, appendix A.1). Training
    state, kept apart from the quantiser so that the model's file stays as it is.

    Count and sum start at zero and decay alike, so their quotient needs no correction for the
    start; a code that was never chosen stays."""

    count: Tensor
    total: Tensor

    def __init__(self, quantizer: VectorQuantizer, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        codes, dim = quantizer.embedding.weight.shape
        self.register_buffer("count", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, dim))

    @torch.no_grad()
    def update(self, quantizer: VectorQuantizer, z: Tensor, indices: Tensor) -> None:
        """After a step that assigned vectors z (..., D) to codes `indices` (...)."""
        flat, chosen = z.float().flatten(0, -2), indices.flatten()
        self.count.lerp_(torch.bincount(chosen, minlength=len(self.count)).float(), 1 - self.decay)
        self.total.lerp_(torch.zeros_like(self.total).index_add_(0, chosen, flat), 1 - self.decay)
        seen = self.count > 0
        weight = quantizer.embedding.weight
        weight[seen] = (self.total[seen] / self.count[seen, None]).to(weight.dtype)

    @torch.no_grad()
    def revive(
        self,
        quantizer: VectorQuantizer,
        z: Tensor,
        threshold: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> int:
        """Codes chosen fewer than `threshold` times a step, on average, move to vectors drawn from
        z (..., D); how many did."""
        dead, flat = (self.count < threshold).nonzero()[:, 0], z.float().flatten(0, -2)
        drawn = flat[torch.randint(len(flat), (len(dead),), generator=generator).to(flat.device)]
        # as if just chosen once
        self.count[dead], self.total[dead] = 1 - self.decay, drawn * (1 - self.decay)
        quantizer.embedding.weight[dead] = drawn.to(quantizer.embedding.weight.dtype)
        return len(dead)


def code_use(indices: Tensor, codes: int) -> dict[str, float]:
    """How much of a codebook `indices` (...) use: the share of codes that occur, and the perplexity
    exp(entropy), `codes` at best."""
    share = torch.bincount(indices.flatten(), minlength=codes).double() / indices.numel()
    return {
        "used": (share > 0).double().mean().item(),
        "perplexity": torch.special.entr(share).sum().exp().item(),
    }


class FSQ(nn.Module):
    """Finite scalar quantisation: channel i is squashed into (-1, 1) and rounded to one of
    `levels[i]` values; the product of the levels is the size of the implied codebook. The paper
    suggests (8, 6, 5) for 2**8 codes, (8, 5, 5, 5) for 2**10, (7, 5, 5, 5, 5) for 2**12."""

    sizes: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if min(levels, default=0) < 2:
            raise DaedalError(
                f"levels {levels} of a finite scalar quantiser must be numbers of at least 2; (8, 5, 5, 5) makes 1000 codes."
            )
        self.levels = levels
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        self.register_buffer(
            "strides", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False
        )

    @property
    def codes(self) -> int:
        return int(self.sizes.prod())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) with D = len(levels) -> values in [-1, 1] with the gradient of the squashing,
        and indices (...) int64."""
        bounded = self.bound(z)
        values = straight_through(bounded, bounded.round()) / (self.sizes // 2)
        return values, self.indices(values)

    def bound(self, z: Tensor) -> Tensor:
        """Squashed so that rounding gives `levels` values: -2..2 for 5, -4..3 for 8. Zero goes to
        zero: that takes the inverse of tanh, where the paper's listing has a tangent, and a range a
        thousandth wider, not narrower, so that two levels work too."""
        half = (self.sizes - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.sizes % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def indices(self, values: Tensor) -> Tensor:
        """(..., D) -> (...) int64."""
        return (((values.detach() + 1) * (self.sizes // 2)).round().long() * self.strides).sum(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D), the values of those codes."""
        digits = indices[..., None] // self.strides % self.sizes
        return digits / (self.sizes // 2) - 1


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` with the gradient of x (Bengio et al. 2013)."""
    return x + (quantized - x).detach()
