"""Tunes as the words of a small language, and the grammar of what may follow what.

    jig 6/8 major AABB  n8 u12  d12 p4 | d24 p7 d12 p4 ... |  n8 u12 ...  <|eos|>

A tune is its rhythm, metre, mode and form, then its strains: how many bars, how long an upbeat
(ticks), then notes, each its length in ticks and its pitch in semitones above the tonic, with a word
at the end of each bar. Pitches being relative, a tune is learnt once and played in any key.

`Grammar` has the shape of daedal.processes.grammar's, so that the engine draws under it: bars sum to
the metre, the last one leaves room for the upbeat, triplets come in threes, the strains are those of
the form, the tune ends on its tonic.

    python -m daedal.data.tunes tunes.parquet runs/tunes/data    # writes what a recipe trains on
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.media import abc
from daedal.media.score import MODES, Bar, Note, Strain, Tune, bar_ticks, tonic_class

RHYTHMS = {  # and the metres and beats a minute that it is played in
    "jig": (("6/8",), 112), "slip jig": (("9/8",), 108), "reel": (("4/4", "2/2", "2/4"), 104), "hornpipe": (("4/4", "2/2", "2/4"), 84),
    "strathspey": (("4/4", "2/2"), 76), "march": (("4/4", "2/4", "6/8", "2/2"), 100), "waltz": (("3/4", "3/8"), 132),
    "polka": (("2/4",), 120), "clog": (("2/4", "4/4", "2/2"), 84), "air": (("3/4", "4/4", "2/2", "6/8", "2/4", "3/8"), 72),
    "dance": (("2/4", "4/4", "3/4", "6/8", "9/8", "2/2", "3/8"), 108),
}  # fmt: skip
SAME = {"double jig": "jig", "single jig": "jig", "slipjig": "slip jig", "highland fling": "strathspey", "": "dance"}  # fmt: skip
METRES = ("6/8", "9/8", "2/4", "4/4", "2/2", "3/4", "3/8")
FORMS = ("AABB", "AB", "AAB", "ABB", "A", "AA", "ABC", "AABBCC", "AABBCCDD", "ABCD")
BARS = (4, 6, 8, 10, 12, 14, 16)  # of a strain
UPBEATS = (0, 3, 6, 9, 12, 18, 24, 36)  # ticks
TRIPLETS = (4, 8, 16)
LENGTHS = (3, 6, 9, 12, 18, 24, 30, 36, 42, 48, 60, 72, 96, *TRIPLETS)
PITCHES = range(-14, 29)
# pitch classes above the tonic that a mode is written with: its scale and the notes that folk tunes
# borrow, but not those that would make it another mode
BORROWED = {
    "major": (0, 2, 4, 5, 6, 7, 9, 10, 11), "minor": (0, 2, 3, 5, 7, 8, 10, 11), "dorian": (0, 2, 3, 5, 7, 9, 10, 11), "mixolydian": (0, 2, 4, 5, 7, 9, 10, 11),
}  # fmt: skip
BAR, REST, EOS, BOS = "|", "rest", "<|eos|>", "<|bos|>"
CONTEXT = 512


def words() -> list[str]:
    """The vocabulary, in the order of its ids."""
    return [
        BOS,
        EOS,
        BAR,
        REST,
        *(name.replace(" ", "-") for name in RHYTHMS),
        *METRES,
        *MODES,
        *FORMS,
        *(f"n{n}" for n in BARS),
        *(f"u{u}" for u in UPBEATS),
        *(f"d{d}" for d in LENGTHS),
        *(f"p{p}" for p in PITCHES),
    ]


def tokenizer() -> Tokenizer:
    """A token a word."""
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words())}, unk_token=EOS))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in (BOS, EOS)])
    return Tokenizer(
        backend, roles={"bos_token": BOS, "eos_token": EOS}, config={"add_bos_token": True}
    )


# ---- tunes and words -----------------------------------------------------------------------------


def form_of(strains: Sequence[Strain]) -> str:
    return "".join("ABCDEFGHIJKL"[i % 12] * (1 + s.repeated) for i, s in enumerate(strains))


def parts_of(form: str) -> list[bool]:
    """Whether each strain of a form is repeated."""
    return [form.count(letter) > 1 for letter in dict.fromkeys(form)]


def rhythm_of(tune: Tune) -> str:
    name = tune.rhythm.lower().strip()
    name = SAME.get(name, name)
    name = name if name in RHYTHMS else "dance"
    written = "{}/{}".format(*tune.metre)
    return name if written in RHYTHMS[name][0] else "dance"


def tidy(tune: Tune) -> Tune | None:
    """The tune with an upbeat at the head of each strain and the last bar shorter by it, as the
    grammar has it; None of one that cannot be brought into that form."""
    whole = bar_ticks(tune.metre)
    strains, upbeat = [], ()
    for strain in tune.strains:
        bars = joined([bar for bar in (upbeat, *strain.bars) if bar], whole)
        if len(bars) == 1 and ticks(bars[0]) < whole:
            upbeat = bars[0]  # it stands before the sign of repetition
            continue
        upbeat = ()
        first = ticks(bars[0]) if ticks(bars[0]) < whole else 0
        bars[-1] = fitted(bars[-1], whole - first)
        if (
            any(ticks(bar) != whole for bar in bars[bool(first) : -1])
            or ticks(bars[-1]) != whole - first
        ):
            return None
        strains.append(Strain(tuple(bars), strain.repeated))
    if not strains or form_of(strains) not in FORMS:
        return None
    name = rhythm_of(tune)
    return Tune(
        tune.title, name, tune.metre, tune.tonic, tune.mode, RHYTHMS[name][1], tuple(strains)
    )


def ticks(bar: Bar) -> int:
    return sum(note.ticks for note in bar)


def joined(bars: list[Bar], whole: int) -> list[Bar]:
    """Bars that a line in their middle divides, but for the upbeat, made one."""
    out: list[Bar] = bars[:1]
    for bar in bars[1:]:
        short = len(out) > 1 and ticks(out[-1]) + ticks(bar) == whole
        out = [*out[:-1], out[-1] + bar] if short else [*out, bar]
    return out


def fitted(bar: Bar, wanted: int) -> Bar:
    """A last bar whose last note is shortened or lengthened to what is wanted."""
    last = bar[-1].ticks + wanted - ticks(bar)
    return (
        (*bar[:-1], Note(bar[-1].pitch, last)) if last in LENGTHS and last not in TRIPLETS else bar
    )


def home(tune: Tune) -> int:
    """The tonic's pitch, in the octave that has most of the tune in the octave and a half above."""
    pitches = sorted(note.pitch for note in tune.played() if note.pitch is not None)
    middle = pitches[len(pitches) // 2]
    return middle - (middle - 2 - tonic_class(tune.tonic)) % 12 - 2


def text_of(tune: Tune) -> str:
    """The words of a tidy tune."""
    tonic, whole = home(tune), bar_ticks(tune.metre)
    out = [
        tune.rhythm.replace(" ", "-"),
        "{}/{}".format(*tune.metre),
        tune.mode,
        form_of(tune.strains),
    ]
    for strain in tune.strains:
        first = ticks(strain.bars[0])
        upbeat = first if first < whole else 0
        out += [f"n{len(strain.bars) - bool(upbeat)}", f"u{upbeat}"]
        for bar in strain.bars:
            for note in bar:
                pitch = REST if note.pitch is None else f"p{note.pitch - tonic}"
                out += [f"d{note.ticks}", pitch]
            out.append(BAR)
    return " ".join(out)


def tune_of(text: str, tonic: str, bpm: float, title: str = "") -> Tune:
    """The tune of words, in a key and tempo. Its tonic stands where the tune lies in the middle of
    a treble voice."""
    rhythm, metre, mode, form, *rest = text.split()
    repeats = parts_of(form)
    strains: list[list[Bar]] = []
    bar: list[tuple[int | None, int]] = []
    length = 0
    found = list[list[list[tuple[int | None, int]]]]()
    for word in rest:
        if word[0] == "n":
            found.append([])
        elif word[0] == "d":
            length = int(word[1:])
        elif word[0] == "p" or word == REST:
            bar.append((None if word == REST else int(word[1:]), length))
        elif word == BAR:
            found[-1].append(bar)
            bar = []
    relative = sorted(p for bars in found for one in bars for p, _ in one if p is not None)
    low = placed(tonic, relative[len(relative) // 2])
    strains = [
        [tuple(Note(None if p is None else low + p, t) for p, t in one) for one in bars]
        for bars in found
    ]
    count, unit = map(int, metre.split("/"))
    kept = tuple(Strain(tuple(bars), repeat) for bars, repeat in zip(strains, repeats, strict=True))
    return Tune(title, rhythm.replace("-", " "), (count, unit), tonic, mode, bpm, kept)


def placed(tonic: str, middle: int) -> int:
    """The pitch of the tonic with which a tune's median is nearest to B4."""
    lowest = 48 + tonic_class(tonic)
    return min((lowest, lowest + 12, lowest + 24), key=lambda low: abs(low + middle - 71))


# ---- the grammar ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a tune must be; None is the model's choice."""

    rhythm: str | None = None
    metre: str | None = None
    mode: str | None = None
    form: str | None = None
    bars: int | None = None  # of each strain


@dataclass
class Place:
    """Where in a tune a text stands."""

    stage: str = "rhythm"
    rhythm: str = ""
    mode: str = "major"
    whole: int = 0  # ticks of a bar
    repeats: tuple[bool, ...] = ()
    strain: int = -1
    bars: int = 0  # left of the strain, the one under way included
    upbeat: int = 0
    room: int = 0  # ticks left of the bar
    triplet: int = 0  # notes left of one
    length: int = 0

    @property
    def last_bar(self) -> bool:
        return self.bars == 1

    @property
    def last_strain(self) -> bool:
        return self.strain == len(self.repeats) - 1


def following(place: Place, wanted: Wanted) -> list[str]:
    """The words that may come next."""
    stage = place.stage
    if stage == "rhythm":
        fits = [r for r, (metres, _) in RHYTHMS.items() if wanted.metre in (None, *metres)]
        names = [wanted.rhythm] if wanted.rhythm else fits
        return [name.replace(" ", "-") for name in names]
    if stage == "metre":
        return [wanted.metre] if wanted.metre else list(RHYTHMS[place.rhythm][0])
    if stage == "mode":
        return [wanted.mode] if wanted.mode else list(MODES)
    if stage == "form":
        return [wanted.form] if wanted.form else list(FORMS)
    if stage == "bars":
        return [f"n{n}" for n in BARS if wanted.bars in (None, n)]
    if stage == "upbeat":
        return [f"u{u}" for u in UPBEATS if u < place.whole // 2]
    if stage == "length":
        return [f"d{d}" for d in LENGTHS if may_last(d, place)]
    if stage == "pitch":
        final = place.last_strain and place.last_bar and place.room == place.length
        if final:
            return [f"p{p}" for p in (-12, 0, 12)]
        return [REST, *(f"p{p}" for p in PITCHES if p % 12 in BORROWED[place.mode])]
    return [BAR] if stage == "line" else [EOS]


def may_last(length: int, place: Place) -> bool:
    """Whether a note of this length fits into the bar, and a triplet that it begins does."""
    if place.triplet:
        return length == place.length
    return length * (3 if length in TRIPLETS else 1) <= place.room


def after(place: Place, word: str) -> Place:
    """The place after a word that may follow."""
    p, stage = Place(**vars(place)), place.stage
    if stage == "rhythm":
        p.rhythm, p.stage = word.replace("-", " "), "metre"
    elif stage == "metre":
        count, unit = map(int, word.split("/"))
        p.whole, p.stage = bar_ticks((count, unit)), "mode"
    elif stage == "mode":
        p.mode, p.stage = word, "form"
    elif stage == "form":
        p.repeats, p.stage = tuple(parts_of(word)), "bars"
    elif stage == "bars":
        p.strain, p.bars, p.stage = p.strain + 1, int(word[1:]), "upbeat"
    elif stage == "upbeat":
        p.upbeat, p.stage = int(word[1:]), "length"
        p.room, p.bars = (p.upbeat, p.bars + 1) if p.upbeat else (room_of(p), p.bars)
    elif stage == "length":
        p.length, p.stage = int(word[1:]), "pitch"
        if p.length in TRIPLETS:
            p.triplet = (p.triplet or 3) - 1
    elif stage == "pitch":
        p.room -= p.length
        p.stage = "length" if p.room else "line"
    elif stage == "line":
        p.bars -= 1
        p.room = room_of(p)
        p.stage = "length" if p.bars else "end" if p.last_strain else "bars"
    else:
        p.stage = "ended"
    return p


def room_of(place: Place) -> int:
    """Ticks of the bar that begins: the last of a strain leaves the upbeat's to the next time."""
    return place.whole - place.upbeat if place.last_bar else place.whole


@dataclass
class Matcher:
    """A walk through the grammar, as the engine asks for one."""

    ids: Mapping[str, int]
    wanted: Wanted
    places: list[Place] = field(default_factory=lambda: [Place()])

    def __post_init__(self) -> None:
        self.names = {index: word for word, index in self.ids.items()}

    def allowed(self, vocabulary: int) -> Tensor:
        seen = torch.zeros(vocabulary, dtype=torch.bool)
        seen[[self.ids[word] for word in following(self.places[-1], self.wanted)]] = True
        return seen

    def mask(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~self.allowed(logits.shape[-1]).to(logits.device), float("-inf"))

    def accept(self, token: int) -> bool:
        """Go on; True when the tune is complete."""
        word = self.names.get(token, "")
        if word not in following(self.places[-1], self.wanted):
            raise DaedalError(f"the word {word!r} breaks the tune's grammar.")
        self.places.append(after(self.places[-1], word))
        return self.places[-1].stage == "ended"

    def fits(self, tokens: list[int]) -> int:
        walk = Matcher(self.ids, self.wanted, [self.places[-1]])
        for i, token in enumerate(tokens):
            if walk.names.get(token, "") not in following(walk.places[-1], self.wanted):
                return i
            walk.accept(token)
        return len(tokens)

    def rollback(self, count: int) -> None:
        del self.places[len(self.places) - count :]

    @property
    def complete(self) -> bool:
        return self.places[-1].stage in ("end", "ended")


@dataclass(frozen=True)
class Grammar:
    """The tunes that are wanted, as `SamplingParams.grammar`."""

    ids: Mapping[str, int]
    wanted: Wanted = Wanted()

    def matcher(self) -> Matcher:
        return Matcher(self.ids, self.wanted)


def legal(text: str, wanted: Wanted = Wanted()) -> bool:
    """Whether words are a whole tune of the grammar."""
    place = Place()
    for word in [*text.split(), EOS]:
        if word not in following(place, wanted):
            return False
        place = after(place, word)
    return place.stage == "ended"


# ---- what the house model learns from -------------------------------------------------------------


def learnable(rows: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """(split, words) of the rows of a table of ABC tunes that the grammar knows and a context
    holds. A tune that ends elsewhere than on its tonic, or has other notes than its mode, is let
    through: the grammar asks for them of what is written, and what is read may teach without."""
    for row in rows:
        try:
            tune = tidy(replace(abc.read(row["abc"]), rhythm=row["rhythm"] or ""))
        except DaedalError:
            continue
        if tune is None or "{}/{}".format(*tune.metre) not in METRES:
            continue
        text = text_of(tune)
        known = set(words()) >= set(text.split())
        if known and in_threes(text) and len(text.split()) < CONTEXT - 2:
            yield row["split"], text


def in_threes(text: str) -> bool:
    """Whether the text is the grammar's but for its pitches."""
    place = Place()
    for word in text.split():
        if place.stage != "pitch" and word not in following(place, Wanted()):
            return False
        place = after(place, word)
    return place.stage == "end"


def write(table: str, out: str) -> None:
    """train.jsonl, validation.jsonl and the tokenizer's folder, of tunes in the public domain."""
    import pyarrow.parquet as pq

    rows = [row for row in pq.read_table(table).to_pylist() if "public domain" in row["license"]]
    folder = Path(out)
    tokenizer().save(folder / "tokenizer")
    found = list(learnable(rows))
    for split, name in (("train", "train"), ("val", "validation")):
        lines = [json.dumps({"text": text}) for which, text in found if which == split]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{name}: {len(lines)} tunes")


if __name__ == "__main__":
    write(*sys.argv[1:3])
