"""IP-Adapter (Ye et al. 2023): an image as a prompt. The embedding of an image becomes a few
tokens, and every cross-attention of the U-Net gets a second pair of key and value projections for
them; the result is added to what the text gave.

Parameter names are those of the published files. Legend: B batch, D width of the image encoder, T
image tokens, C channels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.unet_blocks import Keys
from daedal.nn.conv import multi_head
from daedal.nn.linear import Linear
from daedal.nn.norm import LayerNorm

HEAD = 64  # width of a head of the resampler in all published files


class Tokens(nn.Module):
    """One embedding an image (B, D), or several (B, N, D), -> 4 tokens each, (B, 4N, text width)."""

    def __init__(self, dim: int, out: int, tokens: int) -> None:
        super().__init__()
        self.out, self.proj, self.norm = out, Linear(dim, tokens * out), LayerNorm(out)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.proj(embeds).reshape(len(embeds), -1, self.out))


class AllTokens(nn.Module):
    """Every hidden state of the image encoder (B, T, D) through an MLP (the full-face adapter)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(Linear(dim, dim), nn.GELU(), Linear(dim, out), LayerNorm(out))

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) -> (B, T, text width)
        return self.proj(hidden)


class ResamplerAttention(nn.Module):
    """Learnt queries attend to the image and to themselves."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.to_q = Linear(dim, inner, bias=False)
        self.to_kv = Linear(dim, 2 * inner, bias=False)
        self.to_out = Linear(inner, dim, bias=False)

    # (B, T, C), (B, Q, C) -> (B, Q, C)
    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        k, v = self.to_kv(torch.cat([self.norm1(image), latents], 1)).chunk(2, -1)
        return self.to_out(multi_head(self.to_q(latents), k, v, heads=k.shape[-1] // HEAD))


class ResamplerLayer(nn.ModuleList):
    """latents + attention, then + MLP; a list because the files number the two 0 and 1."""

    def __init__(self, width: int, inner: int, feedforward: int) -> None:
        mlp = nn.Sequential(
            LayerNorm(width),
            Linear(width, feedforward, bias=False),
            nn.GELU(),
            Linear(feedforward, width, bias=False),
        )
        super().__init__([ResamplerAttention(width, inner), mlp])

    # (B, T, C), (B, Q, C) -> (B, Q, C)
    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        latents = latents + self[0](image, latents)
        return latents + self[1](latents)


class Resampler(nn.Module):
    """The image encoder's hidden states (B, T, D) -> a fixed number of tokens (the "plus" adapters;
    after Alayrac et al. 2022)."""

    def __init__(
        self, dim: int, width: int, out: int, queries: int, inner: int, feedforward: int, depth: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, queries, width))
        self.proj_in = Linear(dim, width)
        self.proj_out = Linear(width, out)
        self.norm_out = LayerNorm(out)
        self.layers = nn.ModuleList(ResamplerLayer(width, inner, feedforward) for _ in range(depth))

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) -> (B, Q, text width)
        image = self.proj_in(hidden)
        latents = self.latents.to(image.dtype).expand(len(image), -1, -1)
        for layer in self.layers:
            latents = layer(image, latents)
        return self.norm_out(self.proj_out(latents))


class Projections(nn.Module):
    """The second keys and values of one cross-attention layer."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = Linear(dim, out, bias=False), Linear(dim, out, bias=False)

    # (B, T, text width) -> twice (B, T, C)
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class IPAdapter(nn.Module):
    """Adds image prompts to the keys of a text: `unet(x, time,
    text_kv=adapter.extend(unet.text_keys(text), embeds, scale=0.6))`.

    The files number layers 1, 3, 5, ... in the order in which diffusers registers them, which is
    down, up, *middle*, and not the order in which they run; `UNetEncoder.text_layers` keeps that
    order."""

    def __init__(self, image_proj: nn.Module, widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(
            {str(2 * i + 1): Projections(dim, out) for i, (dim, out) in enumerate(widths)}
        )

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, torch.Size]) -> Self:
        """The adapter, its weights not filled, that a file of tensors of those names and shapes
        holds."""
        image = {
            name.removeprefix("image_proj."): shape
            for name, shape in shapes.items()
            if name.startswith("image_proj.")
        }
        layers = sorted(
            int(name.split(".")[1])
            for name in shapes
            if name.startswith("ip_adapter.") and name.endswith("to_k_ip.weight")
        )
        if not layers or layers != list(range(1, 2 * len(layers), 2)):
            raise DaedalError(
                f"the file's ip_adapter layers are {layers or 'missing'}, not 1, 3, 5, ...; it is not an IP-Adapter Daedal knows."
            )
        widths = [shapes[f"ip_adapter.{number}.to_k_ip.weight"] for number in layers]
        return cls(
            image_projection(image, widths[0][1]), [(shape[1], shape[0]) for shape in widths]
        )

    def extend(
        self, text_kv: Sequence[Keys], embeds: Tensor, scale: float | Sequence[float] = 1.0
    ) -> list[Keys]:
        """The U-Net's `text_keys` with this image beside them. `embeds` (B, D), or what the image
        projection reads; `scale` weighs the image against the text, one number or one a layer; a
        layer whose scale is 0 skips the image."""
        scales = [scale] * len(text_kv) if isinstance(scale, int | float) else list(scale)
        if not len(text_kv) == len(scales) == len(self.ip_adapter):
            raise DaedalError(
                f"the adapter has {len(self.ip_adapter)} layers, the U-Net {len(text_kv)}, scale {len(scales)}; they must agree."
            )
        tokens, out = self.image_proj(embeds), []
        for keys, layer, weight in zip(text_kv, self.ip_adapter.values(), scales, strict=True):
            out.append(
                replace(keys, images=(*keys.images, (*layer(tokens), weight))) if weight else keys
            )
        return out


def image_projection(shapes: Mapping[str, torch.Size], text_width: int) -> nn.Module:
    """Which of the three projections has tensors of these names."""
    if "proj.weight" in shapes:
        tokens, dim = shapes["proj.weight"]
        return Tokens(dim, text_width, tokens // text_width)
    if "proj.3.weight" in shapes:
        return AllTokens(shapes["proj.0.weight"][1], text_width)
    if "latents" in shapes:
        (_, queries, width), inner = shapes["latents"], shapes["layers.0.0.to_q.weight"][0]
        depth = sum(name.endswith(".0.to_q.weight") for name in shapes)
        return Resampler(
            shapes["proj_in.weight"][1],
            width,
            text_width,
            queries,
            inner,
            shapes["layers.0.1.1.weight"][0],
            depth,
        )
    raise DaedalError(
        "the file's image_proj is none of IP-Adapter's projection, full or plus; Daedal knows those three."
    )
