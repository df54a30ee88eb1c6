"""The house's media transformer: one diffusion transformer for pictures, and later music, speech
and video.

A medium is a row of tokens, each with a position on one to three axes in physical units (pixels,
seconds) and its own *noise level*. The network takes tokens, positions, levels and text, and
nothing else: which pixels a token stands for, where it lies and how large a picture is are its
codec's to say (networks.media_codecs). A token that is given has level 0: it is clean, is read by
the others and carries no loss, so text-to-image, inpainting, outpainting and variation are a mask,
not four networks. It follows DiT (Peebles & Xie 2023) with PixArt's shared adaLN (Chen et al.
2023), RMS norms on queries and keys, axial rotary positions and a gated feed-forward. Text tokens
are not updated by the blocks: their keys and values are made once a prompt (`encode_text`) and
serve every step. Tokens come in with where they lie (sines of their positions), so that words can
say a place; among themselves they see how far apart they are. With a `sketch` they also see their
part of a small picture that the text alone tells: what a thing looks like is then looked up once,
not spelled out place by place by the blocks. A clip is moments of a picture: with `time_layers`
the blocks see one moment each, and between them stand blocks in which each place sees all of its
moments. So a network of pictures becomes one of clips by what is added alone, and the link from a
place to itself over time, which motion needs, is built in (docs/log.md).

Legend: B batch, T media tokens, L text tokens, D width, H heads, K head dim, C values of a token.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.media_codecs import codec_of
from daedal.networks.names import Names
from daedal.nn.linear import Embedding, Linear
from daedal.nn.mlp import GatedMLP
from daedal.nn.norm import RMSNorm
from daedal.nn.timestep import sinusoidal


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    class_name: ClassVar[str] = "MediaTransformer"
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    intermediate_size: int = 704
    token_size: int = 192  # values of a token: channels x patch x patch
    axes: int = 2
    # in units of the positions, of the rotary embedding; the shortest is `shortest_wave`
    longest_wave: float = 256.0
    shortest_wave: float = 8.0
    prediction: str = "x0"  # what the output is: "x0" or "flow" (noise minus clean)
    vocab_size: int = 4096
    text_layers: int = 3
    text_length: int = 24
    norm_eps: float = 1e-6
    patch_size: int = 8  # pixels a side of a token, or cells of the codec's latents
    channels: int = 3
    sample_size: int = 64  # pixels
    # values of a control picture's token (edges: patch x patch), added where tokens come in; 0:
    # none
    control_size: int = 0
    # the config of an autoencoder: tokens are patches of its latents
    codec: dict[str, Any] | None = None
    # cells a side of a small picture that the text alone tells and the tokens see; 0: none
    sketch: int = 0
    # blocks over time, spread evenly among the others, which then see a moment each; axes=3
    time_layers: int = 0
    frames: int = 1  # of a clip, when nothing is said
    frame_rate: int = 8  # a second, the same
    # also told how far the path is to be followed: one step from noise to picture (MeanFlow)
    spans: bool = False


@dataclass
class Text:
    """A prompt, ready for every step: keys and values (B, L, H, K) of each block, and a vector (B,
    D) for the modulation."""

    kv: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: Tensor = field(default_factory=lambda: torch.empty(0))


# layers of which a network begins without an effect
ZERO_AT_FIRST: tuple[str, ...] = (
    "modulation",
    "final_modulation",
    "proj_out",
    "control_in",
    "sketch.proj_out",
    "span_in",
    "position_in",
    "moment_in",
)
# and of the blocks over time what they add
ZERO_IN_TIME = ("o_proj", "down_proj")


class MediaTransformer(nn.Module):
    class_name = "MediaTransformer"
    config_class = MediaConfig
    names = Names(renames=(("codec.autoencoder.", "codec."),))

    def __init__(self, config: MediaConfig) -> None:
        super().__init__()
        self.config = config
        D = config.hidden_size
        self.codec = codec_of(config)
        pairs = D // config.num_attention_heads // 2
        # of each axis, in the positions
        self.waves = pairs // (2 if config.time_layers else config.axes)
        self.text = TextEncoder(config)
        self.proj_in = Linear(config.token_size, D)
        self.control_in = (
            Linear(config.control_size, D, bias=False) if config.control_size else None
        )
        self.sketch = Sketch(config) if config.sketch else None
        axes = 2 if config.time_layers else config.axes
        self.position_in = Linear(2 * self.waves * axes, D, bias=False)
        self.moment_in = Linear(4 * self.waves, D, bias=False) if config.time_layers else None
        self.time_in, self.time_out = Linear(256, D), Linear(D, D)
        self.span_in = Linear(256, D, bias=False) if config.spans else None
        self.modulation = Linear(D, 6 * D)  # one for all blocks; each adds its own table
        self.layers = nn.ModuleList(MediaBlock(config) for _ in range(config.num_hidden_layers))
        self.time_layers = nn.ModuleList(
            MediaBlock(config, reads=False) for _ in range(config.time_layers)
        )
        self.norm = RMSNorm(D, config.norm_eps)
        self.final_modulation = Linear(D, 2 * D)
        self.proj_out = Linear(D, config.token_size)
        self.compute_dtype: torch.dtype | None = None

    def init_weights(self, seed: int = 0) -> "MediaTransformer":
        """Scaled normal matrices; every gate and the output start at zero, so that each block
        starts as the identity (adaLN-zero). Words and their places start as large as what a block
        adds: smaller ones drown, and the text encoder forgets who stood where. The codec starts as
        it would for training: load one."""
        draw = torch.Generator().manual_seed(seed)
        self.codec.init_weights(seed)
        for name, p in self.named_parameters():
            if name.startswith("codec."):
                continue
            if p.dim() == 2:
                still = name.startswith("time_layers.") and any(n in name for n in ZERO_IN_TIME)
                if name.startswith(ZERO_AT_FIRST) or still:
                    std = 0.0
                elif name in ("text.embed.weight", "text.position"):
                    std = 1.0
                else:
                    std = p.shape[1] ** -0.5
                p.data = torch.randn(p.shape, generator=draw) * std
            else:
                p.data = torch.ones(p.shape) if "norm" in name else torch.zeros(p.shape)
        return self

    def encode_text(self, tokens: Tensor) -> Text:
        """tokens (B, L) int64, padded with the pad token (which is read like any other) -> keys and
        values for every block."""
        x = self.text(tokens, self.compute_dtype or torch.float32)  # (B, L, D)
        return Text([layer.text_heads(x) for layer in self.layers], self.text.gist(x))  # type: ignore[operator]

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        level: Tensor,
        text: Text,
        control: Tensor | None = None,
        states: list[Tensor] | None = None,
        until: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, C) noisy tokens, positions (T, axes), level (B, T), or (B, 1) where all tokens
        of a sample share it, in [0, 1], control (B, T, control_size) -> (B, T, C), in the form of
        `config.prediction`. What leaves each block is put into `states`. A network with
        `config.spans` says where the path from `level` down to `until` (as level; 0 by default)
        leads on average."""
        time = self.time_in(self.wave(level))
        if self.span_in is not None:
            time = time + self.span_in(self.wave(level if until is None else level - until))
        condition = F.silu(self.time_out(F.silu(time)) + text.pooled[:, None])  # (B, T or 1, D)
        shared = self.modulation(condition)
        h = self.proj_in(self.cast(x)) + self.placed(positions)
        if self.control_in is not None and control is not None:
            h = h + self.control_in(self.cast(control))
        if self.sketch is not None:
            small, side = self.sketch(text.pooled), self.codec.side
            h = h + self.sketch.proj_out(self.cast(cells(small, positions[:, -2:], side)))
        h = self.through_blocks(h, shared, positions, text, states)
        scale, shift = self.final_modulation(condition).chunk(2, -1)
        return self.proj_out(self.norm(h) * (1 + scale) + shift).float()

    def placed(self, positions: Tensor) -> Tensor:
        """What tokens at `positions` (T, axes) come in with, (T, D)."""
        if self.moment_in is None:
            return self.position_in(self.waves_of(self.angles(positions)))
        moment = self.moment_in(self.waves_of(self.angles(positions[:, :1])))
        return self.position_in(self.waves_of(self.angles(positions[:, 1:]))) + moment

    def waves_of(self, angle: Tensor) -> Tensor:
        return self.cast(torch.cat([angle.cos(), angle.sin()], -1))

    def through_blocks(
        self,
        h: Tensor,
        shared: Tensor,
        positions: Tensor,
        text: Text,
        states: list[Tensor] | None,
    ) -> Tensor:
        """h (B, T, D) through all blocks. Tokens of a clip stand moment by moment, the places of
        each in one order."""
        times, over_time, moments = self.config.time_layers, None, 1
        if times:
            moments = 1 + int((positions[1:, 0] != positions[:-1, 0]).sum())
            over_time = self.rope(self.angles(positions[:, :1]))
            positions = positions[:, 1:]
        rope = self.rope(self.angles(positions))
        every = len(self.layers) / max(times, 1)
        for i, (layer, kv) in enumerate(zip(self.layers, text.kv, strict=True)):
            h = layer(h, shared, rope, kv, moments)
            if states is not None:
                states.append(h)
            if over_time is not None and int((i + 1) / every) > int(i / every):
                h = self.time_layers[int(i / every)](h, shared, over_time, None, moments)
        return h

    def wave(self, level: Tensor) -> Tensor:  # (...) -> (..., 256)
        return self.cast(sinusoidal(level.flatten() * 1000, 256).unflatten(0, level.shape))

    def cast(self, x: Tensor) -> Tensor:
        return x.to(self.compute_dtype) if self.compute_dtype else x

    def angles(self, positions: Tensor) -> Tensor:
        """(T, axes) -> (T, axes * waves): each axis has its own, with wavelengths from
        `shortest_wave` to `longest_wave`; time alone has as many as two axes together."""
        c = self.config
        waves = self.waves * (2 if c.time_layers and positions.shape[1] == 1 else 1)
        wave = c.shortest_wave * (c.longest_wave / c.shortest_wave) ** torch.linspace(
            0, 1, waves, device=positions.device
        )
        return (positions.float()[:, :, None] * (2 * math.pi / wave)).flatten(1)

    def rope(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, 1, K/2) of how far each pair of a head turns; pairs left over do not
        turn."""
        pairs = self.config.hidden_size // self.config.num_attention_heads // 2
        angle = F.pad(angle, (0, pairs - angle.shape[1]))[:, None]
        return angle.cos(), angle.sin()

    def flops(self, tokens: int, *, train: bool = False, moments: int = 1) -> float:
        """Of one forward pass over `tokens` media tokens of one sample (text once) in so many
        moments, or with its backward pass."""
        c = self.config
        block = sum(
            p.numel()
            for layers in (self.layers, self.time_layers)
            for name, p in layers.named_parameters()
            if p.dim() == 2 and ".text_" not in name
        )
        heads = 2 * c.hidden_size**2 * c.num_hidden_layers  # the text's keys and values
        seen = (tokens // moments + c.text_length) * c.num_hidden_layers + moments * c.time_layers
        attention = 2 * c.hidden_size * seen
        once = (
            self.modulation.weight.numel()
            + self.time_in.weight.numel()
            + self.time_out.weight.numel()
        )
        total = 2 * (
            tokens * (block + attention + 2 * c.token_size * c.hidden_size)
            + c.text_length * heads
            + once
        )
        return total * (3 if train else 1) + self.text_flops(train=train)

    def text_flops(self, *, train: bool = False) -> float:
        """Of a prompt's states and sketch, or with their backward pass."""
        layers, told = (
            [p.numel() for p in part.parameters() if p.dim() == 2] if part else []
            for part in (self.text.layers, self.sketch)
        )
        return 2 * (self.config.text_length * sum(layers) + sum(told)) * (3 if train else 1)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + K/2) of x (B, T, H, K)."""
    cos, sin = (t.to(x.dtype) for t in rope)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class MediaAttention(nn.Module):
    """Media tokens attend to themselves, and where it `reads` to the text."""

    def __init__(self, config: MediaConfig, reads: bool = True) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, D // config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            Linear(D, D, bias=False) for _ in range(4)
        )
        if reads:
            self.text_k_proj, self.text_v_proj = Linear(D, D, bias=False), Linear(D, D, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps)

    def split(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, H, K)
        return x.unflatten(-1, (self.heads, self.head_dim))

    def text_heads(self, text: Tensor) -> tuple[Tensor, Tensor]:  # (B, L, D) -> two of (B, L, H, K)
        return self.k_norm(self.split(self.text_k_proj(text))), self.split(self.text_v_proj(text))

    # (B, T, D) -> (B, T, D)
    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor] | None,
        moments: int = 1,
    ) -> Tensor:
        q, k, v = (self.split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        if text is None:  # each place over time
            out = attend(
                *(t.unflatten(1, (moments, -1)).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
            )
            out = out.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(1, 2)
        else:
            q, k, v = (t.reshape(-1, t.shape[1] // moments, *t.shape[2:]) for t in (q, k, v))
            keys, values = (t.repeat_interleave(moments, 0) if moments > 1 else t for t in text)
            out = attend(q, torch.cat([keys, k], 1), torch.cat([values, v], 1))
        return self.o_proj(out.reshape(x.shape))


# keys up to which, on a CPU in bf16, attention is faster in plain products, and its gradient many times
SHORT = 128


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (B, T, H, K), k and v (B, S, H, K) -> (B, T, H, K)."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= SHORT:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        out = scores.softmax(-1, torch.float32).to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2)


class MediaBlock(nn.Module):
    """x + gate * attention(scale * norm(x) + shift), then the same with the feed-forward (DiT's
    adaLN-zero block)."""

    def __init__(self, config: MediaConfig, reads: bool = True) -> None:
        super().__init__()
        D = config.hidden_size
        self.attention_norm = RMSNorm(D, config.norm_eps)
        self.attention = MediaAttention(config, reads)
        self.mlp_norm = RMSNorm(D, config.norm_eps)
        self.mlp = GatedMLP(D, config.intermediate_size, "silu")
        self.table = nn.Parameter(torch.zeros(6 * D))

    # (B, L, D) -> keys and values (B, L, H, K)
    def text_heads(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention.text_heads(text)

    def forward(
        self,
        x: Tensor,
        shared: Tensor,
        rope: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor] | None,
        moments: int = 1,
    ) -> Tensor:
        modulation = shared + self.table.to(x.dtype)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation.chunk(6, -1)
        seen = self.attention_norm(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(seen, rope, text, moments)
        return x + gate2 * self.mlp(self.mlp_norm(x) * (1 + scale2) + shift2)


class TextEncoder(nn.Module):
    """Caption tokens (B, L) -> states (B, L, D)."""

    def __init__(self, config: MediaConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.embed = Embedding(config.vocab_size, D)
        self.position = nn.Parameter(torch.empty(config.text_length, D))
        self.layers = nn.ModuleList(TextBlock(config) for _ in range(config.text_layers))
        self.norm, self.pool = RMSNorm(D, config.norm_eps), Linear(D, D)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        x = (self.embed(tokens) + self.position[: tokens.shape[1]]).to(dtype)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def gist(self, states: Tensor) -> Tensor:  # (B, L, D) -> (B, D)
        return self.pool(states.mean(1))


class TextBlock(nn.Module):
    """A block of the text encoder: every token sees every other."""

    def __init__(self, config: MediaConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_norm = RMSNorm(D, config.norm_eps)
        self.mlp_norm = RMSNorm(D, config.norm_eps)
        self.qkv_proj, self.o_proj = Linear(D, 3 * D, bias=False), Linear(D, D, bias=False)
        self.mlp = GatedMLP(D, config.intermediate_size, "silu")

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) -> (B, L, D)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in self.qkv_proj(self.attention_norm(x)).chunk(3, -1)
        )
        x = x + self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Sketch(nn.Module):
    """What a prompt looks like at a glance: a small picture told by the text alone, which the
    tokens see (`proj_out`) beside their noise. From its error a text encoder learns what names look
    like with a fraction of the samples that it takes through noise and blocks (docs/log.md)."""

    def __init__(self, config: MediaConfig) -> None:
        super().__init__()
        D, self.side = config.hidden_size, config.sketch
        self.up_proj, self.down_proj = Linear(D, 4 * D), Linear(4 * D, 3 * config.sketch**2)
        self.proj_out = Linear(12, D, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """`Text.pooled` (B, D) -> (B, 3, side, side) in [-1, 1] or so."""
        flat = self.down_proj(F.silu(self.up_proj(F.silu(pooled))))
        return flat.unflatten(-1, (3, self.side, self.side))


def cells(small: Tensor, positions: Tensor, side: float) -> Tensor:
    """What tokens of `side` pixels at `positions` (T, 2) see of a small picture (B, 3, h, w) drawn
    out over theirs: the middles of their four quarters (B, T, 12)."""
    corners = positions.new_tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    quarters = positions[:, None] + side / 4 * corners  # (T, 4, 2)
    # (right, down) in [-1, 1]
    grid = (quarters / (positions.amin(0) + positions.amax(0)) * 2 - 1).flip(-1)
    grid, kind = grid.expand(len(small), -1, -1, -1), {"padding_mode": "border"}
    seen = F.grid_sample(small.float(), grid, **kind, align_corners=False)  # (B, 3, T, 4)
    return seen.transpose(1, 2).flatten(2)
