"""Tunes on paper: keys and spelling, ABC both ways, MIDI as others read it, engraving, sound."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from daedal.errors import DaedalError
from daedal.media import abc, engrave, midi, synth
from daedal.media.score import Note, beat_of, signature, spelled, tonic_class

JIG = """X:1
T:A jig
R:jig
M:6/8
L:1/8
Q:3/8=120
K:D
|: A | "D"d>ef {g}(fed) | (3efe d ^cBA | =c2 B A2- A | d3 d2 :|
|: f/g/ | agf edc | [1 d3 d2 :|[2 A6 |]
"""


def test_reading_abc():
    tune = abc.read(JIG)
    assert (tune.title, tune.metre, tune.tonic, tune.mode, tune.bpm) == (
        "A jig",
        (6, 8),
        "D",
        "major",
        120,
    )
    first, second = tune.strains
    assert first.repeated and [len(s.bars) for s in tune.strains] == [5, 3]
    assert first.bars[0] == (Note(69, 12),)
    assert [n.pitch for n in first.bars[1]] == [74, 76, 78, 78, 76, 74]  # F is sharp in D
    assert [n.ticks for n in first.bars[1]] == [18, 6, 12, 12, 12, 12]  # a broken rhythm
    assert [n.ticks for n in first.bars[2][:3]] == [8, 8, 8]
    assert first.bars[3][0].pitch == 72 and first.bars[3][-1].ticks == 36  # natural; tied
    assert [n.ticks for n in second.bars[0]] == [6, 6] and second.repeated
    assert tune.seconds == pytest.approx(sum(n.ticks for n in tune.played()) / 36 / 2)
    for text, sentence in (
        ("K:H\nabc", "'H'"),
        ("M:6-8\nK:C\nabc", "6-8"),
        ("K:C\na ? b", r"\? b"),
    ):
        with pytest.raises(DaedalError, match=sentence):
            abc.read(text)


def test_abc_both_ways():
    tune = abc.read(JIG)
    assert abc.read(abc.write(tune)).strains == tune.strains


@pytest.mark.parametrize(
    "tonic,mode,sharps",
    [("D", "major", 2), ("Bb", "major", -2), ("F#", "minor", 3), ("E", "dorian", 2), ("G", "mixolydian", 0)],
)  # fmt: skip
def test_keys(tonic, mode, sharps):
    assert sum(signature(tonic, mode).values()) == sharps
    letter, change, octave = spelled(60 + tonic_class(tonic), tonic, mode)
    assert letter + {1: "#", -1: "b", 0: ""}[change] == tonic and octave == 4
    assert spelled(61, "D", "major") == ("C", 1, 4) and spelled(70, "F", "major") == ("B", -1, 4)
    assert (beat_of((6, 8)), beat_of((3, 8)), beat_of((2, 2)), beat_of((4, 4))) == (36, 12, 48, 24)


def test_midi_is_read_by_others():
    mido = pytest.importorskip("mido")
    import io

    tune = abc.read(JIG)
    file = mido.MidiFile(file=io.BytesIO(midi.write(tune, 40)))
    played = [m for m in file.tracks[0] if m.type == "note_on"]
    assert [m.note for m in played] == [n.pitch for n in tune.played()]
    assert file.length == pytest.approx(tune.seconds, rel=1e-4)
    about = {m.type: m for m in file.tracks[0] if m.is_meta}
    assert about["key_signature"].key == "D" and about["time_signature"].numerator == 6


def test_engraved():
    tree = ElementTree.fromstring(engrave.engrave(abc.read(JIG)))
    heads = [e for e in tree if e.tag.endswith("ellipse")]
    assert len(heads) == sum(len(bar) for s in abc.read(JIG).strains for bar in s.bars)


@pytest.mark.parametrize("instrument", sorted(synth.INSTRUMENTS))
def test_instruments_are_in_tune(instrument):
    """The strongest partial near the fundamental stands where the pitch is, within 10 cents; nothing
    clips, and the sound ends."""
    sound = synth.tone(synth.INSTRUMENTS[instrument], 69, 1.0)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 18))
    hz = np.fft.rfftfreq(1 << 18, 1 / synth.RATE)
    near = (hz > 380) & (hz < 510)
    peak = hz[near][spectrum[near].argmax()]
    assert abs(1200 * np.log2(peak / 440)) < 10
    assert np.abs(sound).max() <= 1 and np.abs(sound[-10:]).max() < 1e-3
    assert len(synth.render(abc.read(JIG), instrument)) / synth.RATE == pytest.approx(
        abc.read(JIG).seconds + synth.TAIL, abs=0.01
    )
