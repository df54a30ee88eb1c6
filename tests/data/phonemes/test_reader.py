"""Sentences with their phonemes: cuts, marks, heteronyms, and what a voice is given."""

import pytest

from daedal import checkpoints
from daedal.data.phonemes import align, arpabet, heteronyms, ipa
from daedal.data.phonemes.reader import LONGEST, Reader
from daedal.data.phonemes.speller import Speller, read_lexicon, write_lexicon
from daedal.data.phonemes.symbols import Letters, Phonemes, symbols_of
from daedal.errors import DaedalError

READINGS = {
    "cat": "K AE1 T",
    "the": "DH AH0",
    "water": "W AO1 T ER0",
    "apple": "AE1 P AH0 L",
    "smith": "S M IH1 TH",
    "x": "EH1 K S",
    "wanted": "W AA1 N T AH0 D",
    "hello": "HH AH0 L OW1",
    "world": "W ER1 L D",
    "to": "T UW1",
    "anna": "AE1 N AH0",
    "bus": "B AH1 S",
}


class Known:
    """A speller that knows a few words and says X for all others."""

    known = {word: tuple(reading.split()) for word, reading in READINGS.items()}

    def __call__(self, word):
        return self.known.get(word, ("EH1", "K", "S"))


@pytest.fixture
def reader():
    return Reader(Known())


def said(reader, text):
    return [" ".join(word.text for word in s.words) for s in reader.sentences(text)]


def test_text_is_cut_at_its_sentences(reader):
    text = 'Dr. Smith met J. Smith. "Why?" he said. It was 3.5 km... and on.\n\nThe end'
    assert [s.text for s in reader.sentences(text)] == [
        "Dr. Smith met J. Smith.",
        '"Why?" he said.',
        "It was 3.5 km... and on.",
        "The end",
    ]
    pauses = [s.pause for s in reader.sentences(text)]
    assert pauses[2] > pauses[0] == pauses[1]


def test_long_sentences_are_cut_at_a_comma(reader):
    text = ", ".join(["the cat and the other cat of the house"] * 40) + "."
    made = [s.text for s in reader.sentences(text)]
    assert all(len(each) <= LONGEST for each in made) and len(made) > 4
    assert " ".join(made) == text and all(each.endswith(",") for each in made[:-1])


def test_marks_are_pauses_and_emphasis_and_are_not_read(reader):
    first, _ = reader.sentences("The *cat and* world. [pause 1.5s] Hello 3*4.")
    assert [w.text for w in first.words if w.emphasised] == ["cat", "and"]
    assert first.pause == 1.5 and "*" not in first.text
    assert "pause" not in said(reader, "A cat [pause 200ms] a cat.")[0]
    with pytest.raises(DaedalError, match="longer than 60 s"):
        list(reader.sentences("a [pause 90s] b"))


def test_possessives_and_letters(reader):
    words = {
        w.text: w.reading for s in reader.sentences("I saw Smith's bus's BBC") for w in s.words
    }
    assert words["smith's"][-1] == "S" and words["bus's"][-2:] == ("IH0", "Z")
    assert words["B"] == ("B", "IY1") and words["C"] == ("S", "IY1") and "i" in words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no text"),
        (" \n", "no text"),
        ("привет", "Cyrillic"),
        ("...", "no word"),
        ("日本", "Cjk"),
    ],
)
def test_what_cannot_be_read_is_said(reader, text, word):
    with pytest.raises(DaedalError, match=word):
        list(reader.sentences(text))


@pytest.mark.parametrize(
    ("sentence", "word", "phonemes"),
    [
        ("i will read it", "read", "R IY1 D"),
        ("he had read it", "read", "R EH1 D"),
        ("i read it yesterday", "read", "R EH1 D"),
        ("she read it", "read", "R EH1 D"),
        ("to record it", "record", "R IH0 K AO1 R D"),
        ("a new record", "record", "R EH1 K ER0 D"),
        ("they live here", "live", "L IH1 V"),
        ("a live wire", "live", "L AY1 V"),
        ("the lead pipe", "lead", "L EH1 D"),
        ("they lead us", "lead", "L IY1 D"),
        ("please close it", "close", "K L OW1 Z"),
        ("it was close", "close", "K L OW1 S"),
        ("the use of it", "use", "Y UW1 S"),
        ("we use it", "use", "Y UW1 Z"),
        ("they object", "object", "AH0 B JH EH1 K T"),
        ("an object", "object", "AA1 B JH EH0 K T"),
        ("do not present it", "present", "P R IH0 Z EH1 N T"),
    ],
)
def test_heteronyms_follow_their_context(sentence, word, phonemes):
    words = sentence.split()
    assert heteronyms.reading(words, words.index(word)) == tuple(phonemes.split())
    assert heteronyms.reading(["the", "cat"], 1) is None


def test_every_reading_in_the_tables_is_arpabet():
    parts = [vars(form).values() for form in heteronyms.TABLE.values()]
    for reading in filter(None, [each for values in parts for each in values]):
        assert set(reading.split()) <= set(arpabet.PHONEMES), reading


def test_phonemes_become_those_of_voices():
    spelt = {word: ipa.ipa(tuple(READINGS[word].split())) for word in READINGS}
    assert spelt["hello"] == "həlˈoʊ" and spelt["world"] == "wˈɜːld"
    assert spelt["water"] == "wˈɔːɾɚ" and spelt["cat"] == "kˈæt"
    assert ipa.in_sentence("the", ("DH", "AH0"), "ˈæpəl") == "ðɪ"
    assert ipa.in_sentence("the", ("DH", "AH0"), "kˈæt") == "ðə"


def test_tokens_know_their_words(reader):
    about = {"phoneme_id_map": {c: [i] for i, c in enumerate("_^$ .,kætðəwɔːɾɚˈ")}}
    (sentence,) = reader.sentences("the water, cat")
    tokens = symbols_of(about)(sentence.words)
    names = list(about["phoneme_id_map"])
    assert "".join(names[i] for i in tokens.ids if i) == "^ðə wˈɔːɾɚ, kˈæt.$"
    assert [names[i] for i in tokens.ids[:3]] == ["^", "_", "ð"] and names[tokens.ids[-1]] == "$"
    owned = {
        w: "".join(names[i] for i, o in zip(tokens.ids, tokens.words, strict=True) if o == w and i)
        for w in (0, 1, 3)
    }
    assert owned == {0: "ðə", 1: "wˈɔːɾɚ", 3: "kˈæt"}
    letters = Letters({"_": 0, "t": 1, "h": 2, "e": 3, " ": 4, "c": 5, "a": 6})
    assert letters(sentence.words[:1]).ids == (0, 1, 0, 2, 0, 3, 0)
    with pytest.raises(DaedalError, match="en-us"):
        symbols_of(about | {"espeak": {"voice": "de"}})
    assert isinstance(symbols_of(about | {"espeak": {"voice": "en-gb"}}), Phonemes)


def test_letters_are_aligned_with_phonemes():
    words = {
        "mix": "M IH1 K S",
        "six": "S IH1 K S",
        "sit": "S IH1 T",
        "mist": "M IH1 S T",
        "knit": "N IH1 T",
        "kit": "K IH1 T",
        "kin": "K IH1 N",
        "tin": "T IH1 N",
    }
    pairs = [(word, tuple(reading.split())) for word, reading in words.items()]
    paths = align.aligned(pairs)
    for (word, reading), path in paths.items():
        assert len(path) == len(word) and sum(path, ()) == reading
    assert paths[pairs[5]] == (("K",), ("IH1",), ("T",)) and paths[pairs[2]][0] == ("S",)
    assert align.best("a", ("AA1", "B", "D"), {}) is None


def test_a_lexicon_is_read_as_it_was_written(tmp_path):
    readings = {word: tuple(reading.split()) for word, reading in READINGS.items()}
    readings |= {"'tis": ("T", "IH1", "Z"), "waters": ("W", "AO1", "T", "ER0", "Z")}
    write_lexicon(tmp_path / "lexicon", readings)
    assert read_lexicon(tmp_path / "lexicon") == readings


def test_dictionaries_are_read(tmp_path):
    file = tmp_path / "d.dict"
    file.write_text(
        ";;; comment\nREAD R EH1 D # past\nread(2) R IY1 D\na.b. EY1 B IY1\n'tis T IH1 Z\n"
    )
    found = arpabet.read_dictionary(file)
    assert found == {"read": [("R", "EH1", "D"), ("R", "IY1", "D")], "'tis": [("T", "IH1", "Z")]}
    assert arpabet.unstressed(("R", "EH1", "D")) == ("R", "EH", "D")
    with pytest.raises(DaedalError, match=r"cmudict\.dict"):
        arpabet.read_dictionary(tmp_path / "none")


def test_the_house_spells_words_it_was_never_given():
    speller = Speller.load(checkpoints.resolve("house/phonemes"))
    assert speller("lighthouse")[:3] == ("L", "AY1", "T")
    made = speller.spell(["blonkers", "zebb"])
    assert made["blonkers"][0] == "B" and made["blonkers"] == speller("blonkers")
    assert made == speller.spell(["zebb", "blonkers"])
