"""ARPAbet to the phonemes that open voices of English were trained with: IPA as espeak writes
American English, its stress marks in front of the vowel, with its reduced function words. The table
is our own; espeak is not used."""

from daedal.data.phonemes.arpabet import Reading, is_vowel

PLAIN = {
    "AA": "ɑː", "AE": "æ", "AO": "ɔː", "AW": "aʊ", "AY": "aɪ", "EH": "ɛ", "EY": "eɪ", "IH": "ɪ", "IY": "iː", "OW": "oʊ", "OY": "ɔɪ", "UH": "ʊ", "UW": "uː",
    "B": "b", "CH": "tʃ", "D": "d", "DH": "ð", "F": "f", "G": "ɡ", "HH": "h", "JH": "dʒ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ", "P": "p",
    "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
# as they sound within a sentence
REDUCED = {
    "a": "ɐ", "an": "ɐn", "the": "ðə", "and": "ænd", "of": "ʌv", "to": "tə", "in": "ɪn", "is": "ɪz", "was": "wʌz", "for": "fɔːɹ", "that": "ðæt", "with": "wɪð",
    "he": "hiː", "it": "ɪt", "you": "juː", "as": "æz", "at": "æt", "on": "ɔn", "be": "biː", "his": "hɪz", "her": "hɜː", "had": "hæd", "have": "hæv", "are": "ɑːɹ",
    "but": "bʌt", "not": "nˌɑːt", "from": "fɹʌm", "they": "ðeɪ", "she": "ʃiː", "we": "wiː", "were": "wɜː", "this": "ðɪs", "which": "wˌɪtʃ", "him": "hˌɪm",
    "would": "wʊd", "what": "wˌʌt", "there": "ðɛɹ", "my": "maɪ", "their": "ðɛɹ", "been": "bˌɪn", "or": "ɔːɹ", "so": "sˌoʊ", "if": "ɪf", "up": "ˌʌp", "when": "wˌɛn",
    "who": "hˌuː", "your": "jʊɹ", "me": "mˌiː", "them": "ðˌɛm", "into": "ˌɪntʊ", "by": "baɪ", "will": "wɪl", "has": "hɐz", "than": "ðɐn", "can": "kæn", "could": "kʊd",
    "should": "ʃˌʊd", "our": "ˌaʊɚ", "its": "ɪts", "us": "ˌʌs", "i": "aɪ", "i'm": "aɪm", "some": "sˌʌm", "must": "mˈʌst", "do": "dˈuː", "did": "dˈɪd", "am": "æm",
}  # fmt: skip
MARKS = {"1": "ˈ", "2": "ˌ", "0": ""}


def ipa(reading: Reading) -> str:
    """A word's phonemes."""
    return "".join(_phoneme(reading, i) for i in range(len(reading)))


def _phoneme(reading: Reading, i: int) -> str:
    phoneme, after = reading[i], reading[i + 1] if i + 1 < len(reading) else ""
    if not is_vowel(phoneme):
        return "ɾ" if phoneme == "T" and _taps(reading, i) else PLAIN[phoneme]
    name, stress = phoneme[:-1], phoneme[-1]
    return MARKS[stress] + _vowel(name, stress, after, reading, i)


def _vowel(name: str, stress: str, after: str, reading: Reading, i: int) -> str:
    if name == "AH":
        return "ʌ" if stress != "0" else "ɐ" if i == 0 and len(reading) > 1 else "ə"
    if name == "ER":
        sound = "ɚ" if stress == "0" else "ɜː"
        return sound + "ɹ" if after and is_vowel(after) else sound
    if name == "IY" and after == "R":
        return "ɪ"
    if name == "IY" and stress == "0":
        return "i"
    if name == "UW" and after == "R":
        return "ʊ"
    if name == "IH" and stress == "0" and after in ("D", "Z") and i == len(reading) - 2:
        return "ᵻ"  # wanted, roses
    return PLAIN[name]


def _taps(reading: Reading, i: int) -> bool:
    """Between a vowel (or r) and an unstressed vowel, t is tapped: water, city."""
    if not 0 < i < len(reading) - 1:
        return False
    before, after = reading[i - 1], reading[i + 1]
    return (is_vowel(before) or before == "R") and is_vowel(after) and after[-1] == "0"


def in_sentence(word: str, reading: Reading, following: str) -> str:
    """A word's phonemes within a sentence; `following` are those of the next word."""
    begins = following.lstrip("ˈˌ")[:1]
    if word in ("the", "to") and begins and begins in "aeiouæɐɑɔəɚɛɜɪʊʌᵻ":
        return "ðɪ" if word == "the" else "tʊ"
    return REDUCED.get(word) or ipa(reading)
