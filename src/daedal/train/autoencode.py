"""Image codecs from a recipe: the KL autoencoder of latent diffusion and the vector-quantised one
(Rombach et al. 2022, section 3.1; Esser et al. 2021), with a critic of patches, whose features also
measure how far a reconstruction looks from its picture.

Legend: B batch, C channels of the latent, D width of a code, H and W pixels, h and w latent cells.
"""

import dataclasses
from functools import partial
from pathlib import Path
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
from daedal.train.adversarial import GAMES, PatchGAN, difference, frozen
from daedal.train.pictures import PlainBatches, clean, cost, fit, held_out, planned, sheet, sources
from daedal.train.recipe.pictures import AutoencodeRecipe
from daedal.train.start import begin
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
        missed = (x - made).float()
        error = (missed.abs() if r.error == "l1" else missed.square()).flatten(1).mean(1) + extra
        if network.critic is not None:
            error = error + criticism(
                r, network.critic, x, made, late=bool(part["step"][0] >= r.adversarial_from)
            )
        return error.sum()

    return Objective(loss, lambda batch: len(batch["images"]))


def criticism(r: AutoencodeRecipe, critic: PatchGAN, x: Tensor, made: Tensor, late: bool) -> Tensor:
    """What the critic charges the codec for `made` in place of x (B, C, H, W), and its own loss:
    (B,)."""
    game = GAMES[r.game]
    (real, look), (caught, _) = critic(x), critic(made.detach())
    loss = game.critic(real, caught).float().flatten(1).mean(1)
    if not (r.perceptual or late):
        return loss
    fooled, seen = frozen(critic, made)
    shown = difference(seen, [features.detach() for features in look])
    maker = game.maker(real.detach(), fooled).float().flatten(1).mean(1)
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
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).float().flatten(1).mean(1)
    extra = r.kl * divergence
    if r.equivariance:
        side = int(torch.randint(z.shape[-1] // 2, z.shape[-1], ()))  # cells, down to half
        small = vae._decode(shrunk(z, side))
        extra = extra + r.equivariance * (
            small - shrunk(x, side * vae.factor)
        ).float().abs().flatten(1).mean(1)
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
    commitment = (
        (z - vq.quantize.lookup(quantized.indices).to(z)).float().square().flatten(1).mean(1)
    )
    if network.average is not None and network.training:
        seen = parallel_rows(z)
        network.average.update(vq.quantize, seen, parallel_rows(quantized.indices))
        if (now := int(step[0])) % r.revive_every == 1:
            # vectors a code and step, were all codes used alike
            evenly_spaced = seen[..., 0].numel() / len(network.average.count)
            network.average.revive(
                vq.quantize, seen, RARE * evenly_spaced, torch.Generator().manual_seed(now)
            )
    return vq.draw(quantized.values), r.commitment * commitment


@torch.no_grad()
def parallel_rows(x: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, in order of rank: (B * world, ...)."""
    if not torch.distributed.is_initialized():
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


# ---- the run -------------------------------------------------------------------------------------


def network_of(r: AutoencodeRecipe) -> Autoencoding:
    """Codes follow their vectors, or lie fixed on the grid of finite scalar quantisation (Mentzer
    et al. 2023), where the commitment keeps vectors near, in place of the paper's tangent: so the
    file is a plain VQModel."""
    kind = KINDS[r.model.kind]
    codec = (
        checkpoints.load(checkpoints.resolve(r.model.start), torch.float32)
        if r.model.start
        else None
    )
    codec = codec or kind(parse(kind.config_class, r.model.config())).init_weights(r.seed)
    critic = critic_of(r)
    critic = critic and critic.init_weights(r.seed + 1)
    if r.model.kind == "kl":
        return Autoencoding(codec, critic)
    # no gradient moves them
    codes = cast(VQModel, codec).quantize.embedding.weight.requires_grad_(False)
    if r.model.fsq_levels:
        grid = FSQ(r.model.fsq_levels)
        codes.copy_(grid.lookup(torch.arange(grid.codes)))
    return Autoencoding(
        codec,
        critic,
        None
        if r.model.fsq_levels
        else CodebookAverage(cast(VQModel, codec).quantize, r.codebook_decay),
    )


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


def plan(recipe: AutoencodeRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    return planned(recipe, *cost(partial(on_meta, recipe), partial(forward, recipe)))


def on_meta(r: AutoencodeRecipe) -> Autoencoding:
    kind = KINDS[r.model.kind]
    return Autoencoding(kind(parse(kind.config_class, shape_of(r))), critic_of(r))


def shape_of(r: AutoencodeRecipe) -> dict[str, Any]:
    return (
        checkpoints.read_config(checkpoints.resolve(r.model.start))
        if r.model.start
        else r.model.config()
    )


def run(recipe: AutoencodeRecipe) -> Path:
    """Train, and write `out/model`, an AutoencoderKL or a VQModel that diffusers opens. Returns
    that folder."""
    start = begin(recipe)
    train = sources(recipe.data.train, recipe.model.side)
    network = network_of(recipe)
    tests = (
        held_out(recipe.data.validation, recipe.model.side, recipe.evaluate_pictures)[0]
        if recipe.data.validation
        else None
    )
    batches = PlainBatches(train, recipe.rows, recipe.seed, start.step)
    width = network.codec.config.block_out_channels[-1]  # type: ignore[union-attr,index]
    flops = cost(partial(on_meta, recipe), partial(forward, recipe))[1]
    fit(
        recipe, start, network, width, batches, autoencoding(recipe), flops, None if tests is None else partial(evaluate, tests),
        None if tests is None else partial(sample, start.out, tests),
    )  # fmt: skip
    if start.rank == 0:
        if recipe.model.kind == "kl":
            normalise(
                network.codec,
                PlainBatches(train, recipe.rows, recipe.seed + 1),
                count=max(1, 256 // recipe.rows),
            )
        checkpoints.save(network.codec, start.out / "model")
    parallel.finish()
    return start.out / "model"


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


def evaluate(tests: Tensor, network: Autoencoding) -> dict[str, float]:
    """On pictures held out: mean PSNR in decibels with its standard error; of codes, how many are
    used."""
    network.eval()
    made, tokens = rebuilt(network, tests)
    network.train()
    values = psnr(made.clamp(-1, 1), clean(tests))
    found = {
        "psnr": values.mean().item(),
        "standard_error": (values.std() / len(values) ** 0.5).item(),
    }
    used = (
        {}
        if tokens is None
        else code_use(tokens, cast(Any, network.codec).config.num_vq_embeddings)
    )
    return found | {f"codes_{key}": value for key, value in used.items()}


def sample(out: Path, tests: Tensor, network: Autoencoding, step: int) -> str:
    """Eight pictures over their reconstructions."""
    network.eval()
    made = pixels(rebuilt(network, tests[:8])[0])
    network.train()
    return sheet(out, step, [np.asarray(tests[:8].permute(0, 2, 3, 1)), made])


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
