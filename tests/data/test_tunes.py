"""Tunes as words, captions, and the grammar that drawn tunes keep to."""

import random

import pytest

from daedal.data.tune_captions import read
from daedal.data.tunes import (
    EOS,
    FORMS,
    METRES,
    RHYTHMS,
    Grammar,
    Place,
    Wanted,
    after,
    following,
    form_of,
    legal,
    text_of,
    tidy,
    tokenizer,
    tune_of,
)
from daedal.errors import DaedalError
from daedal.media import abc
from daedal.media.score import bar_ticks
from tests.media.test_score import JIG


def drawn(wanted, seed):
    """Words drawn evenly from what may follow."""
    draw, place, out = random.Random(seed), Place(), []
    while place.stage != "ended":
        word = draw.choice(following(place, wanted))
        out.append(word)
        place = after(place, word)
    return " ".join(out[:-1])


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_drawn_is_a_legal_tune(seed):
    """Its bars sum to the metre, it has the form, it ends on the tonic, ABC carries it whole."""
    rhythm = random.Random(seed).choice(list(RHYTHMS))
    wanted = Wanted(rhythm, RHYTHMS[rhythm][0][0], "minor", FORMS[seed % len(FORMS)], 4)
    text = drawn(wanted, seed)
    tune = tune_of(text, "E", 100)
    assert legal(text, wanted) and form_of(tune.strains) == wanted.form
    whole = bar_ticks(tune.metre)
    for strain in tune.strains:
        lengths = [sum(note.ticks for note in bar) for bar in strain.bars]
        upbeat = lengths[0] if lengths[0] < whole and len(lengths) == 5 else 0
        assert all(length == whole for length in lengths[bool(upbeat) : -1])
        assert lengths[-1] == whole - upbeat
    last = tune.strains[-1].bars[-1][-1]
    assert last.pitch % 12 == 4
    assert abc.read(abc.write(tune)).strains == tune.strains
    words = text.split()
    assert not legal(" ".join(words[:-1])) and not legal(" ".join([*words[:9], *words[10:]]))


def test_words_and_back():
    tune = tidy(abc.read(JIG))
    text = text_of(tune)
    assert text.startswith("jig 6/8 major AABB n4 u12 d12 p7 |") and "d8 p14" in text
    back = tune_of(text, "D", 112)
    assert [n.ticks for n in back.played()] == [n.ticks for n in tune.played()]
    moved = tune_of(text, "F", 112)
    assert {(a.pitch - b.pitch) for a, b in zip(moved.played(), back.played(), strict=True)} <= {
        3,
        -9,
    }


def test_the_engines_matcher():
    tok = tokenizer()
    ids = tok.backend.get_vocab()
    matcher = Grammar(ids, Wanted("jig", None, "major")).matcher()
    assert matcher.allowed(tok.vocab_size).nonzero().flatten().tolist() == [ids["jig"]]
    words = [ids[w] for w in ["jig", "6/8", "major", "AABB", "n8", "u0", "d72"]]
    assert matcher.fits(words) == 7
    assert matcher.fits([*words, ids["p0"], ids["d12"]]) == 8  # the bar is full
    matcher.accept(ids["jig"])
    with pytest.raises(DaedalError, match="breaks the tune's grammar"):
        matcher.accept(ids["9/8"])
    matcher.accept(ids["6/8"])
    matcher.rollback(2)
    assert matcher.places[-1].stage == "rhythm" and not matcher.complete
    assert tok.decode([ids["jig"], ids["6/8"], ids[EOS]]).split() == ["jig", "6/8"]


def test_captions():
    said = read("A lively jig in D major for fiddle, 120 bpm, 16 bars")
    assert (said.rhythm, said.tonic, said.mode, said.bpm, said.bars, said.instrument) == (
        "jig",
        "D",
        "major",
        120,
        16,
        "fiddle",
    )
    assert said.pace > 1 and said.metre is None
    assert read("slip jigs in F sharp minor").rhythm == "slip jig"
    assert read("slip jigs in F sharp minor").tonic == "F#"
    assert read("a sad slow air for the flute").mode == "minor"
    assert read("a waltz in Bb, 3/4, AABB").tonic == "Bb"
    assert read("three part reel, 2/2").form == "AABBCC" and read("a reel, 2/2").metre == "2/2"
    assert read("something else").rhythm is None
    assert all(m in METRES for metres, _ in RHYTHMS.values() for m in metres)
