"""What letters to phonemes get right, of words of a pronouncing dictionary that were kept out of the
training, without the lexicon and against the nearest of a word's readings."""

from daedal.data.phonemes.arpabet import read_dictionary
from daedal.data.phonemes.speller import Speller
from daedal.evals.measured import Report, plain, share
from daedal.pipelines.place import located
from daedal.train.phonemes import is_held_out, scores

ONE_IN = 20  # words, held out by recipes/voice/phonemes.yaml


def evaluate(name: str, dictionary: str) -> Report:
    """Shares of held-out words with all phonemes right, with and without stress."""
    readings = read_dictionary(dictionary)
    words = [word for word in readings if is_held_out(word, ONE_IN)]
    found, n = scores(Speller.load(located(name)).spell(words), readings), len(words)
    held = {
        "words": share(round(found["words_right"] * n), n),
        "stress": share(round(found["words_right_with_stress"] * n), n),
    }
    lines = [f"held out   {key:<12} {value}" for key, value in held.items()]
    lines.append(f"held out   phonemes     {found['phoneme_error']:.4f} wrong")
    values = plain({"held_out": held}) | {"phoneme_error": found["phoneme_error"]}
    return Report(values, lines)
