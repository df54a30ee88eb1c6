"""A tune as notes on paper: one voice, in bars, in strains that may be repeated. What ABC, MIDI,
engraving and synthesis read and write (daedal.media.abc, midi, engrave, synth).

Time is counted in ticks, 96 to a whole note, so that semiquavers (6) and triplets of quavers (8)
are whole numbers. Pitches are MIDI's, 60 for middle C, and None for a rest."""

from collections.abc import Iterator
from dataclasses import dataclass

WHOLE = 96
LETTERS = "CDEFGAB"
NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C
ACCIDENTALS = {"": 0, "#": 1, "b": -1}
# modes: semitones of the degrees above the tonic, and how far on the circle of fifths from major
MODES = {
    "major": ((0, 2, 4, 5, 7, 9, 11), 0),
    "minor": ((0, 2, 3, 5, 7, 8, 10), -3),
    "dorian": ((0, 2, 3, 5, 7, 9, 10), -2),
    "mixolydian": ((0, 2, 4, 5, 7, 9, 10), -1),
}
SHARPS, FLATS = "FCGDAEB", "BEADGCF"


@dataclass(frozen=True)
class Note:
    pitch: int | None
    ticks: int


Bar = tuple[Note, ...]


@dataclass(frozen=True)
class Strain:
    """Bars one after another; the first is an upbeat where it is shorter than the others."""

    bars: tuple[Bar, ...]
    repeated: bool = False


@dataclass(frozen=True)
class Tune:
    """`tonic` is a letter with an optional # or b, `metre` (6, 8) for 6/8, `bpm` counts beats a
    minute, which are dotted where the metre is compound."""

    title: str
    rhythm: str
    metre: tuple[int, int]
    tonic: str
    mode: str
    bpm: float
    strains: tuple[Strain, ...]

    @property
    def beat(self) -> int:
        """Ticks of a beat."""
        return beat_of(self.metre)

    @property
    def seconds_per_tick(self) -> float:
        return 60 / self.bpm / self.beat

    def played(self) -> Iterator[Note]:
        """Every note in the order of playing, repeats included."""
        for strain in self.strains:
            for _ in range(1 + strain.repeated):
                for bar in strain.bars:
                    yield from bar

    @property
    def seconds(self) -> float:
        return sum(note.ticks for note in self.played()) * self.seconds_per_tick


def beat_of(metre: tuple[int, int]) -> int:
    """Ticks of a beat: three of the lower number where the metre is compound (6/8, 9/8, 12/8); a
    half note in 2/2."""
    count, unit = metre
    return WHOLE // unit * (3 if unit == 8 and count % 3 == 0 and count > 3 else 1)


def bar_ticks(metre: tuple[int, int]) -> int:
    return WHOLE * metre[0] // metre[1]


def tonic_class(tonic: str) -> int:
    """The pitch class of "F#"."""
    return (NATURAL[tonic[0]] + ACCIDENTALS[tonic[1:]]) % 12


def signature(tonic: str, mode: str) -> dict[str, int]:
    """Letter -> the semitones that the key signature raises it by."""
    fifths = "FCGDAEB".index(tonic[0]) - 1 + 7 * ACCIDENTALS[tonic[1:]] + MODES[mode][1]
    raised = dict.fromkeys(SHARPS[: max(0, fifths)], 1)
    return raised | dict.fromkeys(FLATS[: max(0, -fifths)], -1)


def spelled(pitch: int, tonic: str, mode: str) -> tuple[str, int, int]:
    """(letter, semitones that it is raised by, octave) of a pitch in a key: the degree of the
    scale where it is one, else the letter whose change is the least, raised in sharp keys and
    lowered in flat ones."""
    key = signature(tonic, mode)
    flat = any(value < 0 for value in key.values())
    choices = []
    for letter in LETTERS:
        for change in (-1, 0, 1):
            if (NATURAL[letter] + change - pitch) % 12 == 0:
                inside = key.get(letter, 0) == change
                against = change != 0 and (change > 0) == flat
                choices.append((not inside, abs(change), against, letter, change))
    *_, letter, change = min(choices)
    return letter, change, (pitch - change - NATURAL[letter]) // 12 - 1
