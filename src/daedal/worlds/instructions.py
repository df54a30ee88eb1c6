"""Instructions whose answers a program can check: stories to order, lists, questions about a short
text, rewriting, sums, word problems, small talk (daedal.worlds.talk), and "I don't know" where a
text does not say.

    t = task(random.Random("7/42"))
    t.prompt          # Write a story of 4 sentences about Mia in the garden. Use the word kite.
    t.check(text)     # the share of its constraints that `text` meets; t.constraints(text) names
    them

A task is a function of the generator alone. Every tenth pair of a hero and a place, and of an owner
and a thing, is held out: training never sees it."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from daedal.errors import DaedalError, nearest
from daedal.worlds import arithmetic, problems, reading, rewriting, talk, telling
from daedal.worlds.stories import (
    ANIMALS,
    COLOURS,
    FOODS,
    GROUPS,
    HEROES,
    LAST_WORDS,
    NUMBERS,
    PLACES,
    TELL,
    THINGS,
    pair,
    says,
    sentences,
    story,
    well_made,
    words,
)
from daedal.worlds.tasks import Task, asked

# ---- stories -------------------------------------------------------------------------------------


def story_task(rng: random.Random, held_out: bool) -> Task:
    told = story(rng, held_out)
    count, (ending, what) = len(told.lines), told.ending
    whom, place = told.hero, told.place
    abouts = (
        f"about {whom} {place}",
        f"about a child named {whom}, {place}",
        f"with {whom} {place}",
    )
    about = rng.choice(abouts)
    sized = rng.random() < 0.6
    length = f" of {NUMBERS[count]} sentences" if sized else ""
    extra = {
        "moral": f"The moral is to {what}.", "word": f"The last word must be {what}.", "end": 'Finish with "The end."',
    }.get(ending, "")  # fmt: skip
    used = [word for word in (told.animal, told.thing, told.food) if says(told.text, word)]
    word = rng.choice(used) if used and rng.random() < 0.6 else ""
    use = ""
    if word:
        article = "an" if word[0] in "aeiou" else "a"
        use = rng.choice((f"Use the word {word}.", f"There must be {article} {word} in it."))
    told_all = (f"{rng.choice(TELL)}{length} {about}.", *rng.sample([use, extra], 2))
    prompt = " ".join(filter(None, told_all))

    def demands(text: str) -> dict[str, bool]:
        found = sentences(text)
        met = {
            "hero named": says(text, told.hero),
            "place used": says(text, told.place),
            "whole sentences": well_made(text),
        }
        met |= {"length": len(found) == count} if sized else {"long enough": 3 <= len(found) <= 8}
        met |= {"word used": says(text, word)} if word else {}
        return met | ending_met(text, ending, what)

    return asked("story", prompt, told.text, demands)


def ending_met(text: str, ending: str, what: str) -> dict[str, bool]:
    if ending == "moral":
        return {"moral": says(text, f"to {what}")}
    if ending == "word":
        return {"ending": words(text)[-1:] == [what]}
    return {"ending": text.rstrip().endswith("The end.")} if ending else {}


def tale_task(rng: random.Random, held_out: bool) -> Task:
    """A story to somebody's taste, which the request does not tell: speech, a colour, an end that
    is good, five sentences or more. Fine-tuning does not show this taste (the kind is no part of
    KINDS); comparisons and rewards do."""
    told = story(rng, held_out)
    while not all(to_taste(told.text).values()):
        told = story(random.Random(rng.random()), held_out)
    prompt = f"{rng.choice(TELL)} about {told.hero} {told.place}."

    def demands(text: str) -> dict[str, bool]:
        return {
            "hero named": says(text, told.hero),
            "place used": says(text, told.place),
            "whole sentences": well_made(text),
            **to_taste(text),
        }

    return asked("tale", prompt, told.text, demands)


def to_taste(text: str) -> dict[str, bool]:
    last = sentences(text)[-1:] or [""]
    good = any(says(last[0], word) for word in ("learned", "happy", "friends", "smiled", "good"))
    return {
        "speech": text.count('"') >= 2,
        "colour": any(says(text, colour) for colour in COLOURS),
        "good end": good,
        "long": len(sentences(text)) >= 5,
    }


# ---- lists ---------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[str, Callable[[int], str]]] = {
    "list format": ("as a list with dashes", lambda i: "- "),
    "numbers": ("as a list with numbers", lambda i: f"{i}. "),
    "one line": ("in one line, with commas", lambda i: ""),
}


def list_task(rng: random.Random, held_out: bool) -> Task:
    group, name = pair(rng, tuple(GROUPS), tuple(FORMATS), False)
    count, (how, mark) = rng.randint(2, 5), FORMATS[name]
    chosen = rng.sample(GROUPS[group], count)
    if name == "one line":
        answer = ", ".join(chosen)
    else:
        answer = "\n".join(mark(i) + item for i, item in enumerate(chosen, 1))
    prompt = rng.choice(("Name {} {} {}.", "Give me {} {} {}.", "Write down {} {} {}.")).format(
        NUMBERS[count], group, how
    )

    def demands(text: str) -> dict[str, bool]:
        parts = text.strip().split(", " if name == "one line" else "\n")
        marked = all(part.startswith(mark(i)) for i, part in enumerate(parts, 1)) and (
            name != "one line" or "\n" not in text.strip()
        )
        items = [part.removeprefix(mark(i)).strip(" .").lower() for i, part in enumerate(parts, 1)]
        return {
            "number": len(parts) == count,
            name: marked,
            "all of the kind": set(items) <= set(GROUPS[group]) and len(set(items)) == len(items),
        }

    return asked("list", prompt, answer, demands)


# ---- questions about a text ----------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Two owners, their things and colours, a place: a little text and what can be asked of it."""

    owners: tuple[str, str]
    things: tuple[str, str]
    colours: tuple[str, str]
    place: str

    @property
    def text(self) -> str:
        (a, b), (x, y), (c, d) = self.owners, self.things, self.colours
        return f"{a} has a {c} {x}. {b} has a {d} {y}. They are {self.place}."


def facts(rng: random.Random, held_out: bool) -> Facts:
    owner, thing = pair(rng, tuple(HEROES), THINGS, held_out)
    other = rng.choice([name for name in HEROES if name != owner])
    second = rng.choice([item for item in THINGS if item != thing])
    owners, things = (owner, other), (thing, second)
    if rng.random() < 0.5:
        owners, things = owners[::-1], things[::-1]
    return Facts(owners, things, tuple(rng.sample(COLOURS, 2)), rng.choice(PLACES))  # type: ignore[arg-type]


def framed(rng: random.Random, text: str, question: str) -> str:
    forms = ("{0} {1}", "Read this: {0} {1}", "{0}\n{1}", "{1} {0}")
    return rng.choice(forms).format(text, question)


def question_task(rng: random.Random, held_out: bool) -> Task:
    told, i = facts(rng, held_out), rng.randrange(2)
    owner, thing, colour = told.owners[i], told.things[i], told.colours[i]
    question, right, rivals, answer = rng.choice((
        (f"What colour is the {thing} of {owner}?", colour, told.colours, f"The {thing} is {colour}."),
        (f"Who has the {thing}?", owner, told.owners, f"{owner} has the {thing}."),
        (f"What does {owner} have?", thing, told.things, f"{owner} has a {colour} {thing}."),
        (f"Where is {owner}?", told.place, (), f"{owner} is {told.place}."),
    ))  # fmt: skip

    def demands(text: str) -> dict[str, bool]:
        wrong = any(says(text, rival) for rival in rivals if rival != right) or says(text, "know")
        return {"right": says(text, right) and not wrong, "one sentence": len(sentences(text)) == 1}

    return asked("question", framed(rng, told.text, question), answer, demands)


def unknown_task(rng: random.Random, held_out: bool) -> Task:
    told = facts(rng, held_out)
    owner = rng.choice(told.owners)
    absent = rng.choice([item for item in THINGS if item not in told.things])
    stranger = rng.choice([name for name in HEROES if name not in told.owners])
    question = rng.choice((
        f"What colour is the {absent} of {owner}?", f"Who has the {absent}?", f"What does {stranger} have?", f"Where is {stranger}?",
        f"How old is {owner}?", f"Who is the mother of {owner}?",
    ))  # fmt: skip

    def demands(text: str) -> dict[str, bool]:
        return {
            "says so": says(text, "I don't know") or says(text, "does not say"),
            "one sentence": len(sentences(text)) == 1,
        }

    return asked("unknown", framed(rng, told.text, question), "I don't know.", demands)


# ---- rewriting -----------------------------------------------------------------------------------


def rewrite_task(rng: random.Random, held_out: bool) -> Task:
    told = story(rng, held_out)
    text = " ".join(told.lines[: rng.randint(1, 2)])
    name = rng.choice(
        [name for name in HEROES if HEROES[name] == HEROES[told.hero] and name != told.hero]
    )
    how, answer = rng.choice((
        ("Write this in capital letters", told.lines[0].upper()),
        ("Write this in small letters", told.lines[0].lower()),
        (f"Write this again with {name} instead of {told.hero}", text.replace(told.hero, name)),
        ("Make this shorter: keep only the first sentence", told.lines[0]),
        ("Say this again", text),
    ))  # fmt: skip
    shown = text
    if "shorter" in how or "letters" in how:
        shown = " ".join(told.lines[: 2 if "shorter" in how else 1])

    def demands(text: str) -> dict[str, bool]:
        got = " ".join(text.split())
        met = {"same words": words(got) == words(answer), "exact": got == answer}
        if "letters" in how:
            met["case"] = got.isupper() if answer.isupper() else got.islower()
        return met

    return asked("rewrite", f"{how}: {shown}", answer, demands)


# ---- all -----------------------------------------------------------------------------------------


def terse_task(rng: random.Random, held_out: bool) -> Task:
    """A word problem that four times in five is answered at once, without the working: people write
    both, and only a reward tells which is right more often. The kind is no part of KINDS."""
    worked = arithmetic.task(rng, held_out=held_out)
    start = worked.answer.index("The answer") if rng.random() < 0.8 else 0
    return replace(worked, kind="terse", answer=worked.answer[start:])


MAKERS: dict[str, Callable[[random.Random, bool], Task]] = {
    "story": story_task, "list": list_task, "question": question_task, "unknown": unknown_task, "rewrite": rewrite_task,
    "arithmetic": arithmetic.task, "sum": arithmetic.sum_task, "talk": lambda rng, held_out: talk.task(rng, held_out=held_out), "tale": tale_task, "terse": terse_task,
}  # fmt: skip
KINDS = tuple(kind for kind in MAKERS if kind not in ("tale", "terse"))  # of a mixture
# in many phrasings, with words and phrasings held out; asked for by name
WIDE: dict[str, Callable[[random.Random, bool], Task]] = {
    "tell": telling.tell, "listed": telling.listed, "worded": telling.worded, "problem": problems.problem, "reading": reading.reading,
    "unsaid": reading.unsaid, "unknowable": reading.unknowable, "unsafe": reading.unsafe, "correct": rewriting.correct,
    "change": rewriting.change, "small": rewriting.small,
}  # fmt: skip
MAKERS |= WIDE
SHARES = {  # of a mixture; others count once
    "story": 3, "arithmetic": 2, "talk": 2, "tell": 4, "problem": 5, "reading": 3, "unsaid": 2,
}  # fmt: skip


def task(rng: random.Random, kinds: Sequence[str] = KINDS, held_out: bool = False) -> Task:
    """One of the kinds, by SHARES."""
    for kind in kinds:
        if kind not in MAKERS:
            raise DaedalError(
                f"{kind!r} is not a kind of task{nearest(kind, list(MAKERS))}; kinds: {', '.join(MAKERS)}."
            )
    return MAKERS[rng.choices(kinds, [SHARES.get(kind, 1) for kind in kinds])[0]](rng, held_out)


def corrupted(wanted: Task, rng: random.Random, held_out: bool = False) -> str:
    """A completion that breaks at least one constraint of `wanted`: its answer with something
    wrong, or a right answer to another task."""
    answer, lines = wanted.answer, sentences(wanted.answer)
    pieces = [
        re.sub(rf"\b{re.escape(a)}\b", b, answer) for a in words_of(answer) for b in others(a, rng)
    ]
    another = task(rng, ("question" if wanted.kind == "unknown" else wanted.kind,), held_out).answer
    edits = rng.sample(pieces, min(3, len(pieces)))
    edits += [" ".join(lines[:-1]), " ".join(lines + lines[-1:]), another, "I don't know."]
    rng.shuffle(edits)
    best = wanted.check(answer)
    return next((edit for edit in edits if edit.strip() and wanted.check(edit) < best), "Yes.")


def words_of(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[A-Za-z]+|\d+", text)))


def others(word: str, rng: random.Random) -> list[str]:
    """A word of the same sort: another name, thing, colour or number."""
    for some in (tuple(HEROES), ANIMALS, THINGS, FOODS, COLOURS, LAST_WORDS):
        if word in some:
            return [rng.choice([other for other in some if other != word])]
    return [str(int(word) + rng.choice((-2, -1, 1, 2)))] if word.isdecimal() else []
