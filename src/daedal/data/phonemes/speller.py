"""A word's phonemes: looked up in a lexicon of the words that the network gets wrong, else spelt by
the network.

    speller = Speller.load(folder)
    speller("lighthouse")                   # ('L', 'AY1', 'T', 'HH', 'AW2', 'S')"""

from collections.abc import Iterable
from pathlib import Path

import torch
import zstandard

from daedal import checkpoints
from daedal.data.phonemes.arpabet import LETTERS, Reading
from daedal.files import write_whole
from daedal.networks.phonemes import LettersToPhonemes

FILE = "lexicon.txt.zst"
TOGETHER = 512  # words spelt at once


class Speller:
    """The readings of words of letters and apostrophes. What was asked once is remembered."""

    def __init__(self, network: LettersToPhonemes, lexicon: dict[str, Reading] | None = None):
        self.network, self.known = network, dict(lexicon or {})

    @classmethod
    def load(cls, folder: str | Path) -> "Speller":
        folder = Path(folder)
        network = checkpoints.load(folder, torch.float32, kind=LettersToPhonemes)
        return cls(network, read_lexicon(folder / FILE))

    def __call__(self, word: str) -> Reading:
        if word not in self.known:
            self.known |= self.spell([word])
        return self.known[word]

    def spell(self, words: Iterable[str]) -> dict[str, Reading]:
        """What the network makes of words, whatever the lexicon says."""
        lengths: dict[int, list[str]] = {}
        for word in words:
            lengths.setdefault(len(word), []).append(word)
        chunks = [tuple(chunk.split()) for chunk in self.network.config.chunks]
        found: dict[str, Reading] = {}
        for alike in lengths.values():
            for at in range(0, len(alike), TOGETHER):
                part = alike[at : at + TOGETHER]
                letters = torch.tensor([[LETTERS.index(c) + 1 for c in word] for word in part])
                for word, row in zip(part, self.network.spell(letters).tolist(), strict=True):
                    found[word] = tuple(phoneme for i in row for phoneme in chunks[i])
        return found


def write_lexicon(path: Path, readings: dict[str, Reading]) -> None:
    """A line a word, sorted, each word without the letters that it shares with the one before."""
    lines, last = [], ""
    for word in sorted(readings):
        same = next(
            (i for i, (a, b) in enumerate(zip(word, last, strict=False)) if a != b),
            min(len(word), len(last)),
        )
        lines.append(f"{chr(48 + same)}{word[same:]} {' '.join(readings[word])}")
        last = word
    write_whole(path, zstandard.compress("\n".join(lines).encode(), 22))


def read_lexicon(path: Path) -> dict[str, Reading]:
    found, last = dict[str, Reading](), ""
    for line in zstandard.decompress(path.read_bytes()).decode().splitlines():
        head, _, phonemes = line.partition(" ")
        last = last[: ord(head[0]) - 48] + head[1:]
        found[last] = tuple(phonemes.split())
    return found
