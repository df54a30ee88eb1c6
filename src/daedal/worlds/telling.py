"""The requests of daedal.worlds.requests that a program can answer itself: stories with what was
ordered in them, lists of kinds that it knows, sentences with given words.

A teacher's answers to the same requests are better reading; these never forget what was asked."""

import random
from dataclasses import replace

from daedal.worlds import requests
from daedal.worlds.answers import capital, in_form, items_of
from daedal.worlds.lexicon import (
    ANIMALS,
    COLOURS,
    FOODS,
    LOOKS,
    PEOPLE,
    PLACES,
    THINGS,
    a,
    pick,
)
from daedal.worlds.rewriting import VERBS
from daedal.worlds.stories import MORALS, words
from daedal.worlds.tasks import Task, asked, phrases

# {h} the hero, {o} another animal, {p} where, {t} a thing, {f} a food, {c} a colour
BEGINNINGS = (
    "One day, {h} was {p}.", "{h} went for a walk {p}.", "Early in the morning, {h} was {p}.", "Once upon a time, {h} was {p}.",
    "{h} loved to be {p}.", "It was a sunny day, and {h} was {p}.", "One evening, {h} was alone {p}.", "It was cold, and {h} was {p}.",
)  # fmt: skip
PLOTS = (
    ("There was {at} {p2}, and it shone like the sun.", "{h} wanted to take the {t} home, but {ao} sat on it.", '"Please may I have it?" asked {h}.', "The {o} nodded and gave {h} the {t}."),
    ("{h} looked for {at} everywhere.", "Then {ao} came and asked what was wrong.", '"I cannot find my {t}," said {h}.', "They looked under a bush, and there was the {t}."),
    ("In the grass lay {at}.", "{h} picked up the {t} and looked at it.", 'Suddenly {ao} called: "That is mine!"', "{h} gave it back, and the {o} was very thankful."),
    ("The wind blew and blew, and it took away {at}.", "{h} ran after the {t} as fast as the wind.", '"Stop!" cried {h}, and {ao} caught the {t}.', "They laughed so much that they had to sit down."),
    ("{h} made {at} for a friend.", "But the {t} broke, and {h} cried.", '"Do not cry, I will help you," said {ao}.', "They worked all day, and the new {t} was even better."),
    ("{h} had {at} and did not want to share it.", "Nobody came to play, and {h} felt lonely.", '"You can play with my {t}," {h} told {ao}.', "Now it was much more fun."),
    ("Far away there was a strange sound.", "It came from {at} in a tree.", '"Who is there?" asked {h}, and {ao} looked out of the {t}.', "It had only been singing a song."),
    ("{h} was hungry and had only some {f}.", "{ao} came by and was hungry too.", '"Let us share the {f}," said {h}.', "The {o} gave {h} {at} to say thank you."),
    ("{h} wanted to swim, but the water was deep.", "{ao} was afraid of the water too.", '"We can use this {t}," said {h}.', "They held on to the {t} and learned to swim together."),
    ("A big storm came, and the rain fell hard.", "{h} hid under {at}.", '"May I come in too?" asked {ao}.', "It was dry under the {t}, and they told each other stories."),
    ("{h} found a map, and on the map there was {at}.", "The way was long, and {ao} came along.", '"I can see the {t}!" said {h} at last.', "They had a feast of {f} and danced."),
    ("Today was the birthday of {ao}.", "{h} had no present and was worried.", 'Then {h} thought: "I will give my {t}."', "The {o} said that it was the best {t} in the world."),
    ("{h} tried to carry {at}, but it was too heavy.", "{h} pulled and pushed, and nothing moved.", '"Two are stronger than one," said {ao}.', "Together they carried the {t} home."),
    ("{h} saw {at} in the window of a shop.", "{h} worked hard for it all week.", '"You may have the {t} now," said {ao}.', "{h} jumped for joy."),
    ("In the night {h} could not sleep.", "Something {c} moved, and {h} was scared.", 'But it was only {ao} with {at}.', '"Sleep well," said the {o}.'),
    ("{ao} fell into a hole and could not get out.", "{h} heard it call for help.", '"Hold on to this {t}!" said {h}.', "{h} pulled, and soon the {o} was free."),
)  # fmt: skip
ENDINGS = (
    "From that day on they were good friends.", "{h} went home with a smile.", "That night {h} slept very well.", "{h} learned to {m}.",
    "They lived happily ever after.", "It was the best day of all.", "{h} never forgot that day.", "And {h} laughed and laughed.",
    "In the end everybody was happy.", "Then they ate {f} and sang a song.",
)  # fmt: skip
INTROS = (
    "{h} was {d}.", "There was once {d} called {h}.", "Once there lived {d} named {h}.", "Far away lived {h}, {d}.", "{h} was {d} who was always curious.",
    "There lived {d} whose name was {h}.",
)  # fmt: skip


def tell(rng: random.Random, held_out: bool) -> Task:
    """A story to order: who the hero is, what happens, how it ends; as long as was asked."""
    while True:
        asked_for, plan = requests.planned_story(rng, held_out)
        told = composed(rng, plan, held_out)
        if asked_for.check(told) == 1:
            return replace(asked_for, kind="tell", answer=told)


def composed(rng: random.Random, plan: requests.Plan, held_out: bool) -> str:
    other = plan.animal if plan.beside else pick(rng, ANIMALS, held_out)
    spot, second = (
        plan.place or pick(rng, tuple(PLACES), held_out),
        pick(rng, tuple(PLACES), held_out),
    )
    thing = plan.thing or pick(rng, THINGS, held_out)
    fill = {
        "h": plan.hero, "d": a(plan.who or "child"), "o": other, "ao": a(other), "t": thing, "at": a(thing), "p": PLACES[spot],
        "p2": PLACES[second], "f": requests.forms(pick(rng, FOODS, held_out))["xs"], "c": rng.choice(COLOURS), "m": rng.choice(MORALS),
    }  # fmt: skip
    opening = [rng.choice(INTROS)] * bool(plan.who) + [rng.choice(BEGINNINGS)]
    if plan.beside:
        opening = [f"{{h}} and {a(other)} were {{p}}."]
        fill["ao"] = f"the {other}"
    count = plan.count or len(opening) + rng.randint(4, 5)
    room = count - len(opening) - 1
    if room < 1:
        opening, room = ["{h}, {d}, was {p} and had {at}."], count - 2
    plot = rng.choice(PLOTS)
    lines = [*opening, *plot[:room], *rng.sample(ENDINGS, max(1, room - len(plot) + 1))]
    return " ".join(capital(line.format(**fill)) for line in lines)


# ---- lists ---------------------------------------------------------------------------------------

KNOWN: dict[str, tuple[str, ...]] = {
    "animals": ANIMALS, "foods": FOODS, "colours": COLOURS, "jobs": PEOPLE, "toys": phrases("ball | kite | doll | sled | puzzle | drum | marble | balloon | robot | truck"),
    "farm animals": phrases("cow | pig | hen | sheep | goat | horse | duck | goose | donkey"),
    "wild animals": phrases("lion | tiger | wolf | bear | fox | elephant | monkey | deer | snake"),
    "birds": phrases("owl | crow | robin | sparrow | eagle | swan | heron | parrot | penguin"),
    "insects": phrases("bee | ant | beetle | butterfly | fly | moth | wasp"), "sea animals": phrases("whale | crab | seal | fish | shark | octopus"),
    "pets": phrases("cat | dog | rabbit | mouse | bird | turtle | fish"), "fruits": phrases("apple | pear | plum | cherry | banana | orange | lemon | grape | melon"),
    "vegetables": phrases("carrot | potato | tomato | onion | bean | corn | pumpkin | cabbage"), "drinks": phrases("water | milk | tea | juice | coffee | lemonade"),
    "sweet things": phrases("honey | jam | cake | sugar | cookies | chocolate"), "tools": phrases("hammer | saw | shovel | axe | rake | broom | needle"),
    "clothes": phrases("coat | hat | scarf | shoe | sock | glove | shirt | dress"), "things in a kitchen": phrases("pot | spoon | plate | cup | oven | knife | bowl"),
    "things in a school": phrases("desk | chair | book | pencil | map | ruler"), "things in a garden": phrases("flower | tree | bench | rake | grass | bush"),
    "things that fly": phrases("bird | kite | plane | bee | balloon | bat"), "things that are round": phrases("ball | coin | wheel | ring | plate | moon"),
    "things that are red": phrases("cherry | tomato | rose | apple | fire truck | strawberry"), "things that are soft": phrases("pillow | feather | blanket | kitten | snow | wool"),
    "parts of the body": phrases("head | arm | leg | hand | foot | nose | ear | eye"), "sports": phrases("football | tennis | swimming | running | skiing | rowing"),
    "games": phrases("chess | tag | cards | marbles | dominoes"), "places": tuple(PLACES), "rooms of a house": phrases("kitchen | bathroom | bedroom | hall | attic | cellar"),
    "kinds of weather": phrases("rain | snow | wind | fog | storm | sunshine"), "flowers": phrases("rose | daisy | tulip | lily | violet | sunflower"),
    "trees": phrases("oak | pine | birch | maple | willow | apple tree"), "months": phrases("January | March | May | June | August | October | December"),
    "days of the week": phrases("Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday"), "feelings": phrases("joy | anger | fear | love | pride | hope"),
    "ways to travel": phrases("train | bus | bike | ship | plane | car | sled"), "musical instruments": phrases("drum | flute | violin | piano | guitar | whistle"),
    "family members": phrases("mother | father | sister | brother | aunt | uncle | grandmother"),
}  # fmt: skip


def listed(rng: random.Random, held_out: bool) -> Task:
    """A list of a kind that is known here, in the form asked for."""
    while True:
        wanted, what, count, how = requests.planned_list(rng, held_out)
        if what in KNOWN:
            break
    items = rng.sample(KNOWN[what], count)
    marks = {"dash": "- {1}", "umber": "{0}. {1}", "ine": "{1}"}
    mark = next((mark for word, mark in marks.items() if word in how), "")
    lines = [mark.format(i, item) for i, item in enumerate(items, 1)]
    answer = "\n".join(lines) if mark else f"{', '.join(items)}."
    demands = wanted.demands

    def strict(text: str) -> dict[str, bool]:
        assert demands
        found = {item.rstrip("s") for item in items_of(text)}
        known = {item.lower().rstrip("s") for item in KNOWN[what]}
        return demands(text) | ({"of the kind": found <= known} if len(KNOWN[what]) < 12 else {})

    assert not in_form(how, answer) or in_form(how, answer)["form"]
    return asked("listed", wanted.prompt, capital(answer) if not mark else answer, strict)


# ---- sentences -----------------------------------------------------------------------------------


def worded(rng: random.Random, held_out: bool) -> Task:
    """A sentence with one or two given words."""
    maker = rng.choice((requests.two_words, requests.about_noun("sentence")))
    sorts = {"animal": ANIMALS, "thing": THINGS, "food": FOODS, "person": PEOPLE}
    while True:
        wanted = maker(rng, held_out)
        nouns = [
            word for word in words(wanted.prompt) if any(word in some for some in sorts.values())
        ]
        if len(nouns) == (2 if maker is requests.two_words else 1):
            break
    doers = [word for word in nouns if word in ANIMALS or word in PEOPLE]
    subject = doers[0] if doers else pick(rng, ANIMALS, held_out)
    rest = [word for word in nouns if word != subject] or [pick(rng, THINGS, held_out)]
    verb, place = rng.choice(VERBS), PLACES[pick(rng, tuple(PLACES), held_out)]
    what = f"{a(rest[0])} and {a(rest[1])}" if len(rest) > 1 else a(rest[0])
    look = f"{pick(rng, LOOKS, held_out)} " * (rng.random() < 0.5)
    answer = f"The {look}{subject} {rng.choice(verb[1:])} {what}{rng.choice(('', f' {place}'))}."
    return replace(wanted, kind="worded", answer=answer)
