"""What a voice reads: the numbers of a sentence's phonemes, or of its letters, with a blank between
any two, and which word each belongs to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.data.phonemes.ipa import in_sentence
from daedal.data.phonemes.reader import Word
from daedal.errors import DaedalError

PAD, BEGIN, END = "_", "^", "$"
HEARD = {"--": ",", '"': "", "(": ",", ")": ","}  # marks that voices read as others


@dataclass(frozen=True)
class Tokens:
    """Numbers, and for each the index of its word; -1 between words."""

    ids: tuple[int, ...]
    words: tuple[int, ...]


class Phonemes:
    """Phonemes in IPA, numbered as Piper's JSON says (`phoneme_id_map`): begin, then each with a
    blank behind it, then end."""

    def __init__(self, numbers: dict[str, list[int]]) -> None:
        self.numbers = numbers

    def __call__(self, words: Sequence[Word]) -> Tokens:
        ids, owners = list(self.numbers[BEGIN]), [-1]
        self._add(ids, owners, self.numbers[PAD], -1)
        for text, word in self.sounds(words):
            for symbol in text:
                if symbol in self.numbers:
                    self._add(ids, owners, [*self.numbers[symbol], *self.numbers[PAD]], word)
        self._add(ids, owners, self.numbers[END], -1)
        return Tokens(tuple(ids), tuple(owners))

    @staticmethod
    def _add(ids: list[int], owners: list[int], new: list[int], word: int) -> None:
        ids.extend(new)
        owners.extend([word] * len(new))

    @staticmethod
    def sounds(words: Sequence[Word]) -> list[tuple[str, int]]:
        """(phonemes, a mark or a space, the index of the word)."""
        made: list[tuple[str, int]] = []
        following = ""
        for i in range(len(words) - 1, -1, -1):
            word = words[i]
            if not word.reading:
                made.append((HEARD.get(word.text, word.text), -1))
                following = ""
                continue
            plain = "" if word.emphasised else word.text
            following = in_sentence(plain, word.reading, following)
            made.append((following, i))
            made.append((" ", -1))
        made = made[::-1]
        if made and made[0][0] == " ":
            made = made[1:]
        if not made or made[-1][0] not in tuple(".!?"):  # what ends without a mark ends flat
            made.append((".", -1))
        return made


class Letters:
    """Letters, numbered as the vocab.json of an MMS folder says: a blank in front of each and
    behind the last."""

    def __init__(self, numbers: dict[str, int], blank: int = 0) -> None:
        self.numbers, self.blank = numbers, blank

    @classmethod
    def load(cls, folder: Path) -> "Letters":
        numbers = json.loads((folder / "vocab.json").read_text())
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text()) if file.exists() else {}
        if settings.get("phonemize") or settings.get("is_uroman"):
            raise DaedalError(
                f"{folder} reads phonemes or romanised text that only its own tools make; give an MMS voice of a Latin script, or a Piper voice."
            )
        return cls(numbers, numbers.get(settings.get("pad_token", ""), 0))

    def __call__(self, words: Sequence[Word]) -> Tokens:
        ids, owners = [self.blank], [-1]
        for i, word in enumerate(words):
            if not word.reading:
                continue
            text = word.text.lower() if len(ids) == 1 else " " + word.text.lower()
            for letter in text:
                if letter in self.numbers:
                    ids += [self.numbers[letter], self.blank]
                    owners += [i, i]
        return Tokens(tuple(ids), tuple(owners))


def symbols_of(about: dict[str, Any]) -> Phonemes:
    """Of a Piper JSON, or of a house voice's."""
    kind = about.get("phoneme_type", "espeak")
    if kind != "espeak" or not str(about.get("espeak", {}).get("voice", "en")).startswith("en"):
        raise DaedalError(
            f"this voice reads {about.get('espeak', {}).get('voice', kind)!r}; Daedal writes out English phonemes only, for voices of en-us or en-gb."
        )
    return Phonemes(about["phoneme_id_map"])
