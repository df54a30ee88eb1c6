"""Prompts for CLIP: weights in the notation people know, and prompts longer than the tokens that
CLIP reads.

`(word)` weighs 1.1, `[word]` 1/1.1, `(word:1.4)` what it says; they nest, and `\\(` is a bracket. A
long prompt is encoded in chunks of 75 tokens, whose states stand one after another. Weighted states
are scaled back to their mean, as the AUTOMATIC1111 web UI does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from daedal.data.tokenizer import Tokenizer

PIECES = re.compile(r"\\[\\()\[\]]|\(|\[|:\s*[+-]?\d*\.?\d+\s*\)|\)|\]|[^\\()\[\]:]+|:|\\")
ROUND, SQUARE = 1.1, 1 / 1.1
# letters, or signs behind the typographic ones, as emoji
WORD = re.compile(r"[^\W\d_]+|[^\w\s\u0000-\u2190]+")


def weighted(prompt: str) -> list[tuple[str, float]]:
    """A prompt as runs of text with a weight each. A bracket that is never closed is text of the
    bracket's weight."""
    runs: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, by: float) -> None:
        for run in runs[start:]:
            run[1] *= by

    for piece in PIECES.findall(prompt):
        if piece in opened:
            opened[piece].append(len(runs))
        elif piece.startswith(":") and piece.endswith(")") and opened["("]:
            scale(opened["("].pop(), float(piece[1:-1]))
        elif piece == ")" and opened["("]:
            scale(opened["("].pop(), ROUND)
        elif piece == "]" and opened["["]:
            scale(opened["["].pop(), SQUARE)
        else:
            runs.append([piece[1:] if piece.startswith("\\") and len(piece) == 2 else piece, 1.0])
    for starts, by in ((opened["("], ROUND), (opened["["], SQUARE)):
        for start in starts:
            scale(start, by)
    merged: list[tuple[str, float]] = []
    for text, weight in runs:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def literal(caption: str) -> str:
    """The prompt that reads a caption as it is written: its brackets weigh nothing."""
    return re.sub(r"([\\()\[\]])", r"\\\1", caption)


@dataclass(frozen=True)
class Chunks:
    """Prompts as CLIP reads them: ids and weights (B, chunks, length)."""

    ids: Tensor
    weights: Tensor


def chunked(tokenizer: Tokenizer, prompts: list[str], length: int, at_least: int = 1) -> Chunks:
    """Every prompt in as many chunks as the longest needs, each framed by start and end and filled
    with the tokenizer's padding."""
    rows = [
        [
            (i, weight)
            for text, weight in weighted(prompt)
            for i in tokenizer.encode(text, add_bos=False)
        ]
        for prompt in prompts
    ]
    room = length - 2
    count = max(at_least, *(-(-len(row) // room) for row in rows))
    bos, eos, pad = tokenizer.bos_id or 0, tokenizer.eos_id or 0, tokenizer.pad_id
    ids, weights = [], []
    for row in rows:
        for start in range(0, count * room, room):
            part = row[start : start + room]
            fill = room - len(part)
            ids.append([bos, *(i for i, _ in part), eos, *[pad] * fill])
            weights.append([1.0, *(w for _, w in part), 1.0, *[1.0] * fill])
    shape = (len(prompts), count, length)
    return Chunks(torch.tensor(ids).view(shape), torch.tensor(weights).view(shape))


def apply_weights(states: Tensor, weights: Tensor) -> Tensor:
    """states (B, T, D) times their weights (B, T), scaled back to the mean they had."""
    if bool((weights == 1).all()):
        return states
    mean = states.float().mean((1, 2), keepdim=True)
    scaled = states * weights[..., None].to(states)
    after = scaled.float().mean((1, 2), keepdim=True)
    return scaled * torch.where(after.abs() > 1e-8, mean / after, 1.0).to(states.dtype)


def remark(prompt: str, tokenizers: Sequence[Tokenizer], most: int | None = None) -> str:
    """What a model with these tokenizers does not read of a prompt, as a sentence; empty where it
    reads all. `most`: the tokens after which the prompt is cut."""

    def unread(word: str, tokenizer: Tokenizer) -> bool:
        """More tokens than letters are the bytes of letters that no training text had."""
        ids = tokenizer.encode(word, add_bos=False)
        return len(ids) > len(word) or tokenizer.unk_id in ids

    for word in WORD.findall(prompt.lower()):
        if (
            not word.isascii()
            and tokenizers
            and all(unread(word, tokenizer) for tokenizer in tokenizers)
        ):
            return f"{word!r} is in signs that this model never learnt to read; write the prompt in English words."
    if most and len(ids := tokenizers[0].encode(prompt.lower().strip(), add_bos=False)) > most:
        return f"the prompt has {len(ids)} tokens and this model reads {most}; it does not see {tokenizers[0].decode(ids[most:]).strip()!r}."
    return ""
