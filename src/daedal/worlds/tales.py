"""Little stories from a grammar, for tests and first runs."""

import random
from collections.abc import Iterator

from daedal.worlds.tasks import phrases

HEROES = ("Mia", "Tom", "Ana", "Ben", "Lily", "Sam", "Ravi", "Zoe", "Max", "Nina", "Omar", "Ida")
ANIMALS = ("cat", "dog", "rabbit", "owl", "fox", "duck", "bear", "mouse", "frog", "pony")
PLACES = phrases(
    "the garden | the forest | the beach | the market | the hill | the river | the barn | the "
    "school"
)
THINGS = ("ball", "hat", "book", "kite", "cake", "key", "lamp", "drum", "boat", "bell")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink")
FEELINGS = (
    ("happy", "smiled"),
    ("sad", "cried"),
    ("tired", "yawned"),
    ("proud", "sang"),
    ("scared", "hid"),
)
LESSONS = phrases(
    "share with friends | be kind | never give up | tell the truth | ask for help | listen first"
)


def tale(rng: random.Random) -> str:
    """One story of about 80 words: a hero, a friend, a lost thing, a feeling, a lesson."""
    hero, animal, place, other = rng.choice(HEROES), rng.choice(ANIMALS), *rng.sample(PLACES, 2)
    thing, colour, (feeling, did) = rng.choice(THINGS), rng.choice(COLOURS), rng.choice(FEELINGS)
    start = rng.choice(("Once upon a time", "One day", "One sunny morning", "Long ago"))
    article = "an" if animal[0] in "aeiou" else "a"
    lines = [
        f"{start}, {hero} went to {place} with a {colour} {thing}.",
        f"There {hero} met {article} {animal}. The {animal} was {feeling} and {did}.",
        rng.choice((
            f'"What is wrong?" asked {hero}. "I want to play too," said the {animal}.',
            f'"Hello," said {hero}. "Do you like my {thing}?" The {animal} looked at the {colour} {thing}.',
            f'"I lost my way," said the {animal}. "I will help you," said {hero}.',
        )),
        rng.choice((
            f"So they went to {other} and played with the {thing} until it was dark.",
            f"{hero} gave the {thing} to the {animal}, and they walked to {other} together.",
            f"They looked all over {other}. At last they found what they wanted.",
        )),
        f"From that day, {hero} and the {animal} were friends. {hero} learned to {rng.choice(LESSONS)}.",
    ]  # fmt: skip
    return " ".join(lines)


def tales(count: int, seed: int = 0) -> Iterator[str]:
    """`count` tales, the same for the same seed."""
    rng = random.Random(seed)
    return (tale(rng) for _ in range(count))
