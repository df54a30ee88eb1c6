"""Held-out bits per byte and perplexity of a text pipeline, with 95 % intervals over documents."""

import math
from itertools import islice
from typing import Any

from daedal.data.documents import Source, documents
from daedal.errors import DaedalError
from daedal.pipelines.text import TextPipeline
from daedal.processes.scoring import bits_per_byte

Z95 = 1.959964


def held_out(
    pipeline: TextPipeline,
    path: str,
    column: str = "text",
    split: str | None = None,
    most: int = 1000,
    context: int | None = None,
) -> dict[str, Any]:
    """Measures on up to `most` documents of a file or folder."""
    source = Source(path=path, column=column, where={"split": split} if split else {})
    texts = list(islice(documents([source]), most))
    if not texts:
        raise DaedalError(
            f"{path} gave no document" + (f" with split {split!r}." if split else "; it is empty.")
        )
    m = bits_per_byte(
        pipeline.network,
        pipeline.tokenizer,
        texts,
        context or pipeline.network.config.max_position_embeddings,
    )
    per_token = math.log(2) * m.bytes / m.tokens  # bits per byte -> nats per token
    return {
        "bits_per_byte": m.value, "bits_per_byte_ci95": Z95 * m.error, "perplexity": m.perplexity,
        "perplexity_low": math.exp((m.value - Z95 * m.error) * per_token), "perplexity_high": math.exp((m.value + Z95 * m.error) * per_token),
        "documents": m.documents, "bytes": m.bytes, "tokens": m.tokens,
    }  # fmt: skip
