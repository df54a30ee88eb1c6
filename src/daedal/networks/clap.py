"""CLAP (Wu et al. 2023): a tower that reads text (RoBERTa) and one that hears sound (HTS-AT, Chen et
al. 2022: a Swin transformer, Liu et al. 2021, on a log-mel spectrogram folded to a square), trained
so that a sound and its caption are near in one space.

Parameter names are those of transformers' files. Legend: B sounds, T frames, M mel bands, h and w
rows and columns of tokens, W tokens a side of a window, C width, P width of the shared space."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.bert import Attention as TextAttention
from daedal.networks.bert import Embeddings, Encoder, RobertaConfig, runs_of
from daedal.networks.config import EVERYTHING, parse, to_dict
from daedal.networks.names import Names
from daedal.nn.conv import Conv2d
from daedal.nn.cost import count_flops
from daedal.nn.linear import Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm

CONSTANTS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class ClapTextConfig(RobertaConfig):
    type_vocab_size: int = 1
    max_position_embeddings: int = 514
    projection_dim: int = 512
    projection_hidden_act: str = "relu"

    architecture: ClassVar[str] = "ClapTextModelWithProjection"
    model_type: ClassVar[str] = "clap_text_model"


@dataclass(frozen=True, kw_only=True)
class ClapAudioConfig:
    window_size: int = 8
    num_mel_bins: int = 64
    spec_size: int = 256
    hidden_act: str = "gelu"
    patch_size: int = 4
    hidden_size: int = 768
    projection_dim: int = 512
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    patch_embeds_hidden_size: int = 96
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    projection_hidden_act: str = "relu"
    layer_norm_eps: float = 1e-5

    model_type: ClassVar[str] = "clap_audio_model"
    ignored: ClassVar[frozenset[str]] = EVERYTHING
    # four crops of a long sound at once are another network; the published unfused ones hear one
    fixed: ClassVar[dict[str, Any]] = {"enable_fusion": False, "patch_embed_input_channels": 1}

    @property
    def frames(self) -> int:
        """Frames that the folded square has room for."""
        return self.spec_size * (self.spec_size // self.num_mel_bins)


@dataclass(frozen=True, kw_only=True)
class ClapConfig:
    """The configs of its towers, as parsed from the file."""

    text_config: dict[str, Any] = field(default_factory=dict)
    audio_config: dict[str, Any] = field(default_factory=dict)

    architecture: ClassVar[str] = "ClapModel"
    model_type: ClassVar[str] = "clap"
    ignored: ClassVar[frozenset[str]] = EVERYTHING


class Projection(nn.Module):
    """From a tower to the shared space."""

    def __init__(self, c: ClapTextConfig | ClapAudioConfig) -> None:
        super().__init__()
        self.act = activation(c.projection_hidden_act)
        self.linear1 = Linear(c.hidden_size, c.projection_dim)
        self.linear2 = Linear(c.projection_dim, c.projection_dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, C) -> (B, P)
        return self.linear2(self.act(self.linear1(x)))


class TextTower(nn.Module):
    """A text as the state of its first token behind one more layer."""

    def __init__(self, c: ClapTextConfig) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), Encoder(c, TextAttention)
        self.pooler = nn.ModuleDict({"dense": Linear(c.hidden_size, c.hidden_size)})

    def forward(self, tokens: Tensor, sizes: list[int]) -> Tensor:
        """tokens (N,) int64 of texts one after another, their sizes -> (texts, C)."""
        runs = runs_of(sizes)
        x = self.encoder(self.embeddings(tokens, runs), runs)
        first = torch.tensor([0, *sizes[:-1]], device=x.device).cumsum(0)
        return self.pooler["dense"](x[first]).tanh()


class WindowAttention(nn.Module):
    """Attention within windows, with a bias for each distance of two tokens."""

    def __init__(self, c: ClapAudioConfig, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.side = heads, c.window_size
        self.query, self.key, self.value = (Linear(dim, dim, bias=c.qkv_bias) for _ in range(3))
        distances = (2 * c.window_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.empty(distances, heads))

    def bias(self) -> Tensor:
        """(H, W^2, W^2)."""
        table, W = self.relative_position_bias_table, self.side
        at = torch.arange(W, device=table.device)
        rows, columns = (places.flatten() for places in torch.meshgrid(at, at, indexing="ij"))
        down, across = (place[:, None] - place[None] + W - 1 for place in (rows, columns))
        return table[down * (2 * W - 1) + across].permute(2, 0, 1)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """x (B, windows, W^2, C); `seen` (windows, W^2, W^2) is False where two tokens of a window
        are not neighbours."""
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for t in linears(x, self.query, self.key, self.value)
        )
        bias = self.bias().to(x.dtype)[None, None]
        if seen is not None:  # transformers and the original subtract 100
            bias = bias - 100.0 * (~seen).to(x.dtype)[None, :, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(x), -1, -1, -1, -1))
        return out.transpose(2, 3).flatten(3)


class Block(nn.Module):
    """Attention in windows, every second time of windows shifted by half, and a feed-forward, each
    behind a norm."""

    def __init__(self, c: ClapAudioConfig, dim: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.side, self.shift = c.window_size, c.window_size // 2 if shifted else 0
        self.layernorm_before = LayerNorm(dim, c.layer_norm_eps)
        self.layernorm_after = LayerNorm(dim, c.layer_norm_eps)
        out = nn.ModuleDict({"dense": Linear(dim, dim)})
        self.attention = nn.ModuleDict({"self": WindowAttention(c, dim, heads), "output": out})
        inner = int(c.mlp_ratio * dim)
        self.intermediate = nn.ModuleDict({"dense": Linear(dim, inner)})
        self.output = nn.ModuleDict({"dense": Linear(inner, dim)})
        self.act = activation(c.hidden_act)

    def forward(self, x: Tensor) -> Tensor:  # (B, h, w, C)
        x = x + self.attended(self.layernorm_before(x))
        inner = self.act(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.output["dense"](inner)

    def attended(self, x: Tensor) -> Tensor:
        (_, h, w, _), W = x.shape, self.side
        shift = 0 if min(h, w) <= W else self.shift
        x = F.pad(x, (0, 0, 0, -w % W, 0, -h % W))
        x = x.roll((-shift, -shift), (1, 2)) if shift else x
        seen = neighbours(x.shape[1], x.shape[2], W, shift, x.device) if shift else None
        rows = x.shape[1] // W
        x = x.unflatten(1, (rows, W)).unflatten(3, (-1, W)).transpose(2, 3)  # (B, r, c, W, W, C)
        windows = x.flatten(3, 4).flatten(1, 2)
        made = self.attention["output"]["dense"](self.attention["self"](windows, seen))  # type: ignore[index]
        made = made.unflatten(1, (rows, -1)).unflatten(3, (W, W)).transpose(2, 3)
        made = made.flatten(3, 4).flatten(1, 2)
        made = made.roll((shift, shift), (1, 2)) if shift else made
        return made[:, :h, :w]


def neighbours(h: int, w: int, W: int, shift: int, device: torch.device) -> Tensor:
    """(windows, W^2, W^2): which tokens of each window stood side by side before the shift."""

    def region(length: int) -> Tensor:
        at = torch.arange(length, device=device)
        return (at >= length - W).int() + (at >= length - shift).int()

    regions = region(h)[:, None] * 3 + region(w)[None]
    windows = regions.unflatten(0, (-1, W)).unflatten(2, (-1, W)).transpose(1, 2)
    flat = windows.flatten(2).flatten(0, 1)
    return flat[:, None] == flat[:, :, None]


class Merging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = LayerNorm(4 * dim), Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, h, w, C) -> (B, h/2, w/2, 2 C)
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(torch.cat(four, -1)))


class Stage(nn.Module):
    def __init__(self, c: ClapAudioConfig, level: int) -> None:
        super().__init__()
        dim, heads = c.patch_embeds_hidden_size << level, c.num_attention_heads[level]
        self.blocks = nn.ModuleList(
            Block(c, dim, heads, i % 2 == 1) for i in range(c.depths[level])
        )
        last = level == len(c.depths) - 1
        self.downsample = None if last else Merging(dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    def __init__(self, c: ClapAudioConfig) -> None:
        super().__init__()
        self.proj = Conv2d(1, c.patch_embeds_hidden_size, c.patch_size, stride=c.patch_size)
        self.norm = LayerNorm(c.patch_embeds_hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1, side, side) -> (B, h, w, C)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class AudioEncoder(nn.Module):
    def __init__(self, c: ClapAudioConfig) -> None:
        super().__init__()
        self.config = c
        self.batch_norm = nn.BatchNorm2d(c.num_mel_bins)
        self.patch_embed = PatchEmbed(c)
        self.layers = nn.ModuleList(Stage(c, level) for level in range(len(c.depths)))
        self.norm = LayerNorm(c.patch_embeds_hidden_size << (len(c.depths) - 1))

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, T, M), T at most the config's `frames` -> (B, C)."""
        x = self.batch_norm(mel.mT[..., None])[..., 0].mT[:, None]  # (B, 1, T, M)
        x = self.patch_embed(self.folded(x))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).flatten(1, 2).mean(1)

    def folded(self, x: Tensor) -> Tensor:
        """(B, 1, T, M) -> (B, 1, side, side): stretched to the length of the square's rows one
        after another, which are then stacked along the bands."""
        c = self.config
        rows = c.spec_size // c.num_mel_bins
        if x.shape[2] < c.frames:
            size = (c.frames, x.shape[3])
            x = F.interpolate(x, size, mode="bicubic", align_corners=True)
        x = x.unflatten(2, (rows, -1))  # (B, 1, rows, T / rows, M)
        return x.transpose(3, 4).flatten(2, 3)


class ClapTextModelWithProjection(nn.Module):
    """The text tower alone, as AudioLDM has it."""

    config_class = ClapTextConfig
    names = Names(skipped=CONSTANTS)

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.config = self.text_config = config
        self.text_model, self.text_projection = TextTower(config), Projection(config)

    def embed_text(self, tokens: Tensor, sizes: list[int]) -> Tensor:
        """tokens (N,) of texts one after another, their sizes -> unit vectors (texts, P)."""
        return F.normalize(self.text_projection(self.text_model(tokens, sizes)), dim=-1)

    forward = embed_text

    def flops(self, tokens: int = 32) -> int:
        """Floating-point operations of one text; a multiply-add is two."""
        return count_flops(self, lambda clap: clap(torch.zeros(tokens, dtype=torch.long), [tokens]))


class ClapModel(nn.Module):
    """Both towers. `embed_text` and `embed_sounds` give unit vectors, whose products say how sounds
    fit texts."""

    config_class = ClapConfig
    names = Names(skipped=CONSTANTS)

    def __init__(self, config: ClapConfig) -> None:
        super().__init__()
        self.config = config
        self.text_config = parse(ClapTextConfig, config.text_config)
        self.audio_config = parse(ClapAudioConfig, config.audio_config)
        self.text_model = TextTower(self.text_config)
        self.audio_model = nn.ModuleDict({"audio_encoder": AudioEncoder(self.audio_config)})
        self.text_projection = Projection(self.text_config)
        self.audio_projection = Projection(self.audio_config)
        self.logit_scale_a, self.logit_scale_t = (nn.Parameter(torch.empty(())) for _ in range(2))

    def written(self, raw: dict[str, Any]) -> dict[str, Any]:
        """config.json with every key of its parts."""
        sizes = {"projection_dim": self.text_config.projection_dim}
        parts: dict[str, Any] = {"text_config": self.text_config, "audio_config": self.audio_config}
        return raw | sizes | {name: to_dict(part) for name, part in parts.items()}

    def embed_text(self, tokens: Tensor, sizes: list[int]) -> Tensor:
        """tokens (N,) of texts one after another, their sizes -> unit vectors (texts, P)."""
        return F.normalize(self.text_projection(self.text_model(tokens, sizes)), dim=-1)

    def embed_sounds(self, mel: Tensor) -> Tensor:
        """Log-mel spectrograms (B, T, M) in decibels -> unit vectors (B, P)."""
        heard = self.audio_model["audio_encoder"](mel)
        return F.normalize(self.audio_projection(heard), dim=-1)

    def forward(self, mel: Tensor, tokens: Tensor, sizes: list[int]) -> Tensor:
        """The logits (sounds, texts)."""
        texts = self.embed_text(tokens, sizes)
        return self.logit_scale_a.exp() * self.embed_sounds(mel) @ texts.T

    def flops(self, tokens: int = 32) -> int:
        """Floating-point operations of one sound and one text; a multiply-add is two."""
        c = self.audio_config

        def run(clap: "ClapModel") -> Tensor:
            mel = torch.zeros(1, c.frames, c.num_mel_bins)
            return clap(mel, torch.zeros(tokens, dtype=torch.long), [tokens])

        return count_flops(self, run)
