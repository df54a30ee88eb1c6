"""The little stories that instructions and small talk are about: their words, how one is made, and
what a program can tell of any text (its sentences, its words, whether it is well made)."""

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from daedal.worlds.tasks import phrases

HEROES = {
    "Mia": "she", "Tom": "he", "Ana": "she", "Ben": "he", "Lily": "she", "Sam": "he", "Ravi": "he", "Zoe": "she", "Max": "he", "Nina": "she",
    "Omar": "he", "Ida": "she", "Lucy": "she", "Jack": "he", "Sara": "she", "Tim": "he",
}  # fmt: skip
PLACES = (
    "in the garden", "in the forest", "on the beach", "at the market", "on the hill", "by the river", "in the barn", "at school", "in the park",
    "at the lake", "in the kitchen", "on the farm",
)  # fmt: skip
ANIMALS = phrases(
    "cat | dog | rabbit | duck | fox | bear | mouse | frog | bird | horse | goat | turtle"
)
THINGS = phrases("ball | hat | book | kite | key | lamp | drum | boat | bell | cup | box | doll")
FOODS = ("cake", "pie", "bread", "soup", "rice", "honey", "cheese", "milk", "jam", "porridge")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink")
GROUPS = {"animals": ANIMALS, "toys or things": THINGS, "foods": FOODS, "colours": COLOURS}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
MORALS = phrases(
    "share | be kind | never give up | tell the truth | ask for help | listen | be brave | say "
    "sorry"
)
LAST_WORDS = ("moon", "sky", "flowers", "stars", "rain", "sun", "sea", "trees")
STARTS = phrases(
    "Once upon a time | One day | One sunny morning | Long ago | One evening | Last summer"
)

# Plots: any beginning of one is a story so far. {He} and {he} are the hero; {A} a colour, {animal}
# and {thing} what the hero meets.
PLOTS = (
    ("There {he} met a little {animal}.", "The {animal} had lost a {A} {thing}.", '"I will help you," said {hero}.', "They looked everywhere until they found the {thing}."),
    ("{He} found a {A} {thing} in the grass.", "It was the {thing} of a {animal}.", '"Is this yours?" asked {hero}.', "The {animal} was so happy that it danced."),
    ("Soon it began to rain.", "A small {animal} was cold and wet.", "{hero} gave the {animal} a {A} {thing} to hide under.", "Then the sun came out and they played."),
    ("{He} had some {food} to eat.", "A hungry {animal} came and looked at it.", '"Do you want some?" asked {hero}.', "They sat down and ate the {food} together."),
    ("{He} wanted to play with a {A} {thing}.", "But a big {animal} took it away.", '"Please give it back," said {hero}.', "The {animal} was sorry and gave back the {thing}."),
    ("{He} heard a strange noise.", "It was a {animal} with a {A} {thing}.", "At first {hero} was scared.", "But the {animal} only wanted to be friends."),
    ("A {animal} was crying there.", '"Why are you sad?" asked {hero}.', '"I have no friends," said the {animal}.', "So {hero} gave the {animal} a {A} {thing}."),
    ("{He} ran and ran, and then {he} fell down.", "A kind {animal} came to help.", "The {animal} gave {hero} some {food}.", "{hero} felt much better."),
)  # fmt: skip
OPENINGS = (
    "{start}, {hero} was {place}.", "{start}, {hero} went for a walk {place}.", "{start}, {hero} was playing {place}.",
    "{start}, a child named {hero} was {place}.",
)  # fmt: skip
CLOSINGS = (
    "Then {hero} was very happy.",
    "After that, {hero} and the {animal} were friends.",
    "{hero} smiled all day.",
    "It was a good day for {hero}.",
)
LASTS = (
    "At last, {hero} thought about the {last}.",
    "In the end, {hero} looked for the {last}.",
    "And {hero} told everyone about the {last}.",
)
TELL = phrases(
    "Write a story | Tell me a story | Please write a story | Tell a little story | Make up a "
    "story | I want a story"
)


# ---- what a text is ------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """The sentences of a text; one that is quoted belongs to who says it."""
    return [
        part for part in re.split(r'(?:(?<=[.!?])|(?<=[.!?]"))\s+(?=["A-Z])', text.strip()) if part
    ]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+|\d+", text.lower().replace("\u2019", "'"))


def says(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in the text, in order and beside each other."""
    return f" {' '.join(words(phrase))} " in f" {' '.join(words(text))} "


def well_made(text: str) -> bool:
    """Whole sentences, none twice, none of one word or beyond thirty: what keeps a list of the
    wanted words from being a story."""
    found = sentences(text)
    whole = all(
        (s[0].isupper() or s[0] == '"') and s[-1] in '.!?"' and 2 <= len(words(s)) <= 30
        for s in found
    )
    return bool(found) and whole and len(set(found)) == len(found)


def apart(a: str, b: str, held_out: bool) -> bool:
    """Whether the pair belongs to this side of the split."""
    return (zlib.crc32(f"{a}/{b}".encode()) % 10 == 0) == held_out


def pair(
    rng: random.Random, some: Sequence[str], others: Sequence[str], held_out: bool
) -> tuple[str, str]:
    """One of each, from this side of the split."""
    while True:
        a, b = rng.choice(some), rng.choice(others)
        if apart(a, b, held_out):
            return a, b


# ---- stories -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """A story, and what it was made of. `ending` is how it ends: ("moral", "be kind"), ("word",
    "moon"), ("end", ...) or ("", "")."""

    hero: str
    place: str
    animal: str
    thing: str
    food: str
    ending: tuple[str, str]
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def story(rng: random.Random, held_out: bool = False) -> Story:
    """Three to six sentences: an opening with hero and place, some of a plot, an ending."""
    hero, place = pair(rng, tuple(HEROES), PLACES, held_out)
    animal = rng.choice(ANIMALS)
    thing = rng.choice(THINGS)
    food = rng.choice(FOODS)
    colour = rng.choice(COLOURS)
    kind = rng.choice(("", "moral", "word", "end"))
    what = {"moral": rng.choice(MORALS), "word": rng.choice(LAST_WORDS)}.get(kind, "")
    endings = {"moral": "{hero} learned to {last}.", "word": rng.choice(LASTS), "end": "The end."}
    final = endings.get(kind, rng.choice(CLOSINGS))
    count = rng.randint(1, 4)
    met = [any("{animal}" in line for line in plot[:count]) for plot in PLOTS]
    number = rng.choice([i for i, m in enumerate(met) if "{animal}" in final or kind or m])
    if "{animal}" in final and not met[number]:
        final = CLOSINGS[0]
    fill = dict(hero=hero, place=place, animal=animal, thing=thing, food=food, A=colour, last=what)
    fill |= dict(he=HEROES[hero], He=HEROES[hero].title(), start=rng.choice(STARTS))
    spoken = (rng.choice(OPENINGS), *PLOTS[number][:count], final)
    lines = tuple(articled(line.format(**fill)) for line in spoken)
    return Story(hero, place, animal, thing, food, (kind, what), lines)


def articled(line: str) -> str:
    """ "a orange" as "an orange"."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", line)
