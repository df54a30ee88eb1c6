"""Sentences to put right or to say in another way, each with one right answer.

    Correct this: the cat eat a fish     The cat eats a fish.
    Put this in the past: Pim opens the box.    Pim opened the box.

Phrasings after the bar, and the words that daedal.worlds.lexicon holds out, are for evaluation."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from daedal.worlds.answers import capital
from daedal.worlds.lexicon import (
    ANIMALS,
    LOOKS,
    PEOPLE,
    PLACES,
    THINGS,
    a,
    name,
    noun,
    pick,
    plural,
)
from daedal.worlds.requests import both
from daedal.worlds.stories import words
from daedal.worlds.tasks import Task, asked, phrases

# base, with -s, past
VERBS = tuple(
    tuple(verb.split()) for verb in phrases(
        "open opens opened | find finds found | see sees saw | take takes took | bring brings brought | want wants wanted | "
        "like likes liked | carry carries carried | drop drops dropped | hide hides hid | clean cleans cleaned | buy buys bought "
        "| sell sells sold | lose loses lost | keep keeps kept | need needs needed | make makes made | hold holds held | paint "
        "paints painted | push pushes pushed | pull pulls pulled | wash washes washed | love loves loved | break breaks broke"
    )
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """Who does what to which thing, where (or nowhere)."""

    who: str
    verb: tuple[str, ...]
    what: str  # with its article
    noun: str
    where: str

    def said(self, verb: str) -> str:
        return capital(f"{self.who} {verb} {self.what}{self.where}.")

    @property
    def now(self) -> str:
        return self.said(self.verb[1])


def sentence(rng: random.Random, held_out: bool) -> Sentence:
    person = rng.choice((
        name(rng, held_out), f"the {noun(rng, ANIMALS, held_out)}", f"the {noun(rng, PEOPLE, held_out)}",
        f"the {pick(rng, LOOKS, held_out)} {noun(rng, ANIMALS, held_out)}",
    ))  # fmt: skip
    thing = noun(rng, THINGS, held_out)
    where = f" {PLACES[pick(rng, tuple(PLACES), held_out)]}" if rng.random() < 0.35 else ""
    what = rng.choice((a(thing), f"the {thing}"))
    return Sentence(person, rng.choice(VERBS), what, thing, where)


CORRECT = both(
    "Correct this sentence: {} | Correct this: {} | Rewrite: {} | Fix the mistakes: {} | Write this correctly: {} | Make this "
    "right: {} | What is the right way to write this? {} | Please correct: {} | Can you fix this sentence? {} | This is wrong: {} "
    "Please write it right. | {} Correct it, please. "
    "| This sentence is not right: {} What is right? | Could you correct this for me? {} | Here "
    "is a sentence with mistakes: {} Write it without them. | My sentence: {} Is it right? Write "
    'it well. | Find the mistakes and write it again: {} | "{}" Please correct this. | Please '
    "write this sentence well: {} | Make this good English: {} | I wrote: {} Please correct my "
    "sentence. | What is the correct sentence? {} | Improve this sentence: {} | Check this "
    "sentence and write it right: {} | Something is wrong here: {} Write it the right way. | Help "
    "me to write this correctly: {} | Spelling and grammar, please: {} | {} Is this good English? "
    "Write it better. | {} There is something wrong. What should it be? "
    "|| Put this sentence right: {} | There are mistakes in this: {} Mend them. | "
    "Repair this sentence: {} | How should I write this? {}"
)


def spoiled(rng: random.Random, it: Sentence) -> str:
    """The sentence with one to three mistakes in it."""
    verb, what = it.verb[1], it.what
    slips = set(rng.sample(("verb", "article", "capital", "stop"), rng.randint(1, 3)))
    if "verb" in slips:
        verb = rng.choice((it.verb[0], it.verb[0], f"is {it.verb[0]}", f"{it.verb[0]}ing"))
    if "article" in slips:
        wrong = "an" if what.startswith("a ") else "a" if what.startswith("an ") else ""
        what = f"{wrong} {it.noun}" if wrong and rng.random() < 0.4 else it.noun
    who = it.who
    if "verb" not in slips and "article" not in slips:
        slips |= {"capital", "stop"}
    text = f"{who} {verb} {what}{it.where}"
    text = text.lower() if "capital" in slips else capital(text)
    return text if "stop" in slips else f"{text}."


def correct(rng: random.Random, held_out: bool) -> Task:
    it = sentence(rng, held_out)
    wrong = spoiled(rng, it)
    if it.noun in wrong and not any(f"{word} {it.noun}" in wrong for word in ("a", "an", "the")):
        it = Sentence(
            it.who, it.verb, a(it.noun), it.noun, it.where
        )  # one cannot tell which it was
    return exact("correct", rng.choice(CORRECT[held_out]).format(wrong), it.now)


def exact(kind: str, prompt: str, answer: str) -> Task:
    """A task that has one right answer; most of the words are a part of it."""

    def demands(text: str) -> dict[str, bool]:
        got = " ".join(text.split()).strip('"')
        return {"exact": got == answer, "same words": words(got) == words(answer)}

    return asked(kind, prompt, answer, demands)


CHANGES: dict[str, str] = {
    "past": "Put this in the past: {} | Write this in the past tense: {} | Say it as if it was yesterday: {} | {} Tell it in the past. "
    "| Change this to the past: {} | This is now. Say it of yesterday: {} | Make this past tense: "
    "{} | Past tense, please: {} | Rewrite this in the past tense: {} | Tell this as if it has "
    "already happened: {} | What is this in the past? {} | How do I say this in the past? {} | It "
    "was yesterday. Write it so: {} | \"{}\" Put it in the past tense. | Yesterday, not today: {} "
    "|| Turn this into the past: {} | Write what happened yesterday: {}",
    "not": "Make this negative: {} | Say the opposite with not: {} | Write this with not: {} | {} Say that it is not so. "
    "| Make this sentence negative: {} | Say that this is not so: {} | Put not into this: {} | "
    "Write that it is not true: {} | Change this so that it says not: {} | What is the negative "
    "of this? {} | This is false: {} Write it with not. | Use does not in this: {} | \"{}\" Say "
    "the opposite with does not. | Negate this: {} "
    "|| Turn this "
           "into a sentence with not: {} | Deny this: {}",
    "question": "Make a question of this: {} | Turn this into a question: {} | Ask it as a question: {} | {} Make it a question. "
    "| Change this into a question: {} | What is the question for this? {} | Write a question "
    "from this sentence: {} | Ask whether this is so: {} | Make this sentence a question: {} "
    "| \"{}\" How is that as a question? | I want to ask this: {} "
    "Write the question. | Put a question mark on it: {} | Is this so? Ask it: {} "
    "|| "
                "Write this as a question: {} | How do I ask this? {}",
    "many": "Write this with many {t}s instead of one: {} | Say it with three {t}s: {} || Make it three {t}s: {}",
    "upper": "Write this in capital letters: {} | Use only big letters: {} | Put this in capitals: {} "
    "| Make this all capital letters: {} | Write it big, all in capitals: {} | Upper case, "
    "please: {} | Change this to upper case: {} | Turn this into capital letters: {} | I want "
    "this in big letters: {} | \"{}\" Write it in capital letters. | Every letter should be a "
    "capital: {} | Rewrite this in upper case letters: {} "
    "|| Make all letters big: {} | "
             "Shout this in capital letters: {}",
    "lower": "Write this in small letters: {} | Use only small letters: {} | Put this in lower case: {} "
    "| No capital letters, please: {} | Lower case, please: {} | Change this to lower case: {} | "
    "Turn this into small letters: {} | I want this in small letters: {} | \"{}\" Write it in "
    "small letters. | Every letter should be small: {} | Rewrite this without capitals: {} "
    "|| Make all letters small: {}",
    "again": "Say this again: {} | Repeat this: {} | Copy this sentence: {} | Write the same again: {} "
    "| Write this once more: {} | Say exactly this: {} | Write down this sentence: {} | Tell me "
    "this again: {} | The same words again, please: {} | \"{}\" Say that again. | Can you repeat "
    "this? {} | Write what I say: {} | Echo this: {} "
    "|| Repeat after me: {} | Please "
             "copy: {}",
    "short": "Make this shorter: {} | Say this in fewer words: {} | Shorten this: {} | Keep only what matters: {} "
    "| Please make this sentence shorter: {} | Give me the short form: {} | What is the main "
    "thing here? {} | Leave out what is not needed: {} | Say it short: {} | This is too long: {} "
    "Make it short. | Write only the important part: {} | Summarize this: {} | \"{}\" Say that in "
    "fewer words. | In short, please: {} | Sum this up: {} "
    "|| Cut this down: {} | "
             "Please shorten: {}",
    "polite": "Say this politely: {} | Make this more polite: {} | Ask this nicely: {} | How can I say this politely? {} "
    "| Say this in a polite way: {} | How do I ask this nicely? {} | Write a polite question from "
    "this: {} | This is rude: {} Say it nicely. | Make it sound kind: {} | Please make this "
    "polite: {} | \"{}\" Say that politely. | Ask for this with please: {} | Put this in a "
    "friendly way: {} | Rewrite this so that it is polite: {} "
    "|| Turn this into "
              "a polite question: {} | Make this friendly: {}",
    "swap": "Write this with {y} instead of {x}: {} | Change {x} to {y}: {} | Replace {x} with {y}: {} | Put {y} in the place of {x}: {} "
    "| Put the word {y} where {x} is: {} | It should say {y}, not {x}: {} | Write it again with "
    "{y} in place of {x}: {} | Not {x} but {y}: {} | Take out {x} and put in {y}: {} | Exchange "
    "{x} for {y} here: {} | Say {y} where it says {x}: {} | \"{}\" Change the word {x} to {y}. | "
    "Make the {x} a {y}: {} | {x} should be {y} here: {} "
    "|| "
            "Use {y} for {x}: {} | Swap {x} for {y}: {}",
    "join": "Join these sentences: {} | Make one sentence of these: {} | Put these together: {} | Connect these with and: {} "
    "| Make these one sentence: {} | Put and between these sentences: {} | Write these as one "
    "sentence: {} | Join them with and: {} | One long sentence, please: {} | Two sentences: {} "
    "Make it one. | Link these sentences: {} | Add these together with and: {} | \"{}\" Say that "
    "in a single sentence. | Merge these: {} "
    "|| Combine "
            "these two: {} | Turn these two into one sentence: {}",
    "first": "What is the first word of this? {} | Write the first word: {} | Which word comes first? {} "
    "| Tell me the first word: {} | What word is at the start? {} | With which word does this "
    "begin? {} | The first word, please: {} | \"{}\" Which is the first word? | Only the first "
    "word: {} | How does this sentence start? {} "
    "|| Give me the first word: {}",
    "last": "What is the last word of this? {} | Write the last word: {} | Which word comes last? {} "
    "| Tell me the last word: {} | What word is at the end? {} | With which word does this end? "
    "{} | The last word, please: {} | \"{}\" Which is the last word? | Only the last word: {} | "
    "How does this sentence end? {} "
    "|| Give me the last word: {}",
}  # fmt: skip
ASKED_FOR = {kind: both(text) for kind, text in CHANGES.items() if kind != "many"}


def changed(
    rng: random.Random, held_out: bool, kind: str, it: Sentence
) -> tuple[str, str, dict[str, str]]:
    """What is shown, what is right, and the words that the request names."""
    who = it.who
    if kind == "short":
        extra = rng.choice(
            ("It was a very nice day. ", "You know, ", "As everybody can see, ", "I think that ")
        )
        return extra + (it.now if extra.endswith(". ") else uncapital(it)), it.now, {}
    if kind == "polite":
        base = f"{it.verb[0]} {it.what}"
        return f"{capital(base)}!", f"Could you please {base}?", {}
    if kind == "swap":
        other = noun(rng, THINGS, held_out)
        new = Sentence(who, it.verb, f"the {other}", other, it.where)
        return (
            Sentence(who, it.verb, f"the {it.noun}", it.noun, it.where).now,
            new.now,
            {"x": it.noun, "y": other},
        )
    if kind == "join":
        other = sentence(rng, held_out)
        return f"{it.now} {other.now}", f"{it.now[:-1]} and {uncapital(other)}", {}
    answers: dict[str, Callable[[], str]] = {
        "past": lambda: it.said(it.verb[2]),
        "not": lambda: it.said(f"does not {it.verb[0]}"),
        "question": lambda: f"Does {who} {it.verb[0]} {it.what}{it.where}?",
        "upper": it.now.upper,
        "lower": it.now.lower,
        "again": lambda: it.now,
        "first": lambda: f"{it.now.split()[0]}.",
        "last": lambda: f"{capital(it.now.split()[-1])}",
    }
    return it.now, answers[kind](), {}


def uncapital(it: Sentence) -> str:
    """The sentence as it stands behind other words."""
    return it.now if it.who[0].isupper() else it.now[0].lower() + it.now[1:]


def change(rng: random.Random, held_out: bool) -> Task:
    kind, it = rng.choice(tuple(ASKED_FOR)), sentence(rng, held_out)
    shown, answer, named = changed(rng, held_out, kind, it)
    return exact("change", rng.choice(ASKED_FOR[kind][held_out]).format(shown, **named), answer)


# ---- words ---------------------------------------------------------------------------------------

OPPOSITES = dict(
    tuple(pair.split()) for pair in phrases(
        "big small | hot cold | day night | up down | old young | fast slow | happy sad | good bad | wet dry | full empty | open closed | "
        "long short | hard soft | light dark | loud quiet | clean dirty | early late | left right | first last | rich poor | near far | "
        "strong weak | tall short | thick thin | high low | new old | easy difficult | brave afraid | sweet sour | black white"
    )
)  # fmt: skip
OPPOSITE = both(
    "What is the opposite of {}? | Tell me the opposite of {}. | Which word is the opposite of {}? | Opposite of {}? "
    "| I need the opposite of {}. | What word means the opposite of {}? | The opposite of {}, "
    "please. | Say the opposite of {}. | What is the other side of {}? | If it is not {}, what is "
    "it? | Do you know the opposite of {}? | Name the opposite of {}. | Not {} but what? | Write "
    "the opposite of {}. "
    "|| Give me "
    "the opposite of {}. | What is not {}?"
)
COUNTING = both(
    "Count from {a} to {b}. | Count up from {a} to {b}. | Write the numbers from {a} to {b}. "
    "| Count for me from {a} to {b}. | Can you count from {a} to {b}? | Start at {a} and count to "
    "{b}. | Give me all numbers from {a} to {b}. | List the numbers from {a} to {b}. | Begin with "
    "{a} and stop at {b}. | Which numbers are there from {a} to {b}? | Start counting at {a} and "
    "go on to {b}. "
    "|| Please count from {a} to {b}. | "
    "Say the numbers from {a} to {b}."
)
BIGGER = both(
    "Which is bigger, {a} or {b}? | Which number is bigger: {a} or {b}? | Is {a} or {b} bigger? "
    "| What is bigger, {a} or {b}? | Tell me which is bigger: {a} or {b}. | Which one is the "
    "bigger number, {a} or {b}? | {a} or {b}: which is bigger? | Is {a} more than {b}, or {b} "
    "more than {a}? | Compare {a} and {b}: which is larger? | Which number is larger, {a} or {b}? "
    "| Of {a} and {b}, which is the greater? "
    "|| Which is more, {a} or {b}?"
)
NEXT = both(
    "What comes after {a}? | Which number comes after {a}? | What is the next number after {a}? "
    "| Which number is next after {a}? | Count on from {a}: what is next? | What number do I say "
    "after {a}? | After {a} comes which number? | What is one more than {a}? | Tell me the number "
    "after {a}. | What is {a} and one more? | {a}, and then? "
    "|| Which number follows {a}?"
)
MANY = both(
    "What is the plural of {x}? | One {x}, two what? | How do you say more than one {x}? "
    "| I have one {x}. Tomorrow I have two what? | Write the plural of {x}. | Tell me the plural "
    "of {x}. | What is the word for many of a {x}? | The plural of {x}, please. | One {x}, many "
    "what? | What do you call two of a {x}? | How do I write {x} if there are many? | If there is "
    "more than one {x}, what do I say? | Say {x} in the plural. "
    "|| Give me the plural of {x}."
)


def small(rng: random.Random, held_out: bool) -> Task:
    """Opposites, counting, plurals: a word or a number."""
    way, (x, y) = rng.randrange(5), rng.sample(range(1, 50), 2)
    if way == 0:
        word = pick(rng, tuple(OPPOSITES), False)
        prompt, answer = OPPOSITE, f"The opposite of {word} is {OPPOSITES[word]}."
        return said(rng.choice(prompt[held_out]).format(word), answer, OPPOSITES[word])
    if way == 1:
        low = rng.randint(1, 30)
        high = low + rng.randint(2, 8)
        numbers = ", ".join(map(str, range(low, high + 1)))
        return said(rng.choice(COUNTING[held_out]).format(a=low, b=high), f"{numbers}.", numbers)
    if way == 2:
        return said(
            rng.choice(BIGGER[held_out]).format(a=x, b=y),
            f"{max(x, y)} is bigger.",
            str(max(x, y)),
            str(min(x, y)),
        )
    if way == 3:
        return said(rng.choice(NEXT[held_out]).format(a=x), f"{x + 1} comes after {x}.", str(x + 1))
    one = noun(rng, (*THINGS, *ANIMALS, *PEOPLE), held_out)
    return said(
        rng.choice(MANY[held_out]).format(x=one), f"One {one}, two {plural(one)}.", plural(one)
    )


def said(prompt: str, answer: str, right: str, wrong: str = "") -> Task:
    """Right if it has the words `right`, whatever else, and does not say `wrong` is it."""

    def demands(text: str) -> dict[str, bool]:
        got = f" {' '.join(words(text))} "
        not_wrong = not wrong or f" {wrong} is" not in got
        return {"right": f" {' '.join(words(right))} " in got and not_wrong}

    return asked("small", prompt, answer, demands)
