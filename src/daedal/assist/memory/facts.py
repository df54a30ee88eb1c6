"""Facts that a person says of themselves, found in what they wrote, by rule: who they are, where
they live, what is theirs, what they like, what they ask to have remembered or forgotten.

    facts_in("My name is Pim, and I live in Oslo.")    # name = Pim, home = Oslo
    forgotten_in("Please forget my address.")          # 'address'

A fact has a key that it is known by, so that a later one of the same key takes its place. Questions
say nothing, and what is quoted or was written by anybody else is not read at all."""

import re
from dataclasses import dataclass

CLAUSE = re.compile(
    r"(?<=[.!?;])\s+|\n+|,?\s+(?:and|but)\s+(?=I\b|I'|my\b|we\b)|,\s+(?=I\b|I'|my\b)", re.IGNORECASE
)
END = r"(?=\s*(?:[.,;!?]|$|\s(?:because|since|so|when|while|if|with my|for my|these days|at the moment|right now|now|by the way|for \w+ (?:years?|months?|weeks?|days?)|last (?:year|month|week|summer|winter|spring))\b))"
VALUE = rf"(?P<value>[^.,;!?\n]+?){END}"
AM = r"(?:I am|I'm|I’m)"
LEAD = r"(?:^|\b(?:actually|well|oh|yes|no|hi|hello|sorry|by the way|you know|correction)[,:]?\s+)"
RULES = tuple(
    (key, re.compile(pattern, re.IGNORECASE), confidence)
    for key, pattern, confidence in (
        ("name", rf"\b(?:{AM} called|(?:please )?call me|people call me) {VALUE}", 0.9),
        ("name", rf"\b{AM} (?P<value>(?-i:[A-Z][a-z]+(?: [A-Z][a-z]+)?))(?=[,.!]|$)", 0.7),
        ("home", rf"\b(?:for|to|in) {VALUE}.{{0,40}}\bwhere (?:I|we) live\b", 0.8),
        ("home", rf"\b(?:I|we) (?:have|own|rent) (?:our|an?|my) (?:house|flat|home|apartment|room) (?:in|at|near|on) {VALUE}", 0.8),
        ("home", rf"\bwe (?:now )?live (?:in|at|near|on) {VALUE}", 0.8),
        ("home", rf"\bI(?: have|'ve) been living (?:in|at|near|on) {VALUE}", 0.9),
        ("birthday", rf"\bI was born on {VALUE}", 0.9),
        ("origin", rf"\bI was born in {VALUE}", 0.8),
        ("job", rf"\bI (?:earn|make) (?:my|a) living as (?:an? )?{VALUE}", 0.9),
        ("allergy", rf"\b(?:I have|I've got) an? (?:\w+ )?allergy to {VALUE}", 0.9),
        ("home", rf"\bI (?:now |just |recently |have |actually )*(?:live|moved|relocated|am living|settled)(?: now| house)? (?:in|to|at|near|on) {VALUE}", 0.9),
        ("home", rf"\bI(?:'m| am) (?:now )?living (?:in|at|near|on) {VALUE}", 0.9),
        ("origin", rf"\b(?:{AM}|I come) (?:originally )?from {VALUE}", 0.8),
        ("age", rf"\b(?:{AM}|I (?:just |recently )?turned) (?:now )?(?P<value>\d{{1,3}})\b(?! (?:minutes|hours|days|km|kg|percent|%))", 0.9),
        ("job", rf"\bI (?:now )?work as (?:an? )?{VALUE}", 0.9),
        ("job", rf"\b{AM} (?:now )?an? (?P<value>(?:[a-z]+(?:er|or|ist|ian)|nurse|cook|pilot|chef|clerk|monk|vet|student)(?: by (?:trade|profession))?){END}", 0.7),
        ("employer", rf"\bI (?:now )?work (?:at|for) {VALUE}", 0.9),
        ("allergy", rf"\b{AM} allergic to {VALUE}", 0.9),
        ("diet", rf"\b{AM} (?:an? )?(?P<value>vegan|vegetarian|pescatarian|lactose intolerant){END}", 0.9),
        ("studies", rf"\bI(?:'m| am)? (?:study|studying) {VALUE}", 0.8),
        ("wears", rf"\bmy size is {VALUE}", 0.9),
        ("language", rf"\bI speak {VALUE}", 0.8),
    )
)  # fmt: skip
MINE = re.compile(
    rf"\bmy (?P<key>[a-z][\w'’ -]{{1,40}}?)(?:'s name|’s name)? (?:is|are|was born on|is now|are now) (?:now |called |named |on |actually )*{VALUE}",
    re.IGNORECASE,
)
HAVE = re.compile(
    rf"\bI (?:have|own|got|adopted) (?:now )?(?:an? |the )?(?P<key>[a-z]+(?: [a-z]+)?),? (?:called|named|whose name is) {VALUE}",
    re.IGNORECASE,
)
BEST = re.compile(
    rf"\bthe (?P<key>\w+) (?:that )?I (?:like|love) (?:best|most) is {VALUE}", re.IGNORECASE
)
TASTE = re.compile(
    rf"\bI (?:really |also |now |actually )*(?P<how>like|love|enjoy|prefer|hate|dislike|can't stand|do not like|don't like|don’t like|no longer like) (?!it\b|to be\b|that\b|when\b|how\b|you\b|this\b){VALUE}",
    re.IGNORECASE,
)
REMEMBER = re.compile(r"^(?:please |can you |could you )?(?:remember|note|keep in mind)(?: that)?[:,]? (?P<value>.+?)[.!]*$", re.IGNORECASE)  # fmt: skip
FORGET = re.compile(
    r"\b(?:please |can you |could you |you should |i want you to )?(?:forget|delete|erase|do not remember|don't remember) (?P<what>.+?)[.!?]*$",
    re.IGNORECASE,
)
NOT_FORGETTING = re.compile(r"\b(?:don't|do not|never|didn't|did not|i|i'll|will|to) forget\b", re.IGNORECASE)  # fmt: skip
FILLING = frozenset(["that", "what", "where", "how", "who", "i", "said", "about", "my", "the", "a", "an", "of", "is", "am", "are", "in", "it", "this", "told", "you", "me", "please", "everything", "anything", "all", "know", "like", "love"])  # fmt: skip
MEANT = {"live": "home", "address": "home", "work": "job", "old": "age", "called": "name", "born": "birthday"}  # fmt: skip
PASSING = frozenset(["favor", "turn", "fault", "pleasure", "guess", "point", "question", "idea", "problem", "bad", "opinion", "mind", "god", "understanding", "answer"])  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """`key` says what it is about, `quote` are the user's own words."""

    key: str
    value: str
    quote: str
    confidence: float


def facts_in(turn: str) -> list[Fact]:
    """The facts of a turn, in order; of one key the last."""
    found: dict[str, Fact] = {}
    for clause in clauses(turn):
        for fact in facts_of(clause):
            found.pop(fact.key, None)
            found[fact.key] = fact
    return list(found.values())


def clauses(turn: str) -> list[str]:
    """The clauses of a turn that say something: no questions, no quotations, no code."""
    text = re.sub(
        r"```.*?(?:```|\Z)|^>.*$|\"[^\"\n]*\"|“[^”\n]*”", " ", turn, flags=re.DOTALL | re.MULTILINE
    )
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    said = [sentence.strip() for sentence in sentences if not sentence.rstrip().endswith("?")]
    return [part.strip() for sentence in said for part in CLAUSE.split(sentence) if part.strip()]


def facts_of(clause: str) -> list[Fact]:
    if FORGET.search(clause) and not NOT_FORGETTING.search(clause):
        return []
    if match := REMEMBER.search(clause):
        inner = facts_of(match["value"])
        note = match["value"].strip()
        return inner or [Fact(f"note: {' '.join(note.lower().split()[:4])}", note, clause, 1.0)]
    if match := HAVE.search(clause):
        return [Fact(plain(match["key"]), match["value"].strip(), clause, 0.9)]
    if match := BEST.search(clause):
        return [Fact(f"favourite {match['key'].lower()}", match["value"].strip(), clause, 0.8)]
    if match := MINE.search(clause):
        key = plain(match["key"])
        return [] if key in PASSING else [Fact(key, match["value"].strip(), clause, 0.8)]
    for key, rule, confidence in RULES:
        if match := rule.search(clause):
            return [Fact(key, match["value"].strip(), clause, confidence)]
    if match := TASTE.search(clause):
        value, how = match["value"].strip(), match["how"].lower()
        likes = how in ("like", "love", "enjoy", "prefer")
        return [Fact(f"taste: {plain(value)}", "likes" if likes else "dislikes", clause, 0.7)]
    return []


def plain(key: str) -> str:
    """A key by which the same thing is known again."""
    words = re.findall(r"\w+", key.lower().replace("favorite", "favourite").replace("'s", ""))
    return (
        " ".join(
            word for word in words if word not in ("new", "old", "own", "the", "name", "very")
        )[:60]
        or key.lower()
    )


def forgotten_in(turn: str) -> list[str] | None:
    """The words of what a turn asks to have forgotten, [] for everything; None where it asks for
    nothing of the kind."""
    for clause in clauses(turn) + [s for s in re.split(r"(?<=[.!?])\s+", turn) if s.endswith("?")]:
        match = FORGET.search(clause)
        if match and not NOT_FORGETTING.search(clause):
            words = re.findall(r"\w+", match["what"].lower())
            told = [MEANT.get(word, word) for word in words if word not in FILLING]
            return told if told or not {"everything", "all", "me"} & set(words) else []
    return None
