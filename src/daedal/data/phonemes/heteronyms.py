"""Words of one spelling and two readings, told apart by the words about them: "I read it yesterday",
"to read", "a live wire". The rules are few and look at most three words back; where they are
silent, the commoner reading holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from daedal.data.phonemes.arpabet import Reading

DETERMINERS = frozenset(["a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "my", "your", "our", "their", "no", "any", "each", "every", "some", "another", "which", "whose", "first", "last", "next", "new", "old", "good", "great", "little", "small", "own", "by", "for", "of", "in", "on", "with"])  # fmt: skip
MARKERS = frozenset(["to", "will", "would", "can", "could", "shall", "should", "may", "might", "must", "do", "does", "did", "don't", "doesn't", "didn't", "can't", "cannot", "won't", "let", "let's", "i", "we", "you", "they", "who'll", "i'll", "we'll", "you'll", "they'll", "not", "never", "please", "help"])  # fmt: skip
PERFECT = frozenset(["have", "has", "had", "having", "was", "were", "been", "be", "being", "is", "are", "i've", "we've", "you've", "they've", "he'd", "she'd", "they'd", "i'd", "had", "been"])  # fmt: skip
ADVERBS = frozenset(
    [
        "not",
        "never",
        "always",
        "often",
        "just",
        "also",
        "then",
        "only",
        "ever",
        "already",
        "quickly",
        "slowly",
        "soon",
        "still",
    ]
)
PAST = frozenset(["yesterday", "ago", "last", "once", "before", "when", "then", "had"])


@dataclass(frozen=True)
class Heteronym:
    """The reading that is usual, and others by what they are: a verb, a past form, a noun."""

    usual: str
    verb: str = ""
    past: str = ""
    noun: str = ""


def stress(first: str, second: str) -> Heteronym:
    """A noun with its stress in front, a verb with its stress behind."""
    return Heteronym(first, verb=second)


TABLE = {
    "read": Heteronym("R IY1 D", past="R EH1 D"), "lead": Heteronym("L IY1 D", noun="L EH1 D"),
    "live": Heteronym("L IH1 V", noun="L AY1 V"), "lives": Heteronym("L IH1 V Z", noun="L AY1 V Z"),
    "wind": Heteronym("W IH1 N D", verb="W AY1 N D"), "winds": Heteronym("W IH1 N D Z"), "wound": Heteronym("W UW1 N D", verb="W UW1 N D"),
    "tear": Heteronym("T EH1 R", noun="T IH1 R"), "tears": Heteronym("T IH1 R Z"), "bow": Heteronym("B AW1", noun="B OW1"),
    "row": Heteronym("R OW1"), "sow": Heteronym("S OW1"), "bass": Heteronym("B EY1 S"), "does": Heteronym("D AH1 Z"),
    "close": Heteronym("K L OW1 S", verb="K L OW1 Z"), "use": Heteronym("Y UW1 Z", noun="Y UW1 S"), "house": Heteronym("HH AW1 S"),
    "excuse": Heteronym("IH0 K S K Y UW1 Z", noun="IH0 K S K Y UW1 S"), "abuse": Heteronym("AH0 B Y UW1 S", verb="AH0 B Y UW1 Z"),
    "minute": Heteronym("M IH1 N AH0 T"), "polish": Heteronym("P AA1 L IH0 SH"), "dove": Heteronym("D AH1 V"), "desert": stress("D EH1 Z ER0 T", "D IH0 Z ER1 T"),
    "record": stress("R EH1 K ER0 D", "R IH0 K AO1 R D"), "present": stress("P R EH1 Z AH0 N T", "P R IH0 Z EH1 N T"),
    "object": stress("AA1 B JH EH0 K T", "AH0 B JH EH1 K T"), "project": stress("P R AA1 JH EH0 K T", "P R AH0 JH EH1 K T"),
    "permit": stress("P ER1 M IH2 T", "P ER0 M IH1 T"), "conduct": stress("K AA1 N D AH0 K T", "K AH0 N D AH1 K T"),
    "contract": stress("K AA1 N T R AE2 K T", "K AH0 N T R AE1 K T"), "contest": stress("K AA1 N T EH0 S T", "K AH0 N T EH1 S T"),
    "content": Heteronym("K AH0 N T EH1 N T", noun="K AA1 N T EH0 N T"), "produce": Heteronym("P R AH0 D UW1 S", noun="P R OW1 D UW0 S"),
    "progress": stress("P R AA1 G R EH2 S", "P R AH0 G R EH1 S"), "rebel": stress("R EH1 B AH0 L", "R IH0 B EH1 L"),
    "refuse": Heteronym("R AH0 F Y UW1 Z", noun="R EH1 F Y UW2 Z"), "subject": stress("S AH1 B JH IH0 K T", "S AH0 B JH EH1 K T"),
    "suspect": Heteronym("S AH0 S P EH1 K T", noun="S AH1 S P EH2 K T"), "increase": stress("IH1 N K R IY2 S", "IH0 N K R IY1 S"),
    "decrease": stress("D IY1 K R IY2 S", "D IH0 K R IY1 S"), "import": stress("IH1 M P AO2 R T", "IH0 M P AO1 R T"),
    "export": stress("EH1 K S P AO0 R T", "IH0 K S P AO1 R T"), "insult": stress("IH1 N S AH2 L T", "IH0 N S AH1 L T"),
    "conflict": stress("K AA1 N F L IH0 K T", "K AH0 N F L IH1 K T"), "extract": stress("EH1 K S T R AE2 K T", "IH0 K S T R AE1 K T"),
    "perfect": stress("P ER1 F IH2 K T", "P ER0 F EH1 K T"), "separate": stress("S EH1 P ER0 IH0 T", "S EH1 P ER0 EY2 T"),
    "estimate": stress("EH1 S T AH0 M AH0 T", "EH1 S T AH0 M EY2 T"), "advocate": stress("AE1 D V AH0 K AH0 T", "AE1 D V AH0 K EY2 T"),
    "graduate": stress("G R AE1 JH AH0 W AH0 T", "G R AE1 JH AH0 W EY2 T"), "moderate": stress("M AA1 D ER0 AH0 T", "M AA1 D ER0 EY2 T"),
    "alternate": stress("AO1 L T ER0 N AH0 T", "AO1 L T ER0 N EY2 T"), "deliberate": stress("D IH0 L IH1 B ER0 AH0 T", "D IH0 L IH1 B ER0 EY2 T"),
    "appropriate": stress("AH0 P R OW1 P R IY0 AH0 T", "AH0 P R OW1 P R IY0 EY2 T"), "duplicate": stress("D UW1 P L AH0 K AH0 T", "D UW1 P L AH0 K EY2 T"),
    "elaborate": stress("IH0 L AE1 B R AH0 T", "IH0 L AE1 B ER0 EY2 T"), "associate": stress("AH0 S OW1 SH IY0 AH0 T", "AH0 S OW1 SH IY0 EY2 T"),
    "attribute": stress("AE1 T R AH0 B Y UW2 T", "AH0 T R IH1 B Y UW0 T"), "convert": stress("K AA1 N V ER0 T", "K AH0 N V ER1 T"),
    "convict": stress("K AA1 N V IH0 K T", "K AH0 N V IH1 K T"), "digest": stress("D AY1 JH EH0 S T", "D AY0 JH EH1 S T"),
    "escort": stress("EH1 S K AO0 R T", "EH0 S K AO1 R T"), "exploit": stress("EH1 K S P L OY2 T", "EH2 K S P L OY1 T"),
    "protest": stress("P R OW1 T EH2 S T", "P R AH0 T EH1 S T"), "survey": stress("S ER1 V EY2", "S ER0 V EY1"),
    "torment": stress("T AO1 R M EH2 N T", "T AO0 R M EH1 N T"), "transport": stress("T R AE1 N S P AO0 R T", "T R AE0 N S P AO1 R T"),
    "upset": Heteronym("AH0 P S EH1 T"), "invalid": Heteronym("IH1 N V AH0 L AH0 D"), "entrance": Heteronym("EH1 N T R AH0 N S"), "august": Heteronym("AO1 G AH0 S T"),
    "compound": stress("K AA1 M P AW0 N D", "K AH0 M P AW1 N D"), "contrast": stress("K AA1 N T R AE2 S T", "K AH0 N T R AE1 S T"),
    "intimate": Heteronym("IH1 N T AH0 M AH0 T", verb="IH1 N T AH0 M EY2 T"), "moped": Heteronym("M OW1 P T"), "resume": Heteronym("R IH0 Z UW1 M"),
}  # fmt: skip


def reading(words: Sequence[str], i: int) -> Reading | None:
    """The reading of words[i] (lower case) where it has several; None of other words."""
    form = TABLE.get(words[i])
    if form is None:
        return None
    return tuple((getattr(form, part_of_speech(form, words, i)) or form.usual).split())


def part_of_speech(form: Heteronym, words: Sequence[str], i: int) -> str:
    """ "verb", "past", "noun" or "usual", by the nearest word in front that tells."""
    before = [word for word in words[max(0, i - 3) : i] if word not in ADVERBS]
    last = before[-1] if before else ""
    if form.past and (last in PERFECT or (last not in MARKERS - SUBJECTS and past_about(words, i))):
        return "past"
    if last in MARKERS:
        return "verb"
    if last in DETERMINERS or last.endswith("'s"):
        return "noun"
    return "usual"


SUBJECTS = frozenset(["i", "we", "you", "they"])


def past_about(words: Sequence[str], i: int) -> bool:
    """Whether the sentence is of the past: a word that says so, or a subject in the third person in
    front of a form without its s."""
    near = words[max(0, i - 8) : i + 12]
    return bool(PAST & set(near)) or (i > 0 and words[i - 1] in ("he", "she", "it"))
