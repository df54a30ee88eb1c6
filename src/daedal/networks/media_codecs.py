"""Codecs of the house's media transformer: content to tokens and back, where the tokens lie, and
how many there are. One a kind of content; the network knows none of this.

Legend: B batch, T tokens, C values of a token, C' channels."""

from typing import Any

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.config import parse

SECOND = 32.0  # units of position


class PictureCodec(nn.Module):
    """Patches of pixels, or of the latents of an autoencoder that was trained before and stays as
    it is. Positions are pixels, (down, right)."""

    axes = 2

    def __init__(self, patch: int, latents: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.patch, self.autoencoder = patch, None
        if latents:
            self.autoencoder = AutoencoderKL(parse(AutoencoderKLConfig, latents)).requires_grad_(
                False
            )

    @property
    def side(self) -> int:
        """Of a token, in pixels."""
        return self.patch * (self.autoencoder.factor if self.autoencoder else 1)

    def count(self, height: int, width: int) -> int:
        """Tokens of a picture."""
        return (height // self.side) * (width // self.side)

    def encode(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> (B, T, C), without a gradient to the autoencoder."""
        with torch.no_grad():
            cells = self.autoencoder.encode(images) if self.autoencoder else images
        return patchify(cells, self.patch)

    def decode(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse: (B, T, C) -> (B, 3, height, width)."""
        if not self.autoencoder:
            return unpatchify(tokens, self.patch, height, width)
        rows, columns = height // self.autoencoder.factor, width // self.autoencoder.factor
        return self.autoencoder.decode(unpatchify(tokens, self.patch, rows, columns))

    def hint(self, pictures: Tensor) -> Tensor:
        """Control pictures (B, C', H, W) as the tokens see them, (B, T, C' * side * side)."""
        return patchify(pictures, self.side)

    def positions(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """Where the tokens of a picture lie, (T, 2)."""
        return grid_positions(height, width, self.side).to(device)

    def init_weights(self, seed: int) -> None:
        """As the autoencoder would start for training: load one."""
        if self.autoencoder:
            self.autoencoder.init_weights(seed)


class ClipCodec(nn.Module):
    """Patches of pixels of each moment of a clip, moment by moment. Positions are (time, down,
    right): pixels, and SECOND of them a second, so that what is learnt at one frame rate holds at
    another."""

    axes = 3

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.side = patch  # of a token, in pixels

    def count(self, frames: int, height: int, width: int) -> int:
        """Tokens of a clip."""
        return frames * (height // self.side) * (width // self.side)

    def encode(self, clips: Tensor) -> Tensor:
        """clips (B, F, 3, H, W) in [-1, 1] -> (B, T, C)."""
        return patchify(clips.flatten(0, 1), self.side).unflatten(0, clips.shape[:2]).flatten(1, 2)

    def decode(self, tokens: Tensor, frames: int, height: int, width: int) -> Tensor:
        """The inverse: (B, T, C) -> (B, F, 3, height, width)."""
        moments = tokens.unflatten(1, (frames, -1)).flatten(0, 1)
        return unpatchify(moments, self.side, height, width).unflatten(0, (-1, frames))

    def positions(
        self, frames: int, height: int, width: int, rate: float, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Where the tokens of a clip of `rate` frames a second lie, (T, 3)."""
        places = grid_positions(height, width, self.side).repeat(frames, 1)
        times = (torch.arange(frames) * SECOND / rate).repeat_interleave(len(places) // frames)
        return torch.cat([times[:, None], places], 1).to(device)

    def init_weights(self, seed: int) -> None:
        pass


class PlainCodec(nn.Module):
    """Content that is tokens already, on any number of axes: cells of size 1."""

    def encode(self, tokens: Tensor) -> Tensor:  # (B, T, C)
        return tokens

    def decode(self, tokens: Tensor, *sizes: int) -> Tensor:
        return tokens

    def positions(self, *sizes: int, device: torch.device | str = "cpu") -> Tensor:
        """The middles of a grid of so many cells along each axis, (T, axes), the last axis fastest."""
        middles = [torch.arange(size, device=device) + 0.5 for size in sizes]
        return torch.stack(torch.meshgrid(*middles, indexing="ij"), -1).flatten(0, -2)

    def init_weights(self, seed: int) -> None:
        pass


def codec_of(config: Any) -> Any:
    """The codec that a media transformer's config names."""
    if config.axes == PictureCodec.axes:
        return PictureCodec(config.patch_size, config.codec)
    pixels = not (config.codec or config.control_size)
    if config.time_layers and config.axes == ClipCodec.axes and pixels:
        return ClipCodec(config.patch_size)
    if config.time_layers or config.codec or config.sketch or config.control_size:
        raise DaedalError(
            f"axes={config.axes} has no pictures; leave codec, sketch, control_size and time_layers out, or give axes=2, or of clips 3."
        )
    return PlainCodec()


def patchify(images: Tensor, patch: int) -> Tensor:
    """images (B, C, H, W) -> tokens (B, H/patch * W/patch, C * patch * patch), row by row."""
    B, C, H, W = images.shape
    return (
        images.view(B, C, H // patch, patch, W // patch, patch)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(B, -1, C * patch * patch)
    )


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse: (B, T, C * patch * patch) -> (B, C, height, width)."""
    B, C = len(tokens), tokens.shape[-1] // patch**2
    grid = tokens.view(B, height // patch, width // patch, C, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(B, C, height, width)


def grid_positions(height: int, width: int, patch: int) -> Tensor:
    """Centres (T, 2) of the patches in pixels, (down, right)."""
    rows, columns = (torch.arange(0, size, patch) + patch / 2 for size in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
