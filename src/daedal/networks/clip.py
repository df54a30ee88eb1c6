"""CLIP (Radford et al. 2021): a text tower and an image tower whose pooled states meet in one
space. The text towers of Stable Diffusion 1, 2, XL and 3 and of FLUX (OpenAI's and OpenCLIP's, as
transformers folders), the image towers of IP-Adapter and unCLIP, and the whole model for scores and
for contrastive training.

Parameter names are those of transformers' files. Legend: B batch, T tokens (of the image: a class
token, then patches), D width, P width of the shared space."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import parse, to_dict
from daedal.networks.legacy import UNUSED
from daedal.networks.names import Names
from daedal.nn.conv import Conv2d, init_, multi_head, to_tokens
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear, linears
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm

# what config.json said the end of text was until 2023, whatever the tokenizer's was
UNMENDED_EOS = 2
CONSTANTS = ("position_ids",)  # beside the weights in old files
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    ignored: ClassVar[frozenset[str]] = UNUSED


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TowerConfig):
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407

    architecture: ClassVar[str] = "CLIPTextModel"
    model_type: ClassVar[str] = "clip_text_model"


@dataclass(frozen=True, kw_only=True)
class CLIPTextProjectedConfig(CLIPTextConfig):
    architecture: ClassVar[str] = "CLIPTextModelWithProjection"


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    architecture: ClassVar[str] = "CLIPVisionModelWithProjection"
    model_type: ClassVar[str] = "clip_vision_model"


@dataclass(frozen=True, kw_only=True)
class CLIPVisionPlainConfig(CLIPVisionConfig):
    architecture: ClassVar[str] = "CLIPVisionModel"


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """The towers' configs are kept as the file has them; `text` and `vision` are what they say.
    `of` makes one from these."""

    text_config: dict[str, Any] = field(default_factory=dict)
    vision_config: dict[str, Any] = field(default_factory=dict)
    text_config_dict: dict[str, Any] | None = None  # files of 2021: goes over text_config
    vision_config_dict: dict[str, Any] | None = None
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592  # ln(1 / 0.07)

    architecture: ClassVar[str] = "CLIPModel"
    model_type: ClassVar[str] = "clip"
    ignored: ClassVar[frozenset[str]] = UNUSED

    @cached_property
    def text(self) -> CLIPTextConfig:
        return parse(CLIPTextConfig, self.text_config | (self.text_config_dict or {}))

    @cached_property
    def vision(self) -> CLIPVisionConfig:
        return parse(CLIPVisionConfig, self.vision_config | (self.vision_config_dict or {}))

    @classmethod
    def of(cls, text: CLIPTextConfig, vision: CLIPVisionConfig, projection_dim: int = 512) -> Self:
        return cls(
            text_config=to_dict(text), vision_config=to_dict(vision), projection_dim=projection_dim
        )


@dataclass(frozen=True)
class Features:
    """What a tower makes of its input.

    hidden: what enters the first layer and what leaves each (B, T, D), not normalised: hidden[-2]
    is what SDXL and SD3 read. last: hidden[-1], behind the text tower's final norm: what Stable
    Diffusion 1 and 2 read. pooled: one normalised state (B, D), or (B, P) where the tower has a
    projection."""

    hidden: tuple[Tensor, ...]
    last: Tensor
    pooled: Tensor


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(dim, dim) for _ in range(4))

    # (B, T, D), (B or 1, 1, T, T) -> (B, T, D)
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = linears(x, self.q_proj, self.k_proj, self.v_proj)
        return self.out_proj(multi_head(q, k, v, self.heads, mask))


class MLP(nn.Module):
    def __init__(self, dim: int, inner: int, act: str) -> None:
        super().__init__()
        self.act: Callable[[Tensor], Tensor] = (
            quick_gelu if act == "quick_gelu" else activation(act)
        )
        self.fc1, self.fc2 = Linear(dim, inner), Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a layer norm and added to the stream."""

    def __init__(self, c: TowerConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.self_attn = Attention(c.hidden_size, c.num_attention_heads)
        self.layer_norm2 = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = MLP(c.hidden_size, c.intermediate_size, c.hidden_act)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, c: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))

    # x, and what leaves each layer
    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], mask))
        return tuple(hidden)


class TextEmbeddings(nn.Module):
    def __init__(self, c: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = Embedding(c.vocab_size, c.hidden_size)
        self.position_embedding = Embedding(c.max_position_embeddings, c.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        positions, count = self.position_embedding.weight, tokens.shape[1]
        if count > len(positions):
            raise DaedalError(
                f"{count} tokens are more than the {len(positions)} that this CLIP reads; cut the prompt, or encode it in parts."
            )
        return self.token_embedding(tokens) + positions[:count]


class VisionEmbeddings(nn.Module):
    def __init__(self, c: CLIPVisionConfig) -> None:
        super().__init__()
        self.size = c.image_size
        self.class_embedding = nn.Parameter(torch.empty(c.hidden_size))
        self.patch_embedding = Conv2d(
            c.num_channels, c.hidden_size, c.patch_size, stride=c.patch_size, bias=False
        )
        self.position_embedding = Embedding((c.image_size // c.patch_size) ** 2 + 1, c.hidden_size)

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, T, D)
        if images.shape[2:] != (self.size, self.size):
            raise DaedalError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels do not fit this CLIP; resize them to {self.size} x {self.size}."
            )
        patches = to_tokens(self.patch_embedding(images))
        first = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight.to(patches.dtype)


class TextTower(nn.Module):
    """`compute_dtype`, when set, is the dtype of activations; weights keep their own (fp32 masters,
    bf16 compute)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos = config.eos_token_id
        self.compute_dtype: torch.dtype | None = None
        self.embeddings, self.encoder = TextEmbeddings(config), Encoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        x = self.embeddings(tokens)
        hidden = self.encoder(x.to(self.compute_dtype or x.dtype), causal(tokens, mask))
        last = self.final_layer_norm(hidden[-1])
        return Features(
            hidden,
            last,
            last[torch.arange(len(last), device=last.device), end_of_text(tokens, self.eos)],
        )


class VisionTower(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.embeddings, self.encoder = VisionEmbeddings(config), Encoder(config)
        # spelled as in the files
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, images: Tensor) -> Features:
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        return Features(hidden, hidden[-1], self.post_layernorm(hidden[-1][:, 0]))


def causal(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B or 1, 1, T, T) bool: each token sees those before it that exist, and itself."""
    itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    before = torch.ones_like(itself).tril()
    if mask is None:
        return before[None, None]
    return (before & mask.bool()[:, None]).logical_or(itself)[:, None]


def end_of_text(tokens: Tensor, eos: int) -> Tensor:
    """Which token of each row is pooled, (B,): the first end of text; with the eos of an unmended
    file the highest id, which that was."""
    return tokens.argmax(-1) if eos == UNMENDED_EOS else (tokens == eos).int().argmax(-1)


class CLIPTextModel(nn.Module):
    """A prompt as states of its tokens, and as one state, not projected (FLUX)."""

    config_class: type[CLIPTextConfig] = CLIPTextConfig
    names = Names(skipped=CONSTANTS, former=(  # what transformers 5 writes
        ("embeddings.", "text_model.embeddings."), ("encoder.", "text_model.encoder."), ("final_", "text_model.final_"),
    ))  # fmt: skip

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTower(config)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        """tokens (B, T) int64, T at most max_position_embeddings, each row with an end of text.
        `mask` (B, T) is False at padding; Stable Diffusion gives none, so that padding is read like
        any token."""
        return self.text_model(tokens, mask)

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch."""
        return init_towers(self, seed)

    def flops(self, tokens: int = 77) -> int:
        """Floating-point operations of one prompt of that many tokens; a multiply-add is two."""
        return count_flops(self, lambda clip: clip(torch.zeros(1, tokens, dtype=torch.long)))


class CLIPTextModelWithProjection(CLIPTextModel):
    """The same with `pooled` in the shared space (SDXL's second tower, SD3's two)."""

    config_class = CLIPTextProjectedConfig
    names = Names(skipped=CONSTANTS)

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        features = self.text_model(tokens, mask)
        return replace(features, pooled=self.text_projection(features.pooled))


class CLIPVisionModel(nn.Module):
    """An image as states of its patches, and as one state, not projected (Wan)."""

    config_class: type[CLIPVisionConfig] = CLIPVisionPlainConfig
    names = Names(skipped=CONSTANTS, former=(  # what transformers 5 writes
        ("embeddings.", "vision_model.embeddings."), ("encoder.", "vision_model.encoder."),
        ("pre_layrnorm.", "vision_model.pre_layrnorm."), ("post_layernorm.", "vision_model.post_layernorm."),
    ))  # fmt: skip

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTower(config)

    def forward(self, images: Tensor) -> Features:
        """images (B, C, image_size, image_size), normalised as the model's image processor says."""
        return self.vision_model(images)

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch."""
        return init_towers(self, seed)

    def flops(self) -> int:
        """Floating-point operations of one image; a multiply-add is two."""
        return count_flops(self, lambda clip: clip(blank(self.config)))


class CLIPVisionModelWithProjection(CLIPVisionModel):
    """The same with `pooled` in the shared space."""

    config_class = CLIPVisionConfig
    names = Names(skipped=CONSTANTS)

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, images: Tensor) -> Features:
        features = self.vision_model(images)
        return replace(features, pooled=self.visual_projection(features.pooled))


class CLIPModel(nn.Module):
    """Both towers. `embed_text` and `embed_images` give unit vectors; their products, times
    `scale`, are the contrastive logits."""

    config_class = CLIPConfig
    names = Names(skipped=CONSTANTS)

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config, text, vision = config, config.text, config.vision
        self.text_model, self.vision_model = TextTower(text), VisionTower(vision)
        self.text_projection = Linear(text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))

    def embed_text(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> unit vectors (B, P)."""
        return F.normalize(self.text_projection(self.text_model(tokens, mask).pooled), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, C, image_size, image_size) -> unit vectors (B, P)."""
        return F.normalize(self.visual_projection(self.vision_model(images).pooled), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What the cosines are multiplied by: the inverse temperature."""
        return self.logit_scale.exp()

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (images, texts): row i says which text belongs to image i, column j which
        image belongs to text j."""
        return self.scale * self.embed_images(images) @ self.embed_text(tokens, mask).T

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch."""
        self.logit_scale.fill_(self.config.logit_scale_init_value)
        return init_towers(self, seed)

    def flops(self, tokens: int = 77) -> int:
        """Floating-point operations of one image and one text; a multiply-add is two."""
        return count_flops(
            self,
            lambda clip: clip(blank(self.config.vision), torch.zeros(1, tokens, dtype=torch.long)),
        )


def blank(c: CLIPVisionConfig) -> Tensor:
    return torch.empty(1, c.num_channels, c.image_size, c.image_size)


@torch.no_grad()
def init_towers(clip: M, seed: int) -> M:
    """Layers that write to a residual stream start smaller the deeper the tower is. They do not
    start at zero: all images would then be one vector and all texts nearly one, where the
    contrastive loss has no gradient."""
    init_(clip, seed)
    for module in clip.modules():
        if isinstance(module, Encoder):
            layer: Any
            for layer in module.layers:
                layer.self_attn.out_proj.weight.mul_((2 * len(module.layers)) ** -0.5)
                layer.mlp.fc2.weight.mul_((2 * len(module.layers)) ** -0.5)
        if isinstance(module, VisionEmbeddings):
            module.class_embedding.zero_()
    return clip
