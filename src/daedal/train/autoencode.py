"""Image codecs from a recipe: the KL autoencoder of latent diffusion and the vector-quantised one
(Rombach et al. 2022, section 3.1; Esser et al. 2021), with a critic of patches, whose features also
measure how far a reconstruction looks from its picture.

Legend: B batch, C channels of the latent, D width of a code, H and W pixels, h and w latent cells.
"""

import dataclasses
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.config import parse
from daedal.networks.vq import VQModel
from daedal.nn.codebook import FSQ, CodebookAverage, code_use
from daedal.processes.imaging import pixels
from daedal.processes.measures import psnr
from daedal.train import parallel
from daedal.train.adversarial import GAMES, PatchGAN, difference, frozen, per_sample
from daedal.train.pictures import PictureTask, PlainBatches, clean, cost, held_out, sheet, sources
from daedal.train.recipe.pictures import AutoencodeRecipe
from daedal.train.task import evaluating
from daedal.train.trainer import Batch, Objective

RARE = 0.02  # share of its even part of the vectors below which a code counts as unused
KINDS: dict[str, Any] = {"kl": AutoencoderKL, "vq": VQModel}


class Autoencoding(nn.Module):
    """What is trained: a codec and its critic, where something asks for one; for codes that follow
    their vectors, the averages."""

    compute_dtype: torch.dtype | None = None
    layers = nn.ModuleList()

    def __init__(
        self, codec: nn.Module, critic: PatchGAN | None, average: CodebookAverage | None = None
    ) -> None:
        super().__init__()
        self.codec, self.critic, self.average = codec, critic, average

    def cast(self, images: Tensor) -> Tensor:
        return clean(images).to(self.compute_dtype or torch.float32)


# ---- objectives ----------------------------------------------------------------------------------


def autoencoding(r: AutoencodeRecipe) -> Objective:
    """Sum over pictures of |x - x'| (or its square), the distance in the critic's features, what
    the codec's own `terms` add, the codec's loss to the critic from step `adversarial_from` on, and
    the critic's own loss (Esser et al. 2021, eq. 6, with fixed weights)."""
    terms = kl_terms if r.model.kind == "kl" else vq_terms

    def loss(network: Autoencoding, part: Batch) -> Tensor:
        x = network.cast(part["images"])
        made, extra = terms(r, network, x, part["step"])
        missed, late = (x - made).float(), bool(part["step"][0] >= r.adversarial_from)
        error = per_sample(missed.abs() if r.error == "l1" else missed.square()) + extra
        if network.critic is not None:
            error = error + criticism(r, network.critic, x, made, late)
        return error.sum()

    return Objective(loss, lambda batch: len(batch["images"]))


def criticism(r: AutoencodeRecipe, critic: PatchGAN, x: Tensor, made: Tensor, late: bool) -> Tensor:
    """What the critic charges the codec for `made` in place of x (B, C, H, W), and its own loss:
    (B,)."""
    game = GAMES[r.game]
    (real, look), (caught, _) = critic(x), critic(made.detach())
    loss = per_sample(game.critic(real, caught))
    if not (r.perceptual or late):
        return loss
    fooled, seen = frozen(critic, made)
    shown = difference(seen, [features.detach() for features in look])
    maker = per_sample(game.maker(real.detach(), fooled))
    return loss + r.perceptual * shown + r.adversarial * late * maker


def kl_terms(
    r: AutoencodeRecipe, network: Autoencoding, x: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """The reconstruction, and (B,): the divergence of the posterior from N(0, 1), a mean over
    latent values (Kingma & Welling 2013, appendix B), and the picture of a scaled latent against
    the scaled picture (EQ-VAE, Kouzelis et al. 2025)."""
    vae = cast(AutoencoderKL, network.codec)
    mean, logvar = vae.moments(x)
    z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape).to(mean)
    divergence = 0.5 * per_sample(mean.square() + logvar.exp() - 1 - logvar)
    extra = r.kl * divergence
    if r.equivariance:
        side = int(torch.randint(z.shape[-1] // 2, z.shape[-1], ()))  # cells, down to half
        small = vae._decode(shrunk(z, side)) - shrunk(x, side * vae.factor)
        extra = extra + r.equivariance * per_sample(small.float().abs())
    return vae._decode(z), extra


def shrunk(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side), antialiased."""
    return F.interpolate(x.float(), size=(side, side), mode="bilinear", antialias=True).to(x.dtype)


def vq_terms(
    r: AutoencodeRecipe, network: Autoencoding, x: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """The reconstruction, and (B,) what commits vectors to their codes (van den Oord et al. 2017,
    eq. 3). Then the codes move to the mean of their vectors, over all processes; at the first step
    and every `revive_every` unused ones move to a vector of the batch."""
    vq = cast(VQModel, network.codec)
    z = vq.vectors(x)  # (B, h, w, D)
    quantized = vq.quantize(z)
    codes = vq.quantize.lookup(quantized.indices).to(z)
    commitment = per_sample((z - codes).float().square())
    if network.average is not None and network.training:
        seen = parallel.gathered(z.detach())
        network.average.update(vq.quantize, seen, parallel.gathered(quantized.indices))
        if (now := int(step[0])) % r.revive_every == 1:
            # vectors a code and step, were all codes used alike
            even, drawn = seen[..., 0].numel() / len(network.average.count), torch.Generator()
            network.average.revive(vq.quantize, seen, RARE * even, drawn.manual_seed(now))
    return vq.draw(quantized.values), r.commitment * commitment


# ---- the run -------------------------------------------------------------------------------------


def network_of(r: AutoencodeRecipe) -> Autoencoding:
    """Codes follow their vectors, or lie fixed on the grid of finite scalar quantisation (Mentzer
    et al. 2023), where the commitment keeps vectors near, in place of the paper's tangent: so the
    file is a plain VQModel."""
    kind, codec = KINDS[r.model.kind], None
    if r.model.start:
        codec = checkpoints.load(checkpoints.resolve(r.model.start), torch.float32)
    codec = codec or kind(parse(kind.config_class, r.model.config())).init_weights(r.seed)
    critic = critic_of(r)
    critic = critic and critic.init_weights(r.seed + 1)
    if r.model.kind == "kl":
        return Autoencoding(codec, critic)
    book = cast(VQModel, codec).quantize
    codes = book.embedding.weight.requires_grad_(False)  # no gradient moves them
    if not r.model.fsq_levels:
        return Autoencoding(codec, critic, CodebookAverage(book, r.codebook_decay))
    grid = FSQ(r.model.fsq_levels)
    codes.copy_(grid.lookup(torch.arange(grid.codes)))
    return Autoencoding(codec, critic)


def critic_of(r: AutoencodeRecipe) -> PatchGAN | None:
    """None where nothing asks for its opinion."""
    return PatchGAN(3, r.critic_width) if r.perceptual or r.adversarial else None


def forward(r: AutoencodeRecipe, network: Autoencoding, rows: int = 1) -> Any:
    """What training computes, for its cost."""
    x, codec = torch.empty(rows, 3, r.model.side, r.model.side), cast(Any, network.codec)
    if r.model.kind == "kl":
        made, kept = codec(x)[0], []
        if r.equivariance:
            side = x.shape[-1] * 3 // 4 // codec.factor  # on average
            kept = [codec._decode(torch.empty(rows, codec.config.latent_channels, side, side))]
    else:
        made, kept = codec.draw(codec.vectors(x)), []
    return (
        made,
        kept,
        network.critic and [network.critic(x), network.critic(made), network.critic(made.detach())],
    )


@torch.no_grad()
def rebuilt(network: Autoencoding, images: Tensor, rows: int = 25) -> tuple[Tensor, Tensor | None]:
    """images (N, 3, H, W) uint8 -> reconstructions in [-1, 1] from the posterior's mean, and of a
    VQModel the codes (N, h, w)."""
    codec: Any = network.codec
    device = next(codec.parameters()).device
    parts = [network.cast(part.to(device)) for part in images.split(rows)]
    if isinstance(codec, VQModel):
        tokens = [codec.tokens(x) for x in parts]
        return torch.cat([codec.from_tokens(t) for t in tokens]).float().cpu(), torch.cat(
            tokens
        ).cpu()
    return torch.cat([codec._decode(codec.moments(x)[0]) for x in parts]).float().cpu(), None


@torch.no_grad()
def normalise(codec: nn.Module, batches: PlainBatches, count: int) -> None:
    """Put each channel's mean and spread over `count` batches into the config, so that a denoiser
    sees latents of mean 0 and variance 1. (The posterior's own variance is part of the spread.)"""
    vae, device = cast(AutoencoderKL, codec), next(codec.parameters()).device
    moments = [vae.moments(clean(batches.batch(i)["images"].to(device))) for i in range(count)]
    # (C, N)
    mean, logvar = (
        torch.cat(parts).double().transpose(0, 1).flatten(1) for parts in zip(*moments, strict=True)
    )
    centre, spread = mean.mean(1), (mean.var(1, correction=0) + logvar.exp().mean(1)).sqrt()
    vae.config = dataclasses.replace(
        cast(AutoencoderKLConfig, vae.config), latents_mean=tuple(centre.tolist()), latents_std=tuple(spread.tolist()), scaling_factor=1.0,
        shift_factor=None,
    )  # fmt: skip


class Autoencode(PictureTask):
    """`out/model` is an AutoencoderKL or a VQModel that diffusers opens."""

    recipe_type = AutoencodeRecipe

    def build(self) -> None:
        r, side = self.recipe, self.recipe.model.side
        self.sources = sources(r.data.train, side)
        self.network, self.objective = network_of(r), autoencoding(r)
        self.batches = PlainBatches(self.sources, r.rows, r.seed, self.start.step)
        self.flops = r.rows * self.sample_cost()[1]
        if r.data.validation:
            self.tests, _ = held_out(r.data.validation, side, r.evaluate_pictures)
        else:
            self.evaluate = self.sample = None

    @property
    def width(self) -> int:
        return self.network.codec.config.block_out_channels[-1]

    def evaluate(self, network: Autoencoding) -> dict[str, float]:
        """On pictures held out: mean PSNR in decibels with its standard error; of codes, how many
        are used."""
        with evaluating(network):
            made, tokens = rebuilt(network, self.tests)
        values = psnr(made.clamp(-1, 1), clean(self.tests))
        error = values.std() / len(values) ** 0.5
        found = {"psnr": values.mean().item(), "standard_error": error.item()}
        if tokens is not None:
            used = code_use(tokens, network.codec.config.num_vq_embeddings)
            found |= {f"codes_{key}": value for key, value in used.items()}
        return found

    def sample(self, network: Autoencoding, step: int) -> str:
        """Eight pictures over their reconstructions."""
        shown = self.tests[:8]
        with evaluating(network):
            made = pixels(rebuilt(network, shown)[0])
        return sheet(self.start.out, step, [np.asarray(shown.permute(0, 2, 3, 1)), made])

    def save(self, state: dict[str, Tensor]) -> None:
        r = self.recipe
        if r.model.kind == "kl":
            others = PlainBatches(self.sources, r.rows, r.seed + 1)
            normalise(self.network.codec, others, count=max(1, 256 // r.rows))
        checkpoints.save(self.network.codec, self.folder)

    def sample_cost(self) -> tuple[int, float, int]:
        r, kind = self.recipe, KINDS[self.recipe.model.kind]
        start = r.model.start
        raw = checkpoints.read_config(checkpoints.resolve(start)) if start else r.model.config()
        config = parse(kind.config_class, raw)
        return cost(lambda: Autoencoding(kind(config), critic_of(r)), partial(forward, r))
