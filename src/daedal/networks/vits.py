"""VITS (Kim et al. 2021): text to speech in one pass. Phonemes are encoded to a prior, stretched by
predicted durations, turned by a flow into the latents of a spectrogram, and these into samples by a
HiFi-GAN. MMS folders and Piper's voices (daedal.checkpoints.piper) are of this kind.

    hidden, mean, log_std = vits.encode(tokens)
    frames = vits.frames(hidden, scale=1.0)                  # (B, T) whole frames of each token
    samples = vits.decode(vits.latents(mean, log_std, frames))

Parameter names are those of transformers' files, weight norms folded. Noise is drawn from a
`torch.Generator`; at a scale of 0 the voice is a function of its text. Legend: B batch, T tokens, F
frames, N samples, D width, C channels of the latents, E width of a speaker's embedding."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.names import Names
from daedal.nn.conv1d import Conv1d, HifiGan, WaveNet, same
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm
from daedal.nn.spline import spline

Noise = torch.Generator | None


@dataclass(frozen=True, kw_only=True)
class VitsConfig:
    vocab_size: int = 38
    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 2
    window_size: int = 4
    use_bias: bool = True
    ffn_dim: int = 768
    ffn_kernel_size: int = 3
    flow_size: int = 192
    spectrogram_bins: int = 513
    hidden_act: str = "relu"
    layer_norm_eps: float = 1e-5
    use_stochastic_duration_prediction: bool = True
    num_speakers: int = 1
    speaker_embedding_size: int = 0
    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_relu_slope: float = 0.1
    depth_separable_channels: int = 2
    depth_separable_num_layers: int = 3
    duration_predictor_flow_bins: int = 10
    duration_predictor_tail_bound: float = 5.0
    duration_predictor_kernel_size: int = 3
    duration_predictor_num_flows: int = 4
    duration_predictor_filter_channels: int = 256
    prior_encoder_num_flows: int = 4
    prior_encoder_num_wavenet_layers: int = 4
    posterior_encoder_num_wavenet_layers: int = 16
    wavenet_kernel_size: int = 5
    wavenet_dilation_rate: int = 1
    speaking_rate: float = 1.0
    noise_scale: float = 0.667
    noise_scale_duration: float = 0.8
    sampling_rate: int = 16_000
    pad_token_id: int | None = None
    # ours: which residual block the decoder has (the original's `resblock`), and whether what only
    # training needs is there. Exported voices have neither a posterior nor the flows of one.
    resblock: str = "1"
    has_posterior: bool = True
    # and a flow that is distilled into one pass of so many blocks of so wide a middle; 0: none
    student_blocks: int = 0
    student_inner: int = 512

    architecture: ClassVar[str] = "VitsModel"
    model_type: ClassVar[str] = "vits"
    ignored: ClassVar[frozenset[str]] = frozenset(
        [
            "layerdrop",
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "initializer_range",
            "duration_predictor_dropout",
            "wavenet_dropout",
            "return_dict",
            "output_hidden_states",
            "output_attentions",
            "chunk_size_feed_forward",
            "is_encoder_decoder",
            "id2label",
            "label2id",
            "problem_type",
            "tie_word_embeddings",
        ]
    )

    def written(self, values: dict[str, Any]) -> dict[str, Any]:
        if values["resblock"] == "1" and values["has_posterior"]:  # transformers knows none of them
            return {k: v for k, v in values.items() if k not in OURS}
        return values

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsample_rates)


class Attention(nn.Module):
    """Self-attention with learnt embeddings of the offset to the `window_size` nearest neighbours
    on each side (Shaw et al. 2018), added to keys and to values."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            Linear(width, width, bias=config.use_bias) for _ in range(4)
        )
        self.window = config.window_size
        shape = (1, 2 * self.window + 1, width // self.heads)
        self.emb_rel_k, self.emb_rel_v = (nn.Parameter(torch.empty(shape)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, T, D), (B, 1, T) -> (B, T, D)
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = q * q.shape[-1] ** -0.5
        offset = torch.arange(x.shape[1], device=x.device)
        offset = offset[None] - offset[:, None] + self.window  # (T, T), 0..2w for neighbours
        near = (offset >= 0) & (offset <= 2 * self.window)
        place = offset.clamp(0, 2 * self.window).expand(*q.shape[:2], -1, -1)
        by_offset = (q @ self.emb_rel_k[0].to(x.dtype).T).gather(-1, place)
        scores = q @ k.mT + torch.where(near, by_offset, 0.0)
        weights = scores.masked_fill(mask[:, None] == 0, -1e4).softmax(-1)
        zeros = weights.new_zeros(*q.shape[:3], 2 * self.window + 1)
        shares = zeros.scatter_add(-1, place, torch.where(near, weights, 0.0))
        out = weights @ v + shares @ self.emb_rel_v[0].to(x.dtype)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        kernel = config.ffn_kernel_size
        pad = (kernel - 1) // 2
        self.more = (0, (kernel + 1) % 2)  # an even kernel hears one more behind than in front
        self.conv_1 = Conv1d(config.hidden_size, config.ffn_dim, kernel, padding=pad)
        self.conv_2 = Conv1d(config.ffn_dim, config.hidden_size, kernel, padding=pad)
        self.act = activation(config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        hidden = self.act(self.conv_1(self.padded(x.mT * mask)))
        return (self.conv_2(self.padded(hidden * mask)) * mask).mT

    def padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.more) if self.more[1] else x


class EncoderLayer(nn.Module):
    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(config), FeedForward(config)
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.layer_norm(x + self.attention(x, mask))
        return self.final_layer_norm(x + self.feed_forward(x, mask))


class TextEncoder(nn.Module):
    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))}
        )
        self.project = Conv1d(config.hidden_size, 2 * config.flow_size, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embed_tokens(tokens)
        x = x * math.sqrt(x.shape[-1]) * mask.mT
        for layer in self.encoder["layers"]:  # type: ignore[union-attr, attr-defined]
            x = layer(x, mask)
        hidden = x.mT * mask  # (B, D, T)
        mean, log_std = (self.project(hidden) * mask).chunk(2, 1)
        return hidden, mean, log_std


class Coupling(nn.Module):
    """One half shifts the other (Dinh et al. 2015): the map keeps volume, and so has no
    determinant."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        half, width = config.flow_size // 2, config.hidden_size
        self.conv_pre, self.conv_post = Conv1d(half, width, 1), Conv1d(width, half, 1)
        self.wavenet = WaveNet(
            width,
            config.prior_encoder_num_wavenet_layers,
            config.wavenet_kernel_size,
            config.wavenet_dilation_rate,
            config.speaker_embedding_size,
        )

    def forward(self, z: Tensor, mask: Tensor, speaker: Tensor | None, sign: int) -> Tensor:
        first, second = z.chunk(2, 1)
        hidden = self.wavenet(self.conv_pre(first) * mask, mask, speaker)
        return torch.cat([first, (second + sign * self.conv_post(hidden)) * mask], 1)


class Flow(nn.Module):
    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        self.flows = nn.ModuleList(Coupling(config) for _ in range(config.prior_encoder_num_flows))

    def forward(self, z: Tensor, mask: Tensor, speaker: Tensor | None = None) -> Tensor:
        """From the posterior's latents to the prior's (B, C, F)."""
        for flow in self.flows:
            z = flow(z, mask, speaker, 1).flip(1)
        return z

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None = None) -> Tensor:
        for flow in reversed(self.flows):
            z = flow(z.flip(1), mask, speaker, -1)
        return z


class StudentBlock(nn.Module):
    """A depthwise convolution and a feed-forward, residual (ConvNeXt, Liu et al. 2022)."""

    def __init__(self, width: int, inner: int, kernel: int = 9) -> None:
        super().__init__()
        self.depthwise = Conv1d(width, width, kernel, padding=same(kernel), groups=width)
        self.norm = LayerNorm(width)
        self.up, self.down = Linear(width, inner), Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, D, F) -> (B, D, F)
        hidden = F.gelu(self.up(self.norm(self.depthwise(x * mask).mT)))
        return x + self.down(hidden).mT


class StudentFlow(nn.Module):
    """The inverse of a flow, learnt: the stretched prior to latents, without noise
    (daedal.train.voice). It has no way back."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            StudentBlock(config.flow_size, config.student_inner)
            for _ in range(config.student_blocks)
        )
        self.out = Conv1d(config.flow_size, config.flow_size, 1)

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None = None) -> Tensor:
        del speaker
        x = z
        for block in self.blocks:
            x = block(x, mask)
        return z + self.out(x)

    def init_weights(self, seed: int = 0) -> "StudentFlow":
        noise = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = parameter[0].numel() ** -0.5 * (0.1 if "down" in name or "out" in name else 1)
                nn.init.normal_(parameter, std=std, generator=noise)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
        return self


class DepthSeparable(nn.Module):
    """Dilated depthwise and pointwise convolutions, residual."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.duration_predictor_kernel_size
        dilations = [kernel**i for i in range(config.depth_separable_num_layers)]
        self.convs_dilated = nn.ModuleList(
            Conv1d(width, width, kernel, dilation=d, padding=same(kernel, d), groups=width)
            for d in dilations
        )
        self.convs_pointwise = nn.ModuleList(Conv1d(width, width, 1) for _ in dilations)
        self.norms_1 = nn.ModuleList(LayerNorm(width) for _ in dilations)
        self.norms_2 = nn.ModuleList(LayerNorm(width) for _ in dilations)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, D, T) -> (B, D, T)
        layers = (self.convs_dilated, self.norms_1, self.convs_pointwise, self.norms_2)
        for dilated, norm1, pointwise, norm2 in zip(*layers, strict=True):
            made = F.gelu(norm1(dilated(x * mask).mT)).mT
            x = x + F.gelu(norm2(pointwise(made).mT)).mT
        return x * mask


class SplineFlow(nn.Module):
    """One of two channels is bent by a spline that the other and the text choose."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        half, width = config.depth_separable_channels // 2, config.hidden_size
        self.bins, self.bound = (
            config.duration_predictor_flow_bins,
            config.duration_predictor_tail_bound,
        )
        self.conv_pre = Conv1d(half, width, 1)
        self.conv_dds = DepthSeparable(config)
        self.conv_proj = Conv1d(width, half * (3 * self.bins - 1), 1)

    def forward(
        self, z: Tensor, mask: Tensor, text: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:  # (B, 2, T) -> the same, (B,)
        first, second = z.chunk(2, 1)
        hidden = self.conv_dds(self.conv_pre(first) + text, mask)
        logits = (self.conv_proj(hidden) * mask).unflatten(1, (first.shape[1], -1)).mT
        widths, heights, slopes = logits.split([self.bins, self.bins, self.bins - 1], -1)
        root = math.sqrt(hidden.shape[1])
        bent, log_slope = spline(second, widths / root, heights / root, slopes, self.bound, inverse)
        return torch.cat([first, bent], 1) * mask, (log_slope * mask).sum((1, 2))


class Affine(nn.Module):
    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        shape = (config.depth_separable_channels, 1)
        self.translate, self.log_scale = (nn.Parameter(torch.zeros(shape)) for _ in range(2))

    def forward(
        self, z: Tensor, mask: Tensor, text: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        del text
        scale = (self.log_scale * mask).sum((1, 2))
        if inverse:
            return (z - self.translate) * (-self.log_scale).exp() * mask, -scale
        return (self.translate + self.log_scale.exp() * z) * mask, scale


class StochasticDurations(nn.Module):
    """A flow from noise to the logarithm of each token's duration."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        width, self.trained = config.hidden_size, config.has_posterior
        self.conv_pre, self.conv_proj = Conv1d(width, width, 1), Conv1d(width, width, 1)
        self.conv_dds = DepthSeparable(config)
        if config.speaker_embedding_size:
            self.cond = Conv1d(config.speaker_embedding_size, width, 1)
        self.flows = nn.ModuleList([Affine(config), *self.splines(config)])
        if not self.trained:
            self.flows[1] = nn.Identity()  # generation leaves it out, and so do exported voices
            return
        self.post_conv_pre, self.post_conv_proj = Conv1d(1, width, 1), Conv1d(width, width, 1)
        self.post_conv_dds = DepthSeparable(config)
        self.post_flows = nn.ModuleList([Affine(config), *self.splines(config)])

    def splines(self, config: VitsConfig) -> list[SplineFlow]:
        return [SplineFlow(config) for _ in range(config.duration_predictor_num_flows)]

    def text(self, hidden: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        x = self.conv_pre(hidden.detach())
        if speaker is not None:
            x = x + self.cond(speaker.detach())
        return self.conv_proj(self.conv_dds(x, mask)) * mask

    def forward(
        self, hidden: Tensor, mask: Tensor, speaker: Tensor | None, scale: float, noise: Noise
    ) -> Tensor:
        """The logarithm of durations (B, 1, T)."""
        text = self.text(hidden, mask, speaker)
        z = drawn((len(text), 2, text.shape[-1]), text, scale, noise)
        for i in [*range(len(self.flows) - 1, 1, -1), 0]:
            z, _ = self.flows[i](z.flip(1), mask, text, inverse=True)
        return z[:, :1]

    def loss(
        self, hidden: Tensor, mask: Tensor, speaker: Tensor | None, frames: Tensor, noise: Noise
    ) -> Tensor:
        """The negative variational bound on the log-likelihood of durations (B, 1, T) in frames
        (VITS, section 2.2.2): (B,)."""
        text = self.text(hidden, mask, speaker)
        post = self.post_conv_dds(self.post_conv_pre(frames), mask)
        post = self.post_conv_proj(post) * mask
        e = drawn((len(text), 2, text.shape[-1]), text, 1.0, noise) * mask
        z, log_q = e, gaussian(e, mask)
        for flow in self.post_flows:
            z, log_slope = flow(z, mask, text + post)
            z, log_q = z.flip(1), log_q - log_slope
        u, v = z.chunk(2, 1)
        log_q = log_q - ((F.logsigmoid(u) + F.logsigmoid(-u)) * mask).sum((1, 2))
        log_left = ((frames - u.sigmoid()) * mask).clamp(min=1e-5).log() * mask
        z, log_p = torch.cat([log_left, v], 1), -log_left.sum((1, 2))
        for flow in self.flows:
            z, log_slope = flow(z, mask, text)
            z, log_p = z.flip(1), log_p + log_slope
        return log_q - log_p - gaussian(z, mask)


class PlainDurations(nn.Module):
    """Two convolutions to the logarithm of each token's duration."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        kernel, width = (
            config.duration_predictor_kernel_size,
            config.duration_predictor_filter_channels,
        )
        self.conv_1 = Conv1d(config.hidden_size, width, kernel, padding=kernel // 2)
        self.conv_2 = Conv1d(width, width, kernel, padding=kernel // 2)
        self.norm_1, self.norm_2 = (LayerNorm(width, config.layer_norm_eps) for _ in range(2))
        self.proj = Conv1d(width, 1, 1)
        if config.speaker_embedding_size:
            self.cond = Conv1d(config.speaker_embedding_size, config.hidden_size, 1)

    def forward(
        self, hidden: Tensor, mask: Tensor, speaker: Tensor | None, scale: float, noise: Noise
    ) -> Tensor:
        del scale, noise
        x = hidden.detach() if speaker is None else hidden.detach() + self.cond(speaker.detach())
        x = self.norm_1(F.relu(self.conv_1(x * mask)).mT).mT
        x = self.norm_2(F.relu(self.conv_2(x * mask)).mT).mT
        return self.proj(x * mask) * mask

    def loss(
        self, hidden: Tensor, mask: Tensor, speaker: Tensor | None, frames: Tensor, noise: Noise
    ) -> Tensor:
        """The squared error of the logarithm of durations (B, 1, T): (B,)."""
        error = self(hidden, mask, speaker, 0.0, noise) - (frames + 1e-6).log() * mask
        return (error**2).sum((1, 2))


class Posterior(nn.Module):
    """A linear spectrogram (B, bins, F) to latents: what training aligns the text with."""

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.conv_pre = Conv1d(config.spectrogram_bins, width, 1)
        self.wavenet = WaveNet(
            width,
            config.posterior_encoder_num_wavenet_layers,
            config.wavenet_kernel_size,
            config.wavenet_dilation_rate,
            config.speaker_embedding_size,
        )
        self.conv_proj = Conv1d(width, 2 * config.flow_size, 1)

    def forward(
        self, spectrogram: Tensor, mask: Tensor, speaker: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation, (B, C, F) each."""
        x = self.wavenet(self.conv_pre(spectrogram) * mask, mask, speaker)
        mean, log_std = (self.conv_proj(x) * mask).chunk(2, 1)
        return mean, log_std


class VitsModel(nn.Module):
    config_class = VitsConfig

    def __init__(self, config: VitsConfig) -> None:
        super().__init__()
        self.config = config
        self.names = Names(weight_normed=NORMED if config.has_posterior else ())
        self.text_encoder = TextEncoder(config)
        self.flow = (StudentFlow if config.student_blocks else Flow)(config)
        stochastic = config.use_stochastic_duration_prediction
        self.duration_predictor = (StochasticDurations if stochastic else PlainDurations)(config)
        self.decoder = HifiGan(
            config.flow_size,
            config.upsample_initial_channel,
            config.upsample_rates,
            config.upsample_kernel_sizes,
            config.resblock_kernel_sizes,
            config.resblock_dilation_sizes,
            config.leaky_relu_slope,
            config.resblock == "1",
            config.speaker_embedding_size,
        )
        if config.has_posterior:
            self.posterior_encoder = Posterior(config)
        if config.num_speakers > 1:
            self.embed_speaker = Embedding(config.num_speakers, config.speaker_embedding_size)

    def speaker(self, index: Tensor) -> Tensor:
        """(B,) -> (B, E, 1), the embedding of speakers, of a voice that has several."""
        return self.embed_speaker(index)[..., None]

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T), `mask` (B, T) 1 where one stands -> what durations are told from (B, D,
        T), and the prior's mean and log-deviation (B, C, T)."""
        mask = torch.ones_like(tokens) if mask is None else mask
        mask = mask[:, None].to(self.text_encoder.project.weight.dtype)
        return self.text_encoder(tokens, mask)

    def frames(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        speaker: Tensor | None = None,
        scale: float = 1.0,
        noise_scale: float = 0.0,
        noise: Noise = None,
    ) -> Tensor:
        """Whole frames of each token (B, T), `scale` times as many as the voice would take."""
        mask = torch.ones_like(hidden[:, :1]) if mask is None else mask[:, None].to(hidden.dtype)
        log = self.duration_predictor(hidden, mask, speaker, noise_scale, noise)
        return (log.exp() * mask * scale).ceil()[:, 0]

    def latents(
        self,
        mean: Tensor,
        log_std: Tensor,
        frames: Tensor,
        speaker: Tensor | None = None,
        noise_scale: float = 0.0,
        noise: Noise = None,
    ) -> Tensor:
        """The prior stretched over its frames and turned by the flow: (B, C, F), zero behind the
        end of the shorter ones."""
        prior, mask = stretched(mean, frames)
        if noise_scale:
            deviation, _ = stretched(log_std, frames)
            prior = prior + drawn(tuple(prior.shape), prior, noise_scale, noise) * deviation.exp()
        return self.flow.inverse(prior, mask, speaker) * mask

    def decode(self, latents: Tensor, speaker: Tensor | None = None) -> Tensor:
        """(B, C, F) -> (B, N) samples in [-1, 1], `config.hop` a frame."""
        return self.decoder(latents, speaker)[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        """Speech without noise, (B, N)."""
        hidden, mean, log_std = self.encode(tokens)
        return self.decode(self.latents(mean, log_std, self.frames(hidden)))

    def flops(self, frames: int) -> int:
        """Of the flow and the decoder, for so many frames: nearly all of the cost."""
        size = (1, self.config.flow_size, frames)

        def call(network: Any) -> Tensor:
            return network.decode(network.flow.inverse(torch.zeros(size), torch.ones(1, 1, frames)))

        return count_flops(self, call)


# keys of config.json that are ours alone
OURS = ("resblock", "has_posterior", "student_blocks", "student_inner")
# what transformers writes as a magnitude and a direction
NORMED = (".in_layers.", ".res_skip_layers.", ".cond_layer.")


def stretched(x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (B, C, T), each repeated for its frames (B, T) -> (B, C, F), and a mask (B, 1, F)."""
    counts, columns = frames.long(), torch.arange(x.shape[-1], device=x.device)
    rows = [row[:, columns.repeat_interleave(n)] for row, n in zip(x, counts, strict=True)]
    longest = max(1, *(row.shape[-1] for row in rows))
    mask = torch.arange(longest, device=x.device) < counts.sum(1, keepdim=True)
    padded = [F.pad(row, (0, longest - row.shape[-1])) for row in rows]
    return torch.stack(padded), mask[:, None].to(x.dtype)


def drawn(shape: tuple[int, ...], like: Tensor, scale: float, noise: Noise) -> Tensor:
    """Gaussian noise, drawn on the CPU in fp32 so that a seed means the same everywhere."""
    if not scale:
        return like.new_zeros(shape)
    return torch.randn(shape, generator=noise).to(like) * scale


def gaussian(x: Tensor, mask: Tensor) -> Tensor:
    """The log-density of a standard Gaussian, (B,)."""
    return -0.5 * ((math.log(2 * math.pi) + x**2) * mask).sum((1, 2))
