"""Text and image as two streams of tokens that attend to each other (MM-DiT, Esser et al. 2024):
the attention, the block, what they are conditioned on, and what side networks add. For Stable
Diffusion 3 and FLUX.

Parameter names are those of diffusers' files. Legend: B batch, T image tokens, L text tokens, D
width, H heads, K head dim, P width of the pooled text."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.dit import (
    FeedForward,
    LastNorm,
    Modulation,
    Rope,
    SelfAttention,
    attend,
    head_norm,
    modulated,
    rotated,
)
from daedal.nn.linear import Linear, linears
from daedal.nn.timestep import TimestepEmbedding, sinusoidal

# Which of n residuals serves layer i of L.
PLACES: dict[str, Callable[[int, int, int], int]] = {
    "even": lambda i, n, L: i * n // L,
    "runs": lambda i, n, L: i // -(-L // n),
    "cycle": lambda i, n, L: i % n,
}


class Condition(nn.Module):
    """The noise level and the pooled text as one vector; where `guided`, also the scale of
    guidance-distilled models (FLUX dev)."""

    def __init__(self, dim: int, pooled: int, guided: bool = False) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(256, dim)
        self.guidance_embedder = TimestepEmbedding(256, dim) if guided else None
        self.text_embedder = TimestepEmbedding(pooled, dim)

    def forward(
        self, x: Tensor, time: Tensor, pooled: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        """time (B,) or (1,) in [0, 1], pooled (B, P), guidance (B,) or (1,) -> (B, D) in the dtype
        of x."""
        e = self.timestep_embedder(waves(time, x)) + self.text_embedder(pooled.to(x.dtype))
        if self.guidance_embedder is None:
            return e
        if guidance is None:
            raise DaedalError(
                "this model was distilled from guidance and must be told its scale, which was not given; pass guidance (3.5 is usual)."
            )
        return e + self.guidance_embedder(waves(guidance, x))


def waves(values: Tensor, x: Tensor) -> Tensor:
    """Sinusoids (B, 256) of a thousand times the values (B,) or (1,), in the dtype of x."""
    return sinusoidal(1000 * values.float().expand(len(x)), 256).to(x.dtype)


class JointAttention(SelfAttention):
    """Attention of text and image over both, each with projections of its own. `text_out`: the
    text's result is wanted too."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool, text_out: bool = True) -> None:
        super().__init__(dim, heads, qk_norm=qk_norm)
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(dim, dim) for _ in range(3))
        self.norm_added_q, self.norm_added_k = (head_norm(dim // heads, qk_norm) for _ in range(2))
        self.to_add_out = Linear(dim, dim) if text_out else None

    # (B, L, D) -> q, k, v (B, L, H, K)
    def split_text(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1))
            for t in linears(text, self.add_q_proj, self.add_k_proj, self.add_v_proj)
        )
        return self.norm_added_q(q), self.norm_added_k(k), v

    def both(self, x: Tensor, text: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor | None]:
        """x (B, T, D), text (B, L, D) -> the same, the text's None where it is not wanted. `rope`
        has the text's positions first."""
        q, k, v = (
            torch.cat(pair, 1) for pair in zip(self.split_text(text), self.split(x), strict=True)
        )
        words, out = attend(rotated(q, rope), rotated(k, rope), v).split(
            [text.shape[1], x.shape[1]], 1
        )
        return self.to_out[0](out), None if self.to_add_out is None else self.to_add_out(words)


class JointBlock(nn.Module):
    """One block (figure 2b): text and image each have a norm and a feed-forward, and meet in one
    attention.

    `dual`: the image has a second attention, over itself only, beside it (SD3.5 medium). Without
    `text_out` no one reads the text after this block, and it is returned as it came."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool, dual: bool = False, text_out: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = Modulation(dim, 9 if dual else 6)
        self.norm1_context: nn.Module = Modulation(dim, 6) if text_out else LastNorm(dim)
        self.attn = JointAttention(dim, heads, qk_norm=qk_norm, text_out=text_out)
        self.attn2 = SelfAttention(dim, heads, qk_norm=qk_norm) if dual else None
        self.ff = FeedForward(dim)
        self.ff_context = FeedForward(dim) if text_out else None

    def forward(
        self, x: Tensor, text: Tensor, condition: Tensor, rope: Rope | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D), text (B, L, D), condition (B, D) -> x and text."""
        shift, scale, gate, *feed = self.norm1(condition)
        normed = modulated(x, shift, scale)
        if self.ff_context is None:
            out, _ = self.attn.both(normed, self.norm1_context(text, condition), rope)
        else:
            text_shift, text_scale, text_gate, *text_feed = self.norm1_context(condition)
            out, words = self.attn.both(normed, modulated(text, text_shift, text_scale), rope)
            text = self.ff_context.added(text + text_gate * words, text_feed)
        if self.attn2 is not None:
            *feed, shift, scale, second_gate = feed
            out = gate * out + second_gate * self.attn2(modulated(x, shift, scale))
        else:
            out = gate * out
        return self.ff.added(x + out, feed), text


@dataclass(frozen=True)
class Residuals:
    """What a side network (ControlNet) adds to the image's tokens (B, T, D) after the blocks of two
    streams, `double`, and of one, `single`. It may have fewer layers than the model: `places` says
    which serves which. Several, of any number of layers each, are put together with +."""

    double: tuple[Tensor, ...] = ()
    single: tuple[Tensor, ...] = ()
    places: str = "even"
    others: tuple["Residuals", ...] = ()

    def __add__(self, other: "Residuals") -> "Residuals":
        return replace(self, others=(*self.others, other))

    def add(self, x: Tensor, kind: str, layer: int, layers: int) -> Tensor:
        """x behind block `layer` of `layers`, in which the image's tokens come last."""
        if tensors := getattr(self, kind):
            residual = tensors[PLACES[self.places](layer, len(tensors), layers)]
            x = x + F.pad(residual, (0, 0, x.shape[1] - residual.shape[1], 0))
        for other in self.others:
            x = other.add(x, kind, layer, layers)
        return x


NO_CONTROL = Residuals()
