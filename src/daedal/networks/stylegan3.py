"""StyleGAN3 (Karras et al. 2021): a generator without aliasing, whose details move with the
picture. Features are samples of band-limited signals: it starts from Fourier features, and every
leaky ReLU works at a higher sampling rate between two low-pass filters. Mapping and discriminator
are StyleGAN2's. Parameter names are the authors', so converted weights load as they are.

"Stylegan3-t" is the default; "stylegan3-r", which turns too, has conv_kernel=1, use_radial_filters
and twice the channels.

Legend: B batch, C channels, W width of the styles, s sampling rate, f_c cutoff, f_t stopband, all
in cycles or samples a picture's side."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.names import Names
from daedal.networks.stylegan import (
    GAIN,
    Dense,
    Mapping,
    StyleGAN2Generator,
    StyleGANConfig,
    init_equalised,
    modulated_conv,
)


@dataclass(frozen=True, kw_only=True)
class StyleGAN3Config(StyleGANConfig):
    num_mapping_layers: int = 2
    num_layers: int = 14  # without the Fourier features and the last one, which makes colours
    num_critical: int = 2  # layers at the end that use the whole band
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10  # pixels around the picture, so that its border is like any other place
    output_scale: float = 0.25
    conv_kernel: int = 3
    filter_size: int = 6  # taps, in samples of the lower rate
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float = 256.0

    class_name: ClassVar[str] = "StyleGAN3Generator"

    @property
    def num_ws(self) -> int:
        return self.num_layers + 2

    def bands(self) -> "list[Band]":
        """What each layer puts out (Karras et al. 2021, section 3.3): cutoffs and stopbands grow
        geometrically up to the last critical layers."""
        last = self.img_resolution / 2
        grown = [
            min(i / (self.num_layers - self.num_critical), 1.0) for i in range(self.num_layers + 1)
        ]
        found = []
        for i, x in enumerate(grown):
            cutoff = self.first_cutoff * (last / self.first_cutoff) ** x
            stopband = (
                self.first_stopband * (last * self.last_stopband_rel / self.first_stopband) ** x
            )
            rate = 2 ** math.ceil(math.log2(min(2 * stopband, self.img_resolution)))
            size = self.img_resolution if i >= self.num_layers - 1 else rate + 2 * self.margin_size
            if i == self.num_layers:
                channels = self.img_channels
            else:
                channels = round(min(self.channel_base / 2 / cutoff, self.channel_max))
            found.append(Band(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
        return found


@dataclass(frozen=True)
class Band:
    """A signal: its cutoff, half the width of the transition to its stopband, samples a picture's
    side, samples with margins, channels."""

    cutoff: float
    half_width: float
    rate: int
    size: int
    channels: int


# ---- filters -------------------------------------------------------------------------------------


def lowpass(taps: int, band: Band, rate: int, radial: bool = False) -> Tensor | None:
    """A Kaiser-windowed low-pass filter of unit sum for signals of `rate` samples: (taps,) to be
    used on either axis, or radial, a jinc (taps, taps) (Karras et al. 2021, appendix C.1). One tap
    changes nothing: None."""
    if taps == 1:
        return None
    # of Kaiser's formula
    attenuation = 2.285 * (taps - 1) * math.pi * (4 * band.half_width / rate) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(attenuation - 21, 0) ** 0.4 + 0.07886 * max(attenuation - 21, 0)
    window, at = np.kaiser(taps, beta), (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        r = np.hypot(*np.meshgrid(at, at))
        taps_of = (
            torch.special.bessel_j1(torch.from_numpy(2 * np.pi * band.cutoff * r)).numpy()
            / (np.pi * r)
            * np.outer(window, window)
        )
    else:
        taps_of = np.sinc(2 * band.cutoff * at) * window
    return torch.from_numpy(taps_of / taps_of.sum()).float()


def filtered(x: Tensor, taps: Tensor | None, gain: float = 1.0) -> Tensor:
    """x (B, C, H, W) through a filter; the picture shrinks by its length less one."""
    if taps is None:
        return x
    C, taps = x.shape[1], taps.to(x)
    if taps.dim() == 2:
        return F.conv2d(x, (taps * gain).expand(C, 1, -1, -1), groups=C)
    taps = taps * math.sqrt(gain)
    x = F.conv2d(x, taps[:, None].expand(C, 1, -1, 1), groups=C)
    return F.conv2d(x, taps[None].expand(C, 1, 1, -1), groups=C)


def stretched(x: Tensor, up: int) -> Tensor:
    """Zeros between the samples of x (B, C, H, W), and after the last: (B, C, up H, up W)."""
    B, C, H, W = x.shape
    wide = x.new_zeros(B, C, H, up, W, up)
    wide[:, :, :, 0, :, 0] = x
    return wide.view(B, C, up * H, up * W)


# ---- layers --------------------------------------------------------------------------------------


class FourierInput(nn.Module):
    """Sines of frequencies within the first band, turned and shifted as the style says (section 4,
    "transformed Fourier features"). `transform` (3, 3) moves the picture: the inverse of what it
    shall do, in units of its side."""

    def __init__(self, w_dim: int, band: Band) -> None:
        super().__init__()
        self.band = band
        self.weight = nn.Parameter(torch.empty(band.channels, band.channels))
        self.affine = Dense(w_dim, 4)
        self.transform: Tensor
        self.freqs: Tensor
        self.phases: Tensor
        for name, shape in (
            ("transform", (3, 3)),
            ("freqs", (band.channels, 2)),
            ("phases", (band.channels,)),
        ):
            self.register_buffer(name, torch.empty(shape))

    def init_weights(self, draw: torch.Generator) -> None:
        freqs = torch.randn(self.freqs.shape, generator=draw)
        radii = freqs.norm(dim=1, keepdim=True)
        # even over a disc
        self.freqs = freqs / radii * (1 - (-radii.square() / 2).exp()).sqrt() * self.band.cutoff
        self.phases = torch.rand(self.phases.shape, generator=draw) - 0.5
        self.transform = torch.eye(3)
        self.affine.weight.data.zero_()
        self.affine.bias.data = torch.tensor([1.0, 0, 0, 0])

    def forward(self, w: Tensor) -> Tensor:  # (B, W) -> (B, C, H, W)
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
        moved = turn @ shift @ self.transform
        phases = self.phases + (self.freqs @ moved[:, :2, 2:])[..., 0]  # (B, C)
        freqs = self.freqs @ moved[:, :2, :2]  # (B, C, 2)
        rate, size = self.band.rate, self.band.size
        # (B, C)
        heard = (1 - (freqs.norm(dim=2) - self.band.cutoff) / (rate / 2 - self.band.cutoff)).clamp(
            0, 1
        )
        at = (torch.arange(size, device=w.device) + 0.5 - size / 2) / rate
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)  # (H, W, 2): right, down
        waves = torch.einsum("hwk,bck->bhwc", grid, freqs) + phases[:, None, None]
        features = (2 * math.pi * waves).sin() * heard[:, None, None]
        return (features @ (self.weight / math.sqrt(len(self.weight))).mT).permute(0, 3, 1, 2)


class AliasFreeLayer(nn.Module):
    """A modulated convolution and a leaky ReLU at a higher rate, from one band to the next; the
    last one only makes colours."""

    def __init__(self, c: StyleGAN3Config, index: int, before: Band, after: Band) -> None:
        super().__init__()
        self.colours, self.clamp, self.after = index == c.num_layers, c.conv_clamp, after
        self.size = 1 if self.colours else c.conv_kernel
        self.affine = Dense(c.w_dim, before.channels, bias=1.0)
        self.weight = nn.Parameter(
            torch.empty(after.channels, before.channels, self.size, self.size)
        )
        self.bias = nn.Parameter(torch.empty(after.channels))
        self.magnitude_ema: Tensor
        self.register_buffer("magnitude_ema", torch.empty(()))
        middle = max(before.rate, after.rate) * (1 if self.colours else c.lrelu_upsampling)
        self.up, self.down = middle // before.rate, middle // after.rate
        up_taps, down_taps = (
            1 if self.colours or factor == 1 else c.filter_size * factor
            for factor in (self.up, self.down)
        )
        radial = c.use_radial_filters and index < c.num_layers - c.num_critical
        with torch.device("cpu"):  # constants, wherever the module is built
            self.up_filter = lowpass(up_taps, before, middle)
            self.down_filter = lowpass(down_taps, after, middle, radial)
        total = (
            (after.size - 1) * self.down
            + 1
            - (before.size + self.size - 1) * self.up
            + up_taps
            + down_taps
            - 2
        )
        low = (total + self.up) // 2
        self.padding = (low, total - low)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # (B, C, H, W), (B, W) -> (B, C', H', W')
        if self.training and torch.is_grad_enabled():
            self.magnitude_ema = x.detach().square().mean().lerp(self.magnitude_ema, 0.999)
        styles = self.affine(w) / (math.sqrt(x.shape[1]) if self.colours else 1.0)
        x = modulated_conv(
            x * self.magnitude_ema.rsqrt(),
            self.weight,
            styles,
            demodulate=not self.colours,
            padding=self.size - 1,
        )
        x = stretched(x + self.bias[:, None, None], self.up)
        x = filtered(F.pad(x, (*self.padding, *self.padding)), self.up_filter, self.up**2)
        x = x if self.colours else F.leaky_relu(x, 0.2) * GAIN
        return filtered(x.clamp(-self.clamp, self.clamp), self.down_filter)[
            :, :, :: self.down, :: self.down
        ]


class AliasFreeSynthesis(nn.Module):
    def __init__(self, c: StyleGAN3Config) -> None:
        super().__init__()
        bands, self.scale, self.names = c.bands(), c.output_scale, list[str]()
        self.input = FourierInput(c.w_dim, bands[0])
        for i, band in enumerate(bands):
            self.names.append(f"L{i}_{band.size}_{band.channels}")
            self.add_module(self.names[-1], AliasFreeLayer(c, i, bands[max(i - 1, 0)], band))

    def forward(self, ws: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """ws (B, L, W) -> pictures (B, C, side, side). There is no noise: details hang on the
        signal, not on the pixel grid."""
        x = self.input(ws[:, 0])
        for i, name in enumerate(self.names):
            x = self.get_submodule(name)(x, ws[:, i + 1])
        return x * self.scale


class StyleGAN3Generator(StyleGAN2Generator):
    """z to pictures."""

    class_name = "StyleGAN3Generator"
    config_class = StyleGAN3Config
    names = Names(skipped=("up_filter", "down_filter"))  # constants in the authors' files

    def __init__(self, config: StyleGAN3Config) -> None:
        nn.Module.__init__(self)
        self.config, self.mapping = config, Mapping(config, config.z_dim)
        self.synthesis = AliasFreeSynthesis(config)  # type: ignore[assignment]

    def init_weights(self, seed: int = 0) -> Self:
        init_equalised(self, seed)
        for part in self.modules():
            if isinstance(part, FourierInput):
                part.init_weights(torch.Generator().manual_seed(seed + 1))
            if isinstance(part, AliasFreeLayer):
                part.magnitude_ema = torch.ones(())
        return self
