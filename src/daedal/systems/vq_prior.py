"""Pictures one code after another: a decoder over a caption and then the codes of a VQ autoencoder
(van den Oord et al. 2017, Ramesh et al. 2021), sampled as text is.

The sequence is the caption, filled to its length, an end of text, and the codes row by row. Ids
below `vocab_size` less the number of codes are text; a code's id is that offset and the code.

Legend: B pictures, L caption tokens, h and w cells, V vocabulary."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.networks.decoder import Decoder
from daedal.networks.vq import VQModel
from daedal.processes.autoregression import Contrast, generate, guided
from daedal.processes.sampling import INF, SamplingParams


@dataclasses.dataclass(frozen=True)
class CodesOnly:
    """A grammar under which only ids from `offset` up may follow."""

    offset: int

    def matcher(self) -> "CodesOnly":
        return self

    def mask(self, logits: Tensor) -> Tensor:  # (B, V) -> (B, V)
        return logits.masked_fill(
            torch.arange(logits.shape[-1], device=logits.device) < self.offset, -INF
        )

    def accept(self, token: int) -> bool:
        return False  # a picture ends by its number of codes


def among_codes(
    combine: Callable[[Tensor, Tensor], Tensor], offset: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The same for logits of which only the codes' were trained."""

    def combined(a: Tensor, b: Tensor) -> Tensor:
        codes = combine(a[offset:], b[offset:])
        return torch.cat([a.new_full((offset,), -INF), codes.to(a.dtype)])

    return combined


def sample_codes(
    network: Decoder,
    codes: int,
    prompts: Tensor,
    nothing: Tensor,
    shape: tuple[int, int],
    params: SamplingParams,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Codes (B, h, w) after `prompts` (B, L + 1), ids that end in an end of text; `nothing` (L + 1)
    is the empty caption, away from which guidance goes. Picture i draws with the seed of sample i
    of `params`."""
    offset, size = network.config.vocab_size - codes, shape[0] * shape[1]
    params = dataclasses.replace(params.seeded(), max_tokens=size, grammar=CodesOnly(offset))
    if guidance_scale > 1:
        without = Contrast(network, nothing.tolist(), among_codes(guided(guidance_scale), offset))
    else:
        without = None
    rows = [
        generate(network, prompt, params.sample_of(i), cached=True, contrast=without)
        for i, prompt in enumerate(prompts.tolist())
    ]
    return torch.tensor(rows).view(-1, *shape) - offset


@torch.no_grad()
def paint_codes(
    network: Decoder,
    codec: VQModel,
    prompts: Tensor,
    nothing: Tensor,
    side: int,
    params: SamplingParams,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1]; arguments as for `sample_codes`."""
    cells = side // codec.factor
    tokens = sample_codes(
        network,
        codec.config.num_vq_embeddings,
        prompts,
        nothing,
        (cells, cells),
        params,
        guidance_scale,
    )
    return codec.from_tokens(tokens.to(next(codec.parameters()).device)).float()


def encode(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> Tensor:
    """(B, L + 1): captions as they stand before a picture."""
    return with_start(encode_captions(tokenizer, captions, length), tokenizer.eos_ids[0])


def with_start(captions: Tensor, eos: int) -> Tensor:
    """captions (B, L) -> (B, L + 1): what stands before a picture."""
    return torch.cat([captions, captions.new_full((len(captions), 1), eos)], 1)
