"""The transformer of LTX-Video (HaCohen et al. 2024): every latent cell is a token, which attends to
all others, with rotary positions in seconds and pixels, and to T5's text; each token may have a noise
level of its own, 0 if it is given.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F, h and w latent frames,
rows and columns, T cells, L text tokens, D width, H heads, K head dim."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.names import Names
from daedal.nn.cost import count_flops
from daedal.nn.dit import FeedForward, Rope, TextBlock, WideAttention, modulated, wanted_text
from daedal.nn.linear import Linear
from daedal.nn.timestep import Timestep, TimestepEmbedding

TEXT = 128  # tokens of a prompt
# frames, rows and columns, in frames of a second of 1, and pixels, that the positions run over
SPAN = (20.0, 2048.0, 2048.0)


@dataclass(frozen=True, kw_only=True)
class LTXVideoConfig:
    in_channels: int = 128
    out_channels: int | None = 128
    num_attention_heads: int = 32
    attention_head_dim: int = 64
    cross_attention_dim: int = 2048
    num_layers: int = 28
    norm_eps: float = 1e-6
    caption_channels: int = 4096

    class_name: ClassVar[str] = "LTXVideoTransformer3DModel"
    fixed: ClassVar[dict[str, Any]] = {
        "patch_size": 1, "patch_size_t": 1, "activation_fn": "gelu-approximate", "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": False, "attention_bias": True, "attention_out_bias": True,
    }  # fmt: skip

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class LTXBlock(TextBlock):
    def __init__(self, c: LTXVideoConfig) -> None:
        super().__init__()
        self.eps, self.scale_shift_table = c.norm_eps, nn.Parameter(torch.empty(6, c.dim))
        self.attn1 = WideAttention(c.dim, c.num_attention_heads, 1e-5)
        self.attn2 = WideAttention(c.dim, c.num_attention_heads, 1e-5, text=c.cross_attention_dim)
        self.norm2, self.ffn = nn.Identity(), FeedForward(c.dim)

    def normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


class TimeEmbedding(nn.Module):
    """The noise level as a vector, and as the six that all blocks share."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb, self.linear = Timestep(dim), Linear(dim, 6 * dim)

    def forward(self, time: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """time (B, 1 or T) -> (B, 1 or T, D), (B, 1 or T, 6, D)."""
        e = self.emb.level(time, dtype)
        return e, self.linear(F.silu(e)).unflatten(-1, (6, -1))


class LTXVideoTransformer3DModel(nn.Module):
    """Noisy latents of a clip, noise levels and a text -> the velocity (noise minus clean)."""

    config_class = LTXVideoConfig
    class_name = LTXVideoConfig.class_name
    names = Names(renames=((".ffn.", ".ff."),))

    def __init__(self, config: LTXVideoConfig) -> None:
        super().__init__()
        self.config, D = config, config.dim
        self.proj_in = Linear(config.in_channels, D)
        self.scale_shift_table = nn.Parameter(torch.empty(2, D))
        self.time_embed = TimeEmbedding(D)
        self.caption_projection = TimestepEmbedding(config.caption_channels, D, "gelu_pytorch_tanh")
        self.transformer_blocks = nn.ModuleList(LTXBlock(config) for _ in range(config.num_layers))
        self.proj_out = Linear(D, config.out_channels or config.in_channels)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        scale: tuple[float, float, float],
        tokens: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, F, h, w), time (B,) in 0..1000, or (B, T) one a cell, text (B, L,
        caption_channels), or `tokens`, the caption projection of it, mask (B, L) of tokens that exist, `scale`
        seconds and pixels of a cell -> (B, out_channels, F, h, w)."""
        if tokens is None:
            tokens = self.caption_projection(wanted_text(text, self).to(x.dtype))
        seen = None if mask is None else mask.bool()[:, None, None]
        time = time[:, None] if time.dim() == 1 else time
        level, shared = self.time_embed(time, x.dtype)
        rope = self.rope(x.shape[2:], scale, x.device)
        h = self.proj_in(x.flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            h = block(h, shared, rope, tokens, seen)
        table = self.scale_shift_table.float() + level[:, :, None].float()
        shift, last = table.to(h.dtype).unbind(2)
        return self.proj_out(modulated(h, shift, last)).transpose(1, 2).unflatten(2, x.shape[2:])

    def rope(
        self, grid: torch.Size, scale: tuple[float, float, float], device: torch.device
    ) -> Rope:
        """Cosines and sines (T, H, K/2). Pairs of the whole width turn with frame, row and column in
        turn, the first few not at all. In float32 throughout, as the model was trained: the largest
        angles are so coarse that float64 would turn otherwise."""
        axes = [
            torch.arange(count, dtype=torch.float32, device=device) * step / span
            for count, step, span in zip(grid, scale, SPAN, strict=True)
        ]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)  # (T, 3)
        D, H = self.config.dim, self.config.num_attention_heads
        waves = 10_000.0 ** torch.linspace(0, 1, D // 6, device=device) * (math.pi / 2)
        angles = (waves[:, None] * (places * 2 - 1)[:, None]).flatten(1)  # (T, 3 (D // 6))
        angles = F.pad(angles, (D % 6 // 2, 0)).unflatten(1, (H, -1))
        return angles.cos(), angles.sin()

    def flops(self, frames: int, height: int, width: int, text_tokens: int = TEXT) -> int:
        """Floating-point operations of one call on one latent clip of that size, the text's included;
        a multiply-add is two."""
        c = self.config

        def call(ltx: Any) -> None:
            text = torch.empty(1, text_tokens, c.caption_channels)
            x = torch.empty(1, c.in_channels, frames, height, width)
            ltx(x, torch.empty(1), text, scale=(0.32, 32, 32))

        return count_flops(self, call)
