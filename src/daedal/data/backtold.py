"""Stories that are there, each with the request that would have ordered it: its hero, and some of
the things, animals and places that turn up (instruction backtranslation by program; Li et al.
2024).

The hero gets another name, of thousands, so that a model learns to take the name from the request."""

import random
import re
from collections import Counter

from daedal.worlds.answers import capital
from daedal.worlds.lexicon import ANIMALS, PEOPLE, PLACES, THINGS, a, is_held_out, name
from daedal.worlds.requests import TELL, WHERE, WITH
from daedal.worlds.stories import words

RELATIVES = {
    "Mom",
    "Dad",
    "Mommy",
    "Daddy",
    "Mum",
    "Grandma",
    "Grandpa",
    "Mr",
    "Mrs",
    "God",
    "Christmas",
    "English",
    "I",
}
PLAIN = (
    "about {}",
    "about a child called {}",
    "with {} in it",
    "about {} and a friend",
    "where {} learns something",
)


def hero_of(text: str) -> str | None:
    """The name that stands most often inside sentences, three times at least."""
    inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)
    found = Counter(word for word in inside if word not in RELATIVES).most_common(1)
    return found[0][0] if found and text.count(found[0][0]) >= 3 else None


def kind_of(text: str, hero: str) -> str:
    """What the hero is, where the story says so as in "a little cat named Tim"."""
    found = re.search(rf"\ba(?:n)? (?:\w+ )?(\w+) (?:named|called) {hero}\b", text)
    return found[1] if found and found[1] in (*ANIMALS, *PEOPLE) else ""


def backtold(text: str, rng: random.Random) -> tuple[str, str] | None:
    """(request, story), the hero renamed; None where no hero can be told."""
    hero = hero_of(text)
    if hero is None:
        return None
    called, kind = name(rng), kind_of(text, hero)
    story = re.sub(rf"\b{hero}\b", called, text)
    about = f"about {called} the {kind}" if kind else rng.choice(PLAIN).format(called)
    if kind and rng.random() < 0.5:
        about = f"about {a(kind)} {rng.choice(('called', 'named'))} {called}"
    said = set(words(story))
    things = [word for word in THINGS if word in said and not is_held_out(word)]
    spots = [word for word, place in PLACES.items() if place in story and not is_held_out(word)]
    lines = [f"{rng.choice(TELL[False])} {about}."]
    if things and rng.random() < 0.6:
        thing = rng.choice(things)
        lines.append(rng.choice(WITH[False]).format(thing=thing, a_thing=a(thing), name=called))
    if spots and rng.random() < 0.5:
        lines.append(rng.choice(WHERE[False]).format(place=PLACES[rng.choice(spots)], name=called))
    return " ".join(map(capital, lines)), story
