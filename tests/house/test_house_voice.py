"""The bundled voice and letters to phonemes: present, small, licensed, and they say what they are
given."""

import numpy as np

import daedal
from daedal.checkpoints.resolve import HOUSE
from daedal.data.phonemes.speller import FILE, Speller


def test_files():
    voice, phonemes = HOUSE / "voice", HOUSE / "phonemes"
    assert sum(file.stat().st_size for file in voice.glob("*.safetensors")) <= 10e6
    sizes = [file.stat().st_size for file in (*phonemes.glob("*.safetensors"), phonemes / FILE)]
    assert sum(sizes) <= 1.5e6
    for folder, words in (
        (voice, ("CC0", "lessac", "word error", "Limits")),
        (phonemes, ("CMU", "BSD", "held-out", "Limits")),
    ):
        card = (folder / "README.md").read_text()
        assert "Licence" in card and all(word in card for word in words)


def test_common_words_are_read_right():
    speller = Speller.load(HOUSE / "phonemes")
    right = {
        "through": "TH R UW1",
        "enough": "IH0 N AH1 F",
        "island": "AY1 L AH0 N D",
        "colonel": "K ER1 N AH0 L",
        "one": "W AH1 N",
        "women": "W IH1 M AH0 N",
        "knife": "N AY1 F",
        "people": "P IY1 P AH0 L",
    }
    assert {word: " ".join(speller(word)) for word in right} == right


def test_it_speaks_at_a_voices_pace():
    voice = daedal.load("house/voice")
    speech = voice("She had never seen so many people in one place before.", noise=0)
    per_second = len(speech.words) / speech.seconds
    assert 2 < per_second < 5
    assert 0.01 < np.sqrt((speech.samples**2).mean()) < 0.3
