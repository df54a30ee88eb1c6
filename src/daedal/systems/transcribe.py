"""From a sound of any length to segments of text, window by window (Radford et al. 2022, section
3.8): the next window begins where the last whole segment ended. The sound comes in blocks and is
forgotten once heard, so that hours need the memory of a minute."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from daedal.media.sound import SILENT, Samples
from daedal.systems.hearing import TEMPERATURES, Heard, heard, language_of, word_times
from daedal.systems.whisper import HOP, PER_SECOND, RATE, Whisper

UNSPACED = {"zh", "ja", "th", "lo", "my", "yue"}  # languages whose words no spaces part
BEFORE, AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # signs that belong to a neighbouring word
HOT = 0.5  # a text drawn at a higher temperature is not what the next one goes on from
STATE = RATE // PER_SECOND  # samples of a state


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """A piece of what was said, between two times in seconds."""

    id: int
    seek: int  # the window's beginning, in frames of 10 ms
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True)
class Wishes:
    """What is asked of a transcription. Without `clock` segments are windows; `prompt` is what a
    writer before may have written, for spelling and style."""

    language: str | None = None
    task: str = "transcribe"
    words: bool = False
    beams: int = 5
    prompt: str = ""
    temperatures: tuple[float, ...] = TEMPERATURES
    seed: int = 0


class Tape:
    """A sound that comes in blocks of one channel at 16 kHz, of which only what is still to be
    heard is kept."""

    def __init__(self, blocks: Iterator[Samples]) -> None:
        self.blocks, self.held = blocks, np.zeros(0, np.float32)
        self.at, self.ended = 0, False  # samples before what is held

    def window(self, size: int) -> np.ndarray:
        """The next `size` samples, fewer at the end."""
        while len(self.held) < size and not self.ended:
            block = next(self.blocks, None)
            self.ended = block is None
            if block is not None:
                self.held = np.concatenate([self.held, block[0]])
        return self.held[:size]

    def skip(self, count: int) -> None:
        self.held, self.at = self.held[count:], self.at + min(count, len(self.held))


@dataclass
class Transcript:
    """What is known while it is made. `seconds` of the sound are heard, of `of` that are read."""

    language: str | None = None
    probability: float = 1.0
    seconds: float = 0.0
    of: float = 0.0
    segments: int = 0


@torch.inference_mode()
def transcribed(
    whisper: Whisper, blocks: Iterator[Samples], wishes: Wishes, made: Transcript
) -> Generator[Segment | None, None, None]:
    """The segments of a sound, with None for each token between them; `made` tells how far it is."""
    tape, noise = Tape(blocks), torch.Generator().manual_seed(wishes.seed)
    spoken = (
        whisper.tokenizer.encode(" " + wishes.prompt.strip(), add_bos=False)
        if wishes.prompt
        else []
    )
    spoken = [token for token in spoken if token < whisper.tokens.end]
    made.language = wishes.language
    while len(window := tape.window(whisper.window)):
        made.of = (tape.at + len(tape.held)) / RATE
        used = len(window)
        if np.abs(window).max() >= SILENT:
            states = whisper.encode(window)
            if made.language is None:
                made.language, made.probability = language_of(whisper, states)
            prompt = whisper.tokens.prompt(made.language, wishes.task)
            most = whisper.network.config.max_target_positions // 2 - 1
            front = [whisper.tokens.previous, *spoken[-most:]] if spoken else []
            found = yield from heard(
                whisper, states, front + prompt, wishes.beams, True, wishes.temperatures, noise
            )
            if not found.silent:
                pieces, used = cut(found, whisper, tape.at, len(window), made.segments)
                if wishes.words:
                    pieces = timed(
                        pieces, whisper, states, prompt, made.language, tape.at, len(window) // HOP
                    )
                yield from pieces
                made.segments += len(pieces)
                spoken = [*spoken, *(i for i in found.tokens if i < whisper.tokens.end)]
                spoken = [] if found.temperature > HOT else spoken[-most:]
        tape.skip(used)
        made.seconds = tape.at / RATE
        yield None


def cut(
    found: Heard, whisper: Whisper, at: int, size: int, first: int
) -> tuple[list[Segment], int]:
    """The segments of a window of `size` samples that begins at sample `at`, and how many samples
    were heard to the end of a segment."""
    tokens, clock = found.tokens, whisper.tokens.clock
    ends = [i + 1 for i in range(len(tokens) - 1) if tokens[i] >= clock and tokens[i + 1] >= clock]
    closed = len(tokens) > 1 and tokens[-1] >= clock > tokens[-2]  # the sound ends with a segment
    if ends:
        parts = [tokens[a:b] for a, b in zip([0, *ends], [*ends, len(tokens)], strict=True)]
        whole = parts if closed else parts[:-1]
        used = size if closed else (tokens[ends[-1] - 1] - clock) * STATE
        spans = [(part, float(part[0] - clock), float(part[-1] - clock)) for part in whole]
    else:
        times = [token - clock for token in tokens if token >= clock]
        end = times[-1] if times and times[-1] else size / STATE
        spans, used = [(tokens, 0.0, end)], size
    begin, pieces = at / RATE, list[Segment]()
    for part, start, end in spans:
        text = whisper.text(part)
        if text.strip() and start < end:
            pieces.append(
                Segment(
                    first + len(pieces),
                    at // HOP,
                    round(begin + start / PER_SECOND, 2),
                    round(begin + end / PER_SECOND, 2),
                    text,
                    tuple(part),
                    found.temperature,
                    found.mean_logprob,
                    found.compression_ratio,
                    found.no_speech,
                )
            )
    return pieces, used if used > 0 else size


# ---- words ---------------------------------------------------------------------------------------


def timed(
    pieces: list[Segment],
    whisper: Whisper,
    states: torch.Tensor,
    prompt: Sequence[int],
    language: str,
    at: int,
    frames: int,
) -> list[Segment]:
    """The segments of a window with the times of their words."""
    texts = [[token for token in piece.tokens if token < whisper.tokens.end] for piece in pieces]
    every = [token for text in texts for token in text]
    if not every:
        return pieces
    times = word_times(whisper, states, prompt, every, frames)
    out, begin = [], at / RATE
    for piece, text in zip(pieces, texts, strict=True):
        mine, times = times[: len(text)], times[len(text) :]
        words, k = [], 0
        for word, count in merged(spelled(whisper, text, language)):
            span = mine[k : k + count]
            chance = sum(each[2] for each in span) / count
            words.append(
                Word(
                    word,
                    round(begin + span[0][0], 2),
                    round(begin + span[-1][1], 2),
                    round(chance, 4),
                )
            )
            k += count
        out.append(replace(piece, words=tuple(words)))
    return out


def spelled(whisper: Whisper, tokens: Sequence[int], language: str) -> list[tuple[str, int]]:
    """(word, how many tokens it has) of a text. A word begins with a space, or in languages that
    have none with each character."""
    whole = list[tuple[str, int]]()
    held: list[int] = []
    for token in tokens:  # a character may be of several tokens
        held.append(token)
        text = whisper.tokenizer.backend.decode(held)
        if "�" not in text:
            whole.append((text, len(held)))
            held = []
    if held:
        whole.append((whisper.tokenizer.backend.decode(held), len(held)))
    if language in UNSPACED:
        return whole
    words = list[tuple[str, int]]()
    for text, count in whole:
        alone = text.startswith(" ") or not words or text.strip() in BEFORE + AFTER
        if alone:
            words.append((text, count))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + count)
    return words


def merged(words: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Signs joined to the word that they belong to."""
    out = list[tuple[str, int]]()
    opening = ("", 0)
    for text, count in words:
        text, count = opening[0] + text, opening[1] + count
        opening = ("", 0)
        if text.strip() and text.strip() in BEFORE and text.startswith(" "):
            opening = (text, count)
        elif out and text.strip() and text.strip()[0] in AFTER and not text.startswith(" "):
            out[-1] = (out[-1][0] + text, out[-1][1] + count)
        else:
            out.append((text, count))
    if opening[1]:
        out.append(opening)
    return out
