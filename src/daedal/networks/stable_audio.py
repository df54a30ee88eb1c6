"""The networks of Stable Audio Open (Evans et al. 2024): a transformer over the latents of a sound,
before which stands one token of the noise level and the times, and what makes those times vectors.

Parameter names are those of diffusers' files. Legend: B sounds, C latent channels, T frames, L text
tokens and times, E their width, D width, H heads, K head dim."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.conv1d import Conv1d
from daedal.nn.cost import count_flops
from daedal.nn.dit import attend_by_heads
from daedal.nn.linear import Linear, linears
from daedal.nn.norm import LayerNorm
from daedal.nn.rope import Rope, apply_rope, tables

Keys = tuple[Tensor, Tensor]  # keys and values (B, Hkv, L, K)
Turns = tuple[Tensor, Tensor]  # cosines and sines, (1, 1, T, K/4)


@dataclass(frozen=True, kw_only=True)
class StableAudioDiTConfig:
    """`sample_size` is the frames that the model was trained at, all of which it always makes."""

    sample_size: int = 1024
    in_channels: int = 64
    num_layers: int = 24
    attention_head_dim: int = 64
    num_attention_heads: int = 24
    num_key_value_attention_heads: int = 12  # of the attention over the text
    out_channels: int = 64
    cross_attention_dim: int = 768
    time_proj_dim: int = 256
    global_states_input_dim: int = 1536
    cross_attention_input_dim: int = 768

    class_name: ClassVar[str] = "StableAudioDiTModel"

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class Fourier(nn.Module):
    """Values as cosines, then sines, of learnt frequencies."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // 2))

    def forward(self, values: Tensor) -> Tensor:  # (B,) -> (B, dim) float32
        angles = 2 * math.pi * values.float()[:, None] * self.weight.float()
        return torch.cat([angles.cos(), angles.sin()], -1)


def projection(inp: int, dim: int, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(Linear(inp, dim, bias=bias), nn.SiLU(), Linear(dim, dim, bias=bias))


class Attention(nn.Module):
    """Of tokens over themselves, or over the text with fewer keys than queries."""

    def __init__(self, c: StableAudioDiTConfig, across: bool) -> None:
        super().__init__()
        D, self.head = c.dim, c.attention_head_dim
        keys = c.num_key_value_attention_heads * self.head if across else D
        read = c.cross_attention_dim if across else D
        self.to_q = Linear(D, D, bias=False)
        self.to_k, self.to_v = (Linear(read, keys, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([Linear(D, D, bias=False)])

    def split(self, x: Tensor) -> Tensor:  # (B, T, H*K) -> (B, T, H, K)
        return x.unflatten(-1, (-1, self.head))

    def keys(self, text: Tensor) -> Keys:  # (B, L, E)
        k, v = linears(text, self.to_k, self.to_v)
        return self.split(k).transpose(1, 2), self.split(v).transpose(1, 2)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:  # (B, T, D) -> (B, T, D)
        q, k, v = (self.split(t) for t in linears(x, self.to_q, self.to_k, self.to_v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return self.to_out[0](attend_by_heads(turned(q, turns), turned(k, turns), v))

    def across(self, x: Tensor, keys: Keys) -> Tensor:
        q = self.split(self.to_q(x)).transpose(1, 2)
        return self.to_out[0](attend_by_heads(q, *keys))


def pointwise(x: Tensor, conv: Conv1d) -> Tensor:
    """A convolution of one frame, of x (B, T, C)."""
    return F.linear(x, conv.weight[..., 0].to(x.dtype))


def turned(x: Tensor, turns: Turns) -> Tensor:
    """The first channels of x (B, H, T, K) rotated in float32; the others pass through."""
    width = 2 * turns[0].shape[-1]
    return torch.cat([apply_rope(x[..., :width], *turns).to(x.dtype), x[..., width:]], -1)


class SwiGLU(nn.Module):
    """a * silu(b), (a, b) = proj(x) (Shazeer 2020)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        gate = F.silu(gate)
        # in place, where nothing is to be kept for gradients: new pages cost more than the product
        return gate * x if torch.is_grad_enabled() else gate.mul_(x)


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # the middle one was a dropout
        self.net = nn.ModuleList([SwiGLU(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """Self-attention, attention over the text, feed-forward, each behind a norm."""

    def __init__(self, c: StableAudioDiTConfig) -> None:
        super().__init__()
        D = c.dim
        self.norm1, self.norm2, self.norm3 = (LayerNorm(D) for _ in range(3))
        self.attn1, self.attn2 = Attention(c, across=False), Attention(c, across=True)
        self.ff = FeedForward(D)

    def forward(self, x: Tensor, keys: Keys, turns: Turns) -> Tensor:
        x = x + self.attn1(self.norm1(x), turns)
        x = x + self.attn2.across(self.norm2(x), keys)
        return x + self.ff(self.norm3(x))


class StableAudioDiTModel(nn.Module):
    """Noisy latents, a noise level, a text with its times -> the network's output, of the latents'
    shape."""

    config_class = StableAudioDiTConfig
    class_name = StableAudioDiTConfig.class_name

    def __init__(self, config: StableAudioDiTConfig) -> None:
        super().__init__()
        self.config, c, D = config, config, config.dim
        self.time_proj = Fourier(c.time_proj_dim)
        self.timestep_proj = projection(c.time_proj_dim, D, bias=True)
        self.global_proj = projection(c.global_states_input_dim, D)
        self.cross_attention_proj = projection(c.cross_attention_input_dim, c.cross_attention_dim)
        self.preprocess_conv = Conv1d(c.in_channels, c.in_channels, 1, bias=False)
        self.proj_in = Linear(c.in_channels, D, bias=False)
        self.transformer_blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.proj_out = Linear(D, c.out_channels, bias=False)
        self.postprocess_conv = Conv1d(c.out_channels, c.out_channels, 1, bias=False)

    def text_keys(self, text: Tensor) -> list[Keys]:
        """text with its times (B, L, E) -> keys and values of every block. They depend on nothing
        else, so once a prompt is enough."""
        text = self.cross_attention_proj(text)
        return [block.attn2.keys(text) for block in self.transformer_blocks]  # type: ignore[operator,union-attr]

    def forward(self, x: Tensor, time: Tensor, keys: list[Keys], times: Tensor) -> Tensor:
        """x (B, C, T), time (B,) in 0..1, the text's `text_keys`, times (B, global width)."""
        level = self.timestep_proj(self.time_proj(time).to(x.dtype))
        first = (self.global_proj(times.to(x.dtype)) + level)[:, None]
        x = x.mT  # (B, T, C)
        x = self.proj_in(pointwise(x, self.preprocess_conv) + x)
        x = torch.cat([first, x], 1)
        turns = self.turns(x.shape[1], x.device)
        for block, each in zip(self.transformer_blocks, keys, strict=True):
            x = block(x, each, turns)
        out = self.proj_out(x[:, 1:])
        return (pointwise(out, self.postprocess_conv) + out).mT

    def turns(self, length: int, device: torch.device) -> Turns:
        """Rotations of the first half of each head, (1, 1, T, K/4)."""
        rope = Rope(self.config.attention_head_dim // 2, 10000.0, length)
        places = torch.arange(length, device=device)[None]
        cos, sin = tables(rope, places, None, torch.float32)
        return cos.transpose(1, 2), sin.transpose(1, 2)

    def flops(self, frames: int = 1024, text: int = 130) -> int:
        """Floating-point operations of one call on so many frames; a multiply-add is two."""
        c = self.config

        def call(network: "StableAudioDiTModel") -> None:
            keys = network.text_keys(torch.empty(1, text, c.cross_attention_input_dim))
            x = torch.empty(1, c.in_channels, frames)
            network(x, torch.empty(1), keys, torch.empty(1, c.global_states_input_dim))

        return count_flops(self, call)


@dataclass(frozen=True, kw_only=True)
class StableAudioProjectionConfig:
    text_encoder_dim: int
    conditioning_dim: int
    min_value: float
    max_value: float

    class_name: ClassVar[str] = "StableAudioProjectionModel"


class Waves(nn.Module):
    """A number, and sines and cosines of learnt multiples of it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(dim // 2))

    def forward(self, values: Tensor) -> Tensor:  # (B,) -> (B, dim + 1)
        angles = 2 * math.pi * values[:, None] * self.weights.to(values.dtype)
        return torch.cat([values[:, None], angles.sin(), angles.cos()], -1)


class NumberConditioner(nn.Module):
    """Seconds as a vector, counted from the least to the most that the model was trained with."""

    def __init__(self, c: StableAudioProjectionConfig, inner: int = 256) -> None:
        super().__init__()
        self.low, self.high = c.min_value, c.max_value
        self.time_positional_embedding = nn.Sequential(
            Waves(inner), Linear(inner + 1, c.conditioning_dim)
        )

    def forward(self, seconds: Tensor) -> Tensor:  # (B,) -> (B, E)
        share = (seconds.clamp(self.low, self.high) - self.low) / (self.high - self.low)
        dtype = self.time_positional_embedding[1].weight.dtype
        return self.time_positional_embedding(share.to(dtype))  # type: ignore[arg-type]


class StableAudioProjectionModel(nn.Module):
    """T5's states and the times in one width."""

    config_class = StableAudioProjectionConfig
    class_name = StableAudioProjectionConfig.class_name

    def __init__(self, config: StableAudioProjectionConfig) -> None:
        super().__init__()
        self.config, c = config, config
        differs = c.text_encoder_dim != c.conditioning_dim
        self.text_projection = (
            Linear(c.text_encoder_dim, c.conditioning_dim) if differs else nn.Identity()
        )
        self.start_number_conditioner = NumberConditioner(c)
        self.end_number_conditioner = NumberConditioner(c)

    def forward(self, text: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """text (B, L, width of T5), seconds (B,) -> text (B, L, E), times (B, 2, E)."""
        times = [self.start_number_conditioner(start), self.end_number_conditioner(end)]
        return self.text_projection(text), torch.stack(times, 1)
