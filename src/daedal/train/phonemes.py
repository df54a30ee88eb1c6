"""Letters to phonemes from a pronouncing dictionary: words are aligned with their readings once, and
the network learns which phonemes each letter stands for.

`out/model` is the network in 8 bits and a lexicon of the words that it does not get right."""

import json
import random
import zlib
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints.compact import eight
from daedal.data.phonemes.align import Chunks, aligned
from daedal.data.phonemes.arpabet import LETTERS, Reading, read_dictionary, unstressed
from daedal.data.phonemes.speller import FILE, Speller, write_lexicon
from daedal.files import write_whole
from daedal.networks.phonemes import LettersToPhonemes, PhonemeConfig
from daedal.processes.measures import edits
from daedal.train.pictures import cost
from daedal.train.recipe.speech import PhonemesRecipe
from daedal.train.start import mark
from daedal.train.task import Cost, Task, evaluating
from daedal.train.trainer import Batch, Objective

RARE = 5  # times that a chunk must occur; words with rarer ones are left out


class WordBatches:
    """Batches of words of one length, {"letters": (B, T), "chunks": (B, T)}: no padding."""

    def __init__(self, rows: list[tuple[list[int], list[int]]], size: int, seed: int, step: int):
        self.size, self.seed, self.step = size, seed, step
        self.lengths: dict[int, list[tuple[list[int], list[int]]]] = {}
        for letters, chunks in rows:
            self.lengths.setdefault(len(letters), []).append((letters, chunks))

    def __iter__(self) -> Any:
        while True:
            rng = random.Random(f"{self.seed}/{self.step}")
            shares = [len(rows) for rows in self.lengths.values()]
            rows = rng.choices(list(self.lengths.values()), shares)[0]
            letters, chunks = zip(*rng.choices(rows, k=self.size), strict=True)
            self.step += 1
            yield {"letters": torch.tensor(letters), "chunks": torch.tensor(chunks)}

    def state(self) -> dict[str, Any]:
        return {"step": self.step}


def spelling(network: LettersToPhonemes, part: Batch) -> Tensor:
    """The cross-entropy of every letter's phonemes, a sum."""
    logits = network(part["letters"], part["chunks"])
    return F.cross_entropy(
        logits.flatten(0, 1), part["chunks"].flatten(), reduction="sum", label_smoothing=0.05
    )


def is_held_out(word: str, one_in: int) -> bool:
    """Whether a word is kept for the evaluation: by its letters, so that it is so everywhere."""
    return zlib.crc32(word.encode()) % one_in == 0


class Phonemes(Task):
    """`out/model` is a folder of letters to phonemes (daedal.data.phonemes.speller)."""

    recipe_type, unit, unit_label = PhonemesRecipe, "words", "words"
    objective = Objective(spelling, lambda batch: batch["letters"].numel())

    def build(self) -> None:
        r = self.recipe
        self.dictionary = read_dictionary(r.dictionary)
        words = {w: rs for w, rs in self.dictionary.items() if not is_held_out(w, r.held_out)}
        self.held_out = [word for word in self.dictionary if word not in words]
        paths = self.alignments(words)
        counts = Counter(chunk for path in paths.values() for chunk in path)
        known = sorted(chunk for chunk, n in counts.items() if n >= RARE)
        config = PhonemeConfig(
            chunks=tuple(map(" ".join, known)), letters=LETTERS, **r.model.model_dump()
        )
        self.network = LettersToPhonemes(config).init_weights(r.seed)
        rows = [row for (word, _), path in paths.items() if (row := numbered(word, path, known))]
        self.batches = WordBatches(rows, r.rows, r.seed, self.start.step)
        self.units, self.flops = r.rows, self.cost(torch.float32).flops

    def alignments(self, words: dict[str, list[Reading]]) -> dict[tuple[str, Reading], Chunks]:
        """Made once, and kept for when the run goes on."""
        name = f"aligned-{mark(self.recipe, 'dictionary', 'held_out')}.json"
        file = self.start.out / name
        if not file.exists():
            paths = aligned((word, reading) for word, rs in words.items() for reading in rs)
            rows = [[word, path] for (word, _), path in paths.items()]
            write_whole(file, json.dumps(rows).encode())
        found = [(word, tuple(map(tuple, path))) for word, path in json.loads(file.read_text())]
        return {(word, sum(path, ())): path for word, path in found}

    def cost(self, dtype: torch.dtype) -> Cost:
        config = PhonemeConfig(
            chunks=tuple(map(str, range(150))), letters=LETTERS, **self.recipe.model.model_dump()
        )
        word = torch.zeros(1, 8, dtype=torch.long, device="meta")
        weights, flops, kept = cost(
            lambda: LettersToPhonemes(config), lambda network: network(word, word)
        )
        rows = self.recipe.rows
        memory = 16 * weights + kept * self.recipe.micro_rows
        return Cost(weights, rows, flops * rows, memory)

    @torch.no_grad()
    def evaluate(self, network: LettersToPhonemes) -> dict[str, float]:
        """Held-out words whose phonemes are all right, with and without stress, and errors a
        phoneme."""
        words = random.Random(0).sample(
            self.held_out, min(self.recipe.evaluate_words, len(self.held_out))
        )
        with evaluating(network):
            return scores(Speller(network).spell(words), self.dictionary)

    def save(self, state: dict[str, Tensor]) -> None:
        checkpoints.save(self.network, self.folder, state=state, compact=eight)
        network = checkpoints.load(
            self.folder, torch.float32
        )  # the rounded one is what must be mended
        guesses = Speller(network).spell(list(self.dictionary))
        wrong = {word: rs[0] for word, rs in self.dictionary.items() if guesses[word] != rs[0]}
        write_lexicon(self.folder / FILE, wrong)


def numbered(word: str, path: Chunks, known: list[Reading]) -> tuple[list[int], list[int]] | None:
    """The numbers of a word's letters and of their chunks; None where one is not known."""
    places = {chunk: i for i, chunk in enumerate(known)}
    if any(chunk not in places for chunk in path):
        return None
    return [LETTERS.index(c) + 1 for c in word], [places[chunk] for chunk in path]


def scores(guesses: dict[str, Reading], right: dict[str, list[Reading]]) -> dict[str, float]:
    """Against the nearest of a word's readings: the shares of words that are right, and the
    phonemes to change (without stress) by the phonemes there are."""
    exact = sum(guess in right[word] for word, guess in guesses.items())
    plain = errors = total = 0
    for word, guess in guesses.items():
        readings = [unstressed(reading) for reading in right[word]]
        distances = [edits(unstressed(guess), reading) for reading in readings]
        best = min(range(len(readings)), key=distances.__getitem__)
        plain += not distances[best]
        errors, total = errors + distances[best], total + len(readings[best])
    n = len(guesses)
    return {
        "words_right": plain / n,
        "words_right_with_stress": exact / n,
        "phoneme_error": errors / total,
        "words": n,
    }
