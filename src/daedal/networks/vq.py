"""The vector-quantised autoencoder: VQ-VAE (van den Oord et al. 2017) in the architecture of VQGAN
(Esser et al. 2021) and of latent diffusion's VQ-regularised models (Rombach et al. 2022). Images
become a grid of codes that an autoregressive decoder can model.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W pixels, h and w
cells, D width of a code."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from daedal.networks.autoencoder import AutoencoderKL, CodecConfig, Decoder, Encoder
from daedal.nn.codebook import Quantized, VectorQuantizer
from daedal.nn.conv import Conv2d, init_
from daedal.nn.cost import count_flops


@dataclass(frozen=True, kw_only=True)
class VQModelConfig(CodecConfig):
    latent_channels: int = 3
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None
    lookup_from_codebook: bool = False
    force_upcast: bool = False

    class_name: ClassVar[str] = "VQModel"
    fixed: ClassVar[dict[str, Any]] = {"norm_type": "group"}


class VQModel(nn.Module):
    """`tokens` of images and images `from_tokens`; `encode` and `decode` give a diffusion model the
    continuous latents instead."""

    config_class = VQModelConfig
    class_name = VQModelConfig.class_name
    names = AutoencoderKL.names

    def __init__(self, config: VQModelConfig) -> None:
        super().__init__()
        D = config.vq_embed_dim or config.latent_channels
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.quant_conv = Conv2d(config.latent_channels, D, 1)
        self.quantize = VectorQuantizer(config.num_vq_embeddings, D)
        self.post_quant_conv = Conv2d(D, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @property
    def factor(self) -> int:
        """Pixels a side of one cell."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """images (B, 3, H, W) in [-1, 1] -> their reconstruction, and what the codes are and cost
        (fields with channels last)."""
        quantized = self.quantize(self.vectors(images))
        return self.draw(quantized.values), quantized

    def vectors(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, h, w, D), not yet quantised."""
        return self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1)

    def draw(self, vectors: Tensor) -> Tensor:
        """codes' vectors (B, h, w, D) -> images (B, 3, H, W)."""
        return self.decoder(self.post_quant_conv(vectors.permute(0, 3, 1, 2)))

    def tokens(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, h, w) int64."""
        return self.quantize.nearest(self.vectors(images))

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 -> images (B, 3, H, W)."""
        return self.draw(self.quantize.lookup(tokens))

    def encode(self, images: Tensor) -> Tensor:
        """images -> latents (B, D, h, w) scaled for a denoiser, not quantised."""
        return self.vectors(images).permute(0, 3, 1, 2) * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`; quantises on the way."""
        return self.draw(
            self.quantize(latents.permute(0, 2, 3, 1) / self.config.scaling_factor).values
        )

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch; codes start in the small cube U(+-1/N), near every
        vector."""
        init_(self, seed)
        bound, weight = 1 / self.config.num_vq_embeddings, self.quantize.embedding.weight
        weight.copy_(
            torch.empty(weight.shape).uniform_(
                -bound, bound, generator=torch.Generator().manual_seed(seed)
            )
        )
        return self

    def flops(self, height: int, width: int) -> dict[str, int]:
        """Floating-point operations (a multiply-add is two) to encode to tokens and to decode one
        image of that many pixels."""
        shape = (1, height // self.factor, width // self.factor)
        encode = count_flops(
            self, lambda vq: vq.tokens(torch.empty(1, self.config.in_channels, height, width))
        )
        return {
            "encode": encode,
            "decode": count_flops(
                self, lambda vq: vq.from_tokens(torch.zeros(shape, dtype=torch.long))
            ),
        }
