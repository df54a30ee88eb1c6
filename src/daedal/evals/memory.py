"""What a chat model with a memory still knows of its user: long dialogues are made by program, over
several conversations, with facts among small talk, of which some are corrected later and one is to
be forgotten; then a new conversation asks for each.

    daedal eval coder --tasks memory --limit 20      # so many people, eight facts each

Right is an answer that has the value, and of a corrected fact not the old one. Of a forgotten fact
it has not the value, and neither has anything that is kept."""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from daedal.assist.memory.store import Memory, told
from daedal.evals.measured import Measured, Report, lines_of, plain, share
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring
from daedal.worlds.tasks import phrases


@dataclass(frozen=True)
class About:
    """A thing to know of a person: its values, how it is said, how corrected ("" is not), how it is
    asked for, and by which word it is to be forgotten."""

    values: tuple[str, ...]
    said: tuple[str, ...]
    corrected: tuple[str, ...]
    asked: tuple[str, ...]
    word: str


PEOPLE = phrases("Pim | Zoe | Ravi | Ines | Bruno | Mei | Kofi | Freya | Anton | Layla | Oscar | Nadia")  # fmt: skip
TOWNS = phrases("Oslo | Bergen | Turin | Porto | Leeds | Ghent | Lyon | Graz | Tartu | Cork | Basel | Gdansk")  # fmt: skip
JOBS = phrases("baker | nurse | pilot | tailor | teacher | carpenter | librarian | gardener | plumber | painter")  # fmt: skip
CATS = phrases("Mo | Biscuit | Shadow | Pepper | Luna | Tiger | Smokey | Olive | Ginger | Domino")
COLOURS = phrases("green | violet | orange | turquoise | crimson | yellow | silver | indigo")
DAYS = phrases("3 May | 12 June | 9 January | 21 August | 30 March | 17 October | 2 February")
FOODS = phrases("peanuts | shellfish | strawberries | sesame | celery | walnuts | kiwi")
KNOWN = {
    "name": About(PEOPLE, phrases("My name is {}. | I'm {}, nice to meet you. | You can call me {}."), (), phrases("What is my name? | Do you know my name?"), "name"),
    "home": About(TOWNS, phrases("I live in {}. | We have our house in {}. | I've been living in {} for ten years."),
                  phrases("I have moved to {}. | Actually I live in {} now. | We left for {} last month, that is where I live now."), phrases("Which town do I live in? | Where do I live?"), "address"),
    "job": About(JOBS, phrases("I work as a {}. | I'm a {}. | I earn my living as a {}."), phrases("I changed jobs, I am a {} now. | I work as a {} now."), phrases("What is my job? | What do I work as?"), "job"),
    "cat": About(CATS, phrases("My cat is called {}. | I have a cat named {}. | The name of my cat is {}."), (), phrases("What is my cat called? | What is the name of my cat?"), "cat"),
    "colour": About(COLOURS, phrases("My favourite colour is {}. | The colour I like best is {}."), phrases("My favourite colour is {} these days. | I changed my mind: my favourite colour is {}."),
                    phrases("What is my favourite colour? | Which colour do I like best?"), "favourite colour"),
    "birthday": About(DAYS, phrases("My birthday is on {}. | I was born on {}."), phrases("Sorry, my birthday is on {}."), phrases("When is my birthday? | On which day was I born?"), "birthday"),
    "allergy": About(FOODS, phrases("I am allergic to {}. | I have an allergy to {}."), (), phrases("What am I allergic to? | Which food must I not eat?"), "allergy"),
    "sister": About(PEOPLE, phrases("My sister is called {}. | My sister's name is {}."), (), phrases("What is the name of my sister? | What is my sister called?"), "sister"),
}  # fmt: skip
TALK = phrases(
    "Tell me a joke. | How do I boil an egg? | Thanks! | I am a bit tired today. | What is a good name for a boat? | Is it going to "
    "rain? | Can you help me with my homework? | That was a good idea. | I had a long day. | What rhymes with orange? | My neighbour is "
    "loud again. | Write a short poem about the sea. | I like it when it snows. | Who wrote Hamlet? | Good morning! | I lost my keys."
)


@dataclass(frozen=True)
class Life:
    """Turns by conversation, and what is asked in the end: (question, right value, values that it
    must not have, of which kind)."""

    conversations: list[list[str]]
    asked: list[tuple[str, str, tuple[str, ...], str]]


def life(rng: random.Random) -> Life:
    values = {key: rng.choice(one.values) for key, one in KNOWN.items()}
    while values["sister"] == values["name"]:
        values["sister"] = rng.choice(PEOPLE)
    can = [key for key, one in KNOWN.items() if one.corrected]
    changed = {key: other(rng, key, values[key]) for key in rng.sample(can, 2)}
    forgotten = rng.choice([key for key in KNOWN if key not in changed])
    keys = rng.sample(list(KNOWN), len(KNOWN))
    parts: list[list[str]] = [[], [], [], []]
    for i, key in enumerate(keys):
        parts[i * 3 // len(keys)].append(rng.choice(KNOWN[key].said).format(values[key]))
    parts[3] = [rng.choice(KNOWN[key].corrected).format(value) for key, value in changed.items()]
    parts[3].append(f"Please forget my {KNOWN[forgotten].word}.")
    talks = [spread(rng, part) for part in parts]
    asked = []
    for key, one in KNOWN.items():
        kind = "forgotten" if key == forgotten else "corrected" if key in changed else "recalled"
        old = (values[key],) if kind != "recalled" else ()
        asked.append((rng.choice(one.asked), changed.get(key, values[key]), old, kind))
    return Life(talks, asked)


def other(rng: random.Random, key: str, value: str) -> str:
    return rng.choice([each for each in KNOWN[key].values if each != value])


def spread(rng: random.Random, lines: list[str]) -> list[str]:
    """Lines in order, with small talk between them."""
    return [turn for line in lines for turn in (*rng.sample(TALK, 3), line)] + [rng.choice(TALK)]


def evaluate(pipeline: TextPipeline, asked: TextMeasuring) -> Report:
    """What `daedal eval MODEL --tasks memory` says."""
    hits: dict[str, list[bool]] = {"recalled": [], "corrected": [], "forgotten": []}
    for number in range(asked.limit or 20):
        one = life(random.Random(f"memory/{number}"))
        with tempfile.TemporaryDirectory() as folder, Memory(Path(folder) / "memory.db") as memory:
            for i, turns in enumerate(one.conversations):
                for turn in turns:
                    memory.note(turn, conversation=str(i))
            for question, right, wrong, kind in one.asked:
                hits[kind].append(judged(pipeline, memory, question, right, wrong, kind))
    groups: dict[str, dict[str, Measured]] = {
        "memory": {kind: share(sum(found), len(found)) for kind, found in hits.items()}
    }
    return Report(plain(groups), lines_of(groups))


def judged(
    pipeline: TextPipeline,
    memory: Memory,
    question: str,
    right: str,
    wrong: tuple[str, ...],
    kind: str,
) -> bool:
    talk = told([{"role": "user", "content": question}], memory.recall(question))
    answer = pipeline.start(talk, max_tokens=40, temperature=0.0, seed=0).result().text.lower()
    bad = any(value.lower() in answer for value in wrong)
    if kind == "forgotten":
        return not bad and not any(value in memory.export() for value in wrong)
    return right.lower() in answer and not bad
