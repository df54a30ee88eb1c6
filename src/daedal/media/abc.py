"""Tunes in ABC notation (the standard 2.1 of abcnotation.com), one voice, read and written.

Reading keeps notes, rests, ties, triplets, broken rhythms, repeats and first endings; it passes over
grace notes, chord symbols, slurs, ornaments and what second endings hold."""

import re
from fractions import Fraction

from daedal.errors import DaedalError
from daedal.media.score import (
    MODES,
    NATURAL,
    WHOLE,
    Bar,
    Note,
    Strain,
    Tune,
    bar_ticks,
    beat_of,
    signature,
    spelled,
)

TOKEN = re.compile(
    r"""(?P<skip>"[^"]*"|\{[^}]*\}|![^!]*!|\+[^+]*\+|%[^\n]*|\[[A-Za-z]:[^\]]*\]|[()](?!\d)|[-~uvTHLMOPSk.\\y\s])
    |(?P<tuplet>\(\d(?::\d?)*)
    |(?P<bar>:*\|[|\]]?:*|:{2,}|\[\|)(?P<ending>\s*\[?[12])?
    |(?P<second>\[[12])
    |(?P<note>(?P<mark>\^{1,2}|_{1,2}|=)?(?P<letter>[A-Ga-gzx])(?P<octave>[,']*)(?P<length>\d*(?:/\d*)*)(?P<tie>-)?)
    |(?P<broken>[<>]+)
    |(?P<chord>\[[^\]]*\](?P<chord_length>\d*(?:/\d*)*))""",
    re.VERBOSE,
)
MARKS = {"^": 1, "^^": 2, "_": -1, "__": -2, "=": 0}
SHORT = {"": "major", "m": "minor", "min": "minor", "maj": "major", "dor": "dorian", "mix": "mixolydian", "ion": "major", "aeo": "minor"}  # fmt: skip
WRITTEN = {"major": "", "minor": "m", "dorian": "dor", "mixolydian": "mix"}


class Reader:
    """The state of reading one tune's body."""

    def __init__(self, unit: Fraction, key: dict[str, int]) -> None:
        self.unit, self.key = unit, key
        self.strains: list[Strain] = []
        self.bars: list[Bar] = []
        self.bar: list[tuple[int | None, Fraction]] = []
        self.changed: dict[tuple[str, int], int] = {}  # accidentals until the end of the bar
        self.triplet = 0  # notes left of one
        self.broken: tuple[Fraction, Fraction] | None = None
        self.tied, self.skipping = False, False

    def note(self, match: re.Match[str]) -> None:
        letter, marks = match["letter"], match["octave"]
        length = length_of(match["length"]) * self.unit
        pitch = None
        if letter not in "zx":
            octave = letter.islower() + marks.count("'") - marks.count(",")
            place = (letter.upper(), octave)
            if match["mark"]:
                self.changed[place] = MARKS[match["mark"]]
            change = self.changed.get(place, self.key.get(place[0], 0))
            pitch = 60 + 12 * octave + NATURAL[place[0]] + change
        if self.triplet:
            self.triplet, length = self.triplet - 1, length * Fraction(2, 3)
        if self.broken:
            length, self.broken = length * self.broken[1], None
        if self.tied and self.bar and self.bar[-1][0] == pitch:
            self.bar[-1] = (pitch, self.bar[-1][1] + length)
        else:
            self.bar.append((pitch, length))
        self.tied = bool(match["tie"])

    def dot(self, sign: str) -> None:
        """`a>b`: the note before is longer by half, and the one after shorter."""
        share = Fraction(1, 2 ** len(sign))
        factors = (2 - share, share) if sign[0] == ">" else (share, 2 - share)
        if self.bar:
            pitch, length = self.bar[-1]
            self.bar[-1] = (pitch, length * factors[0])
            self.broken = factors

    def line(self, sign: str, ending: str | None) -> None:
        """A bar line, which may end a strain or begin an ending."""
        if self.bar and not self.skipping:
            self.bars.append(tuple(Note(pitch, ticks_of(length)) for pitch, length in self.bar))
        self.bar, self.changed, self.tied = [], {}, False
        repeated = sign.startswith(":") or "::" in sign
        if repeated or len(sign.strip(":")) > 1 or sign.endswith(":"):
            self.close(repeated)
        if ending and ending.strip(" [") == "2":
            self.skipping = True
        elif repeated or sign.endswith(":") or len(sign.strip(":")) > 1:
            self.skipping = False

    def close(self, repeated: bool) -> None:
        if self.bars:
            self.strains.append(Strain(tuple(self.bars), repeated))
        self.bars = []


def length_of(text: str) -> Fraction:
    """The factor that follows a note: "3/2", "/", "2"."""
    above, *below = text.split("/")
    value = Fraction(int(above or 1))
    for part in below:
        value /= int(part or 2)
    return value


def ticks_of(length: Fraction) -> int:
    ticks = length * WHOLE
    if ticks.denominator != 1:
        raise DaedalError(
            f"a note of {length} of a whole note is none that is known here; semiquavers and triplets are."
        )
    return int(ticks)


def read(text: str) -> Tune:
    """The tune of an ABC text. What is not understood is an error that names it."""
    fields, body = dict[str, str](), list[str]()
    for line in text.splitlines():
        if re.match(r"[A-Za-z]:", line):
            fields.setdefault(line[0], line[2:].strip())
        elif not line.startswith("%"):
            body.append(line)
    metre = metre_of(fields.get("M", "4/4"))
    tonic, mode = key_of(fields.get("K", "C"))
    reader = Reader(Fraction(fields.get("L", "1/8")), signature(tonic, mode))
    walk(reader, "\n".join(body))
    bpm = re.search(r"=\s*(\d+)", fields.get("Q", ""))
    return Tune(
        fields.get("T", ""),
        fields.get("R", ""),
        metre,
        tonic,
        mode,
        float(bpm[1]) if bpm else 120.0,
        tuple(reader.strains),
    )


def walk(reader: Reader, body: str) -> None:
    at = 0
    while at < len(body):
        match = TOKEN.match(body, at)
        if match is None or match["chord"] is not None:
            raise DaedalError(
                f"{body[at : at + 8]!r} of the ABC text is not understood; take it out."
            )
        if match["note"]:
            reader.note(match)
        elif match["broken"]:
            reader.dot(match["broken"])
        elif match["tuplet"]:
            if match["tuplet"] != "(3":
                raise DaedalError(
                    f"{match['tuplet']!r} is a tuplet that is not known here; triplets are."
                )
            reader.triplet = 3
        elif match["bar"]:
            reader.line(match["bar"], match["ending"])
        elif match["second"]:
            reader.skipping = match["second"][1] == "2"
        at = match.end()
    reader.line("|]", None)


def metre_of(text: str) -> tuple[int, int]:
    common = {"C": (4, 4), "C|": (2, 2)}
    if text in common:
        return common[text]
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise DaedalError(f"the metre {text!r} is not one such as 6/8.")
    return int(match[1]), int(match[2])


def key_of(text: str) -> tuple[str, str]:
    """(tonic, mode) of "F#m" or "Ador"."""
    match = re.match(r"([A-G][#b]?)\s*([a-z]*)", text)
    mode = SHORT.get(match[2][:3], match[2]) if match else ""
    if match is None or mode not in MODES:
        raise DaedalError(f"the key {text!r} is not known; keys are as D, F#m, Ador, Gmix.")
    return match[1], mode


# ---- writing -------------------------------------------------------------------------------------


def write(tune: Tune) -> str:
    """The ABC text of a tune, four bars a line, in quavers."""
    unit = beat_of(tune.metre)
    fields = {
        "X": "1",
        "T": tune.title,
        "R": tune.rhythm,
        "M": "{}/{}".format(*tune.metre),
        "L": "1/8",
        "Q": f"{Fraction(unit, WHOLE)}={tune.bpm:g}",
        "K": tune.tonic + WRITTEN[tune.mode],
    }
    head = "\n".join(f"{name}:{value}" for name, value in fields.items())
    return head + "\n" + "\n".join(strain_text(strain, tune) for strain in tune.strains) + "\n"


def strain_text(strain: Strain, tune: Tune) -> str:
    bars = [bar_text(bar, tune) for bar in strain.bars]
    upbeat = sum(note.ticks for note in strain.bars[0]) < bar_ticks(tune.metre)
    front = [bars.pop(0) + " |"] if upbeat and len(bars) > 1 else []
    lines = [" | ".join(bars[i : i + 4]) for i in range(0, len(bars), 4)]
    lines = [
        *(line + " |" for line in lines[:-1]),
        lines[-1] + (" :|" if strain.repeated else " ||"),
    ]
    lines[0] = " ".join(["|:", *front, lines[0]] if strain.repeated else [*front, lines[0]])
    return "\n".join(lines)


def bar_text(bar: Bar, tune: Tune) -> str:
    """Notes in groups of a beat, with the accidentals that the key does not say."""
    key, changed = signature(tune.tonic, tune.mode), dict[tuple[str, int], int]()
    out, at, triplet = "", 0, 0
    for note in bar:
        if out and at % tune.beat == 0 and not triplet:
            out += " "
        third = note.ticks in TRIPLETS
        if third and not triplet:
            out, triplet = out + "(3", 3
        triplet -= bool(triplet)
        ticks = note.ticks * 3 // 2 if third else note.ticks
        out += name_of(note.pitch, tune, key, changed) + length_text(Fraction(ticks, WHOLE // 8))
        at += note.ticks
    return out


TRIPLETS = (4, 8, 16, 32)  # thirds of a quaver, crotchet, half and whole note


def name_of(
    pitch: int | None, tune: Tune, key: dict[str, int], changed: dict[tuple[str, int], int]
) -> str:
    if pitch is None:
        return "z"
    letter, change, octave = spelled(pitch, tune.tonic, tune.mode)
    mark = ""
    if changed.get((letter, octave), key.get(letter, 0)) != change:
        changed[letter, octave] = change
        mark = {1: "^", -1: "_", 0: "="}[change]
    name = letter.lower() if octave > 4 else letter
    return mark + name + "'" * (octave - 5) + "," * (4 - octave)


def length_text(factor: Fraction) -> str:
    above = "" if factor.numerator == 1 else str(factor.numerator)
    below = {1: "", 2: "/"}.get(factor.denominator, f"/{factor.denominator}")
    return above + below
