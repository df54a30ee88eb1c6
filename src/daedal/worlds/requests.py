"""Requests of everyday life in simple English, over a grid of kinds, words and phrasings: what a
teacher answers for a small model to learn from, and, with phrasings and words that training never
meets, what the small model is measured on.

    r = request(random.Random("7/42"))
    r.prompt        # Tell me a story about a heron called Pim. Put a lantern in it.
    r.check(text)   # the share of what a program can tell of its answer: length, words asked for, form

No answer comes with a request: `Task.answer` is empty."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daedal.worlds.answers import capital, in_form, items_of, mentions, plainly
from daedal.worlds.lexicon import (
    ANIMALS,
    FOODS,
    LOOKS,
    NATURE,
    NUMBERS,
    PEOPLE,
    PLACES,
    THINGS,
    a,
    name,
    pick,
    picks,
    plural,
)
from daedal.worlds.stories import says, sentences, well_made, words
from daedal.worlds.tasks import Task, asked, phrases

NOUNS = (*ANIMALS, *THINGS, *FOODS, *PEOPLE, *NATURE)
UNCOUNTED = {*NATURE, "bread", "soup", "rice", "honey", "cheese", "milk", "jam", "porridge", "corn", "butter", "salad", "tea"} - {
    "tree", "star", "cloud", "rainbow", "river", "shadow", "dream", "birthday", "holiday", "friend",
}  # fmt: skip
SORTS = (ANIMALS, THINGS, FOODS, PEOPLE)

# Of each list of phrasings the part after the bar is for evaluation only.
Phrasings = tuple[tuple[str, ...], tuple[str, ...]]


def both(text: str) -> Phrasings:
    """Phrasings of training and of evaluation, which stand after a double bar."""
    ours, theirs = text.split(" || ")
    return phrases(ours), phrases(theirs)


TELL = both(
    "Write a story | Write a short story | Tell me a story | Please tell me a story | Tell a little "
    "story | Make up a story | I want a story | Can you tell me a story | I would like to hear a tale "
    "| Tell us a tale | Give me a small story | Please write a little tale | Write something nice "
    "| Tell me a short story | Give me a story | Write me a story | Please "
    "make up a tale | Tell a tale | I need a story | Could you tell a story | How about a story | "
    "Now tell me a little tale | Let us have a story | Write a tiny story | Tell me a bedtime "
    "story | Write a funny story | Will you write a story for me | Come up with a story | I want "
    "to read a story | Begin a story | Make a story "
    "|| "
    "Could you invent a story | Let me hear a story | Compose a tiny tale | Please think of a story"
)
ABOUT = both(
    "about {a_animal} called {name} | about {name} the {animal} | about {a_look} {animal} named {name} "
    "| about {name}, {a_look} {animal} | with {a_animal} named {name} in it | about {a_person} called "
    "{name} | about {name} the {person} | about a child called {name} | about {name} and {a_animal} "
    "| in which {a_animal} called {name} has an adventure | about {a_animal} whose name is {name} "
    "| on {name}, {a_animal} | about the {animal} {name} | about how {name} the {animal} has a "
    "good day | that tells of {name}, {a_animal} | about {name}, who is {a_animal} | in which "
    "{name}, {a_person}, is the hero | about {a_person} named {name} "
    "|| "
    "whose hero is {a_animal}, {name} | starring {name}, {a_animal} | of {a_look} {animal} with the "
    "name {name} | where {name} the {animal} is the hero"
)
WITH = both(
    "Put {a_thing} in it. | Use the word {thing}. | There should be {a_thing} in it. | {name} finds "
    "{a_thing}. | It must have {a_thing}. | Say something about {a_thing} too. "
    "| There is {a_thing} in it. | Let {name} have {a_thing}. | Please use the word {thing}. | "
    "{a_thing} should be in the story. | I want {a_thing} in it. | It is also about {a_thing}. | "
    "Write about {a_thing} too. | Add {a_thing} to it. | Make sure that there is {a_thing}. | "
    "Tell of {a_thing}, too. "
    "|| The word {thing} has "
    "to be in it. | {a_thing} must turn up. | Do not leave out {a_thing}."
)
WHERE = both(
    "It happens {place}. | They are {place}. | It should take place {place}. | {name} is {place}. "
    "| All of it happens {place}. | The story is "
    "{place}. | {name} lives {place}. "
    "|| "
    "Set it {place}. | Let it begin {place}."
)
LONG = both(
    "Make it {n} sentences long. | Use {n} sentences. | In {n} sentences, please. | Write {n} "
    "sentences. "
    "| Write it in {n} sentences. | {n} sentences, please. | Tell "
    "it in {n} sentences. | Not more and not less than {n} sentences. | Make {n} sentences. "
    "|| Keep it to {n} sentences. | It should have {n} sentences."
)


@dataclass(frozen=True)
class Plan:
    """What a story was ordered to have: its hero and what the hero is (of a child or nothing said,
    ""), another animal `beside` the hero, a thing, a place and a number of sentences, where they
    were asked for."""

    hero: str
    who: str
    animal: str
    beside: bool
    thing: str
    place: str
    count: int


def planned_story(rng: random.Random, held_out: bool) -> tuple[Task, Plan]:
    """A request for a story, and what it asks for."""
    hero, animal = name(rng, held_out), pick(rng, ANIMALS, held_out)
    look, person = pick(rng, LOOKS, held_out), pick(rng, PEOPLE, held_out)
    thing, spot = pick(rng, THINGS, held_out), pick(rng, tuple(PLACES), held_out)
    fill = {"name": hero, "animal": animal, "person": person, "thing": thing, "place": PLACES[spot]}
    fill |= {"a_animal": a(animal), "a_person": a(person), "a_thing": a(thing), "a_look": a(look)}
    about, extras, chosen = rng.choice(ABOUT[held_out]), list[str](), {}
    for kind, chance in (("thing", 0.5), ("place", 0.35), ("count", 0.25)):
        if rng.random() < chance:
            extras.append(
                rng.choice({"thing": WITH, "place": WHERE, "count": LONG}[kind][held_out])
            )
            chosen[kind] = {"thing": thing, "place": spot, "count": rng.randint(3, 6)}[kind]
    fill["n"] = NUMBERS[chosen.get("count", 0)]
    beside = about == "about {name} and {a_animal}"
    what = animal if "animal" in about else person if "person" in about else ""
    who = (
        ""
        if beside
        else f"{look} {what}"
        if "look" in about
        else what or "child" * ("child" in about)
    )
    plan = Plan(
        hero,
        who,
        animal,
        beside,
        chosen.get("thing", ""),
        chosen.get("place", ""),
        chosen.get("count", 0),
    )
    lines = [f"{rng.choice(TELL[held_out])} {about}.", *rng.sample(extras, len(extras))]
    prompt = " ".join(capital(line.format(**fill)) for line in lines)
    named = {
        "hero named": hero,
        "what it is": what,
        "word used": plan.thing,
        "place used": plan.place,
    }

    def demands(text: str) -> dict[str, bool]:
        found = len(sentences(text))
        met = {demand: mentions(text, word) for demand, word in named.items() if word}
        met |= {"length": found == plan.count if plan.count else 3 <= found <= 12}
        return met | {"whole sentences": well_made(text)}

    return asked("story", prompt, "", demands), plan


def story(rng: random.Random, held_out: bool) -> Task:
    return planned_story(rng, held_out)[0]


# ---- knowing and saying --------------------------------------------------------------------------

ASKED: dict[str, tuple[Phrasings, int]] = {  # kind -> phrasings, sentences of an answer at most
    "explain": (both(
        "What is {a_x}? | What are {xs}? | Tell me about {xs}. | Explain what {a_x} is. | What do you know about "
        "{xs}? | Can you tell me what {a_x} is? | Say something about {xs}. | What can you tell me about {a_x}? "
    "| Tell me what {a_x} is. | What is the meaning of {x}? | Say what {a_x} is. | Describe what "
    "{xs} are. | I do not know what {a_x} is. | Can you explain {xs}? | What exactly is {a_x}? "
    "|| Please explain {a_x} to me. | I want to know more about {xs}. | Do you know what {a_x} is?"), 4),
    "describe": (both(
        "Describe {a_x}. | What does {a_x} look like? | How does {a_x} look? | Describe {a_x} in two sentences. "
        "|| Tell me how {a_x} looks. | Give me a description of {a_x}."), 4),
    "use": (both(
        "What can I do with {a_x}? | What is {a_x} good for? | Why do people like {xs}? | Why are {xs} nice? | "
        "Where can I find {a_x}? || Where do you see {xs}? | What makes {xs} special?"), 4),
    "sentence": (both(
        "Write a sentence with the word {x}. | Make a sentence with {x}. | Use the word {x} in a sentence. | "
        "Write one sentence about {a_x}. "
    "| Say a sentence with {x} in it. | Give me a sentence with the word {x}. | I need a sentence "
    "with {x}. | Please write a sentence about {a_x}. | Make up a sentence with the word {x}. | "
    "Form a sentence with {x}. | Can you use {x} in a sentence? | Build a sentence around the "
    "word {x}. | A sentence with {x}, please. "
    "|| Put the word {x} into a sentence. | Say one sentence about {a_x}."), 1),
    "rhyme": (both(
        "Write a short rhyme about {a_x}. | Write a little poem about {a_x}. | Make a rhyme about {xs}. | Can you "
        "write two lines that rhyme about {a_x}? || Please rhyme about {a_x}. | I would like a poem about {xs}."), 8),
    "question": (both(
        "Write a question about {a_x}. | Ask me something about {xs}. | What could I ask about {a_x}? || Make up a "
        "question about {xs}."), 1),
    "think": (both(
        "Do you like {xs}? | What do you think of {xs}? | Let us talk about {xs}. | I like {xs}. | I saw {a_x} "
        "today. | My friend has {a_x}. || I love {xs}, do you? | I want to talk about {xs}. | Look, {a_x}!"), 4),
    "imagine": (both(
        "What would {a_x} say if it could talk? | Imagine that you are {a_x}. What do you do? | What does {a_x} "
        "dream of? || Pretend to be {a_x} and say hello."), 4),
}  # fmt: skip


def about_noun(kind: str) -> Callable[[random.Random, bool], Task]:
    """Maker of a kind of ASKED."""
    phrasings, most = ASKED[kind]

    def make(rng: random.Random, held_out: bool) -> Task:
        noun = pick(rng, NOUNS, held_out)
        prompt = rng.choice(phrasings[held_out]).format(**forms(noun))

        def demands(text: str) -> dict[str, bool]:
            met = {"about it": mentions(text, noun)} | plainly(text, most)
            return met | ({"a question": text.rstrip().endswith("?")} if kind == "question" else {})

        return asked(kind, prompt, "", demands)

    return make


def forms(noun: str) -> dict[str, str]:
    """How a noun stands in a phrase: itself, with its article, many of it."""
    if noun in UNCOUNTED:
        return {"x": noun, "a_x": noun, "xs": noun}
    return {"x": noun, "a_x": a(noun), "xs": plural(noun)}


COMPARE = both(
    "What is the difference between {a_x} and {a_y}? | How are {xs} and {ys} different? | Compare {a_x} with "
    "{a_y}. | Which is bigger, {a_x} or {a_y}? | What do {xs} and {ys} have in common? "
    "| Tell me the difference between {a_x} and {a_y}. | What is not the same in {a_x} and {a_y}? "
    "| Is {a_x} like {a_y}? | How is {a_x} different from {a_y}? | Are {xs} and {ys} the same? "
    "|| In what way is {a_x} "
    "not like {a_y}? | Please compare {xs} and {ys}."
)


def compare(rng: random.Random, held_out: bool) -> Task:
    x, y = picks(rng, rng.choice(SORTS), 2, held_out)
    second = {key.replace("x", "y"): value for key, value in forms(y).items()}
    prompt = rng.choice(COMPARE[held_out]).format(**forms(x), **second)

    def demands(text: str) -> dict[str, bool]:
        return {"both named": mentions(text, x) and mentions(text, y)} | plainly(text, 4)

    return asked("compare", prompt, "", demands)


TWO_WORDS = both(
    "Write a sentence with the words {x} and {y}. | Make one sentence with {x} and {y}. | Use {x} and {y} in one "
    "sentence. "
    "| Make a sentence from {x} and {y}. | Give me a sentence with {x} and {y}. | I need a "
    "sentence with {x} and {y} in it. | Can you use {x} and {y} in a sentence? | A sentence with "
    "{x} and {y}, please. | Two words: {x}, {y}. Make a sentence. | Say something with both {x} "
    "and {y}. | Build a sentence around {x} and {y}. | {x} and {y}: write one sentence. | Make up "
    "one sentence with the words {x} and {y}. "
    "|| Put {x} and {y} into one sentence. | Write a sentence that has {x} and {y} in it."
)


def two_words(rng: random.Random, held_out: bool) -> Task:
    x, y = picks(rng, NOUNS, 2, held_out)
    prompt = rng.choice(TWO_WORDS[held_out]).format(x=x, y=y)

    def demands(text: str) -> dict[str, bool]:
        return {"first": mentions(text, x), "second": mentions(text, y)} | plainly(text, 1)

    return asked("two words", prompt, "", demands)


# ---- lists ---------------------------------------------------------------------------------------

CATEGORIES = phrases(
    "animals | farm animals | wild animals | birds | insects | sea animals | pets | fruits | vegetables | "
    "foods | drinks | sweet things | colours | toys | tools | clothes | things in a kitchen | things in a "
    "school | things in a garden | things that fly | things that are round | things that are red | things "
    "that are soft | parts of the body | jobs | sports | games | places | rooms of a house | kinds of "
    "weather | flowers | trees | months | days of the week | feelings | ways to travel | musical "
    "instruments | family members | things to do on a rainy day | things to take on a trip | presents for a "
    "friend | good names for a cat | good names for a dog | ways to be kind | things that make noise"
)
LIST = both(
    "Name {n} {what}. | Give me {n} {what}. | Write down {n} {what}. | List {n} {what}. | Can you name {n} "
    "{what}? | I need {n} {what}. | Tell me {n} {what}. "
    "| Give {n} {what}. | {n} {what}, please. | Tell me the names of {n} {what}. | I would like "
    "to have {n} {what}. | Write {n} {what}. | Make a list of {n} {what}. | I want to know {n} "
    "{what}. | Do you know {n} {what}? | Think of {n} {what}. | Can you give me {n} {what}? | Say "
    "{n} {what}. | Find {n} {what}. | Could you list {n} {what}? | A list of {n} {what}, please. "
    "|| Please write {n} {what}. | What are {n} {what}? | "
    "Which {n} {what} do you know?"
)
FORMATS = both(
    "{} | {} Use commas. | {} Put each on its own line. | {} Use dashes. | {} Number them. "
    "| {} Put commas between them. | {} Separate them by commas. | {} Each on a new line. | {} "
    "Every one on its own line. | {} Put a dash in front of each. | {} With dashes, please. | {} "
    "With numbers in front. | {} Number each of them. | {} Use a new line for each. "
    "|| {} With commas, "
    "please. | {} One on each line. | {} Write a numbered list."
)


def planned_list(rng: random.Random, held_out: bool) -> tuple[Task, str, int, str]:
    """A request for a list, of what, how many, and the words about its form."""
    what, count = pick(rng, CATEGORIES, held_out), rng.randint(2, 5)
    how = rng.choice(FORMATS[held_out])
    prompt = how.format(rng.choice(LIST[held_out]).format(n=NUMBERS[count], what=what))

    def demands(text: str) -> dict[str, bool]:
        items = items_of(text)
        met = {"number": len(items) == count, "all different": len(set(items)) == len(items)}
        return (
            met | {"short": all(1 <= len(words(item)) <= 8 for item in items)} | in_form(how, text)
        )

    return asked("list", prompt, "", demands), what, count, how


def listing(rng: random.Random, held_out: bool) -> Task:
    return planned_list(rng, held_out)[0]


# ---- people --------------------------------------------------------------------------------------

DEEDS = phrases(
    "make a friend | sleep better | learn to swim | cheer up a friend | say sorry | bake a cake | plant a "
    "flower | find a lost toy | be brave | clean my room | get up early | learn a song | draw a cat | help my "
    "mother | care for a puppy | stop being angry | thank my teacher | make a kite | stay warm in winter | "
    "keep a secret | read more books | share my toys | make my brother laugh | feed the birds | build a sand "
    "castle | calm down | wait for my turn | tell the truth | be a good friend | grow tomatoes | wash my hands "
    "well | ride a bike | make soup | write a letter | have fun on a rainy day | be on time | save water | "
    "remember things | get rid of hiccups | choose a present | invite a friend | be polite"
)
ADVICE = both(
    "How can I {x}? | How do I {x}? | What is a good way to {x}? | Can you help me to {x}? | I want to {x}. What "
    "should I do? | Tell me how to {x}. | Give me a tip: how do I {x}? || What would you do to {x}? | Please give "
    "me advice on how to {x}. | I do not know how to {x}."
)
REASONS = {
    "sad": phrases("my cat is ill | my friend moved away | I lost my ball | it rains all day | nobody plays with me | my toy broke | my grandma went home | I missed the bus"),
    "happy": phrases("it is my birthday | I got a new book | my friend comes to visit | I won the game | the sun is out | we have a new puppy | I can swim now"),
    "angry": phrases("my brother took my toy | somebody pushed me | I must go to bed | they laughed at me | my tower fell down"),
    "scared": phrases("it is dark | there was thunder | I start at a new school | I saw a big spider | I must go to the doctor | I had a bad dream"),
    "tired": phrases("I ran all day | I did not sleep well | I worked a lot | school was long"),
    "proud": phrases("I made a cake | I learned to read | I helped my mother | I drew a horse"),
    "worried": phrases("I have a test tomorrow | my dog ran away | my friend is ill | I broke a cup"),
    "bored": phrases("it is raining | nobody is at home | I have read all my books"),
}  # fmt: skip
FEELING = both(
    "I am {f} because {r}. | I feel {f} today. {R}. | I am so {f}! {R}. | {R}. I am {f}. | I'm {f}, {r}. || {R}, "
    "and that makes me {f}. | Today I am very {f}, because {r}."
)
NOTES = both(
    "Write a short note to thank {name} for the {x}. | Write a birthday card for {name}. | Write a short letter to "
    "{name} about {a_x}. | Invite {name} to play with the {x}. | Tell {name} politely that you cannot come. | Say "
    "sorry to {name} for breaking the {x}. "
    "| Write a letter to {name}. Say thank you for the {x}. | I want to thank {name} for the {x}. "
    "Write it for me. | Write a few words to {name} about {a_x}. | Say thank you to {name} for "
    "the {x}. | Ask {name} in a note to bring the {x}. | Tell {name} in a note that the {x} is "
    "lost. "
    "|| Thank {name} for the {x} in a few words. | Write {name} a kind "
    "message about the {x}."
)
WHY = phrases(
    "the sky is blue | birds fly | we sleep | leaves fall | cats purr | dogs bark | it rains | we eat | people "
    "laugh | bees make honey | we wash our hands | snow is cold | ice melts | we say thank you | the sun is hot "
    "| people work | children play | babies cry | we wear coats | fish swim | cows eat grass | we brush our "
    "teeth | people have pets | it gets dark at night | flowers smell good | we go to school | friends share"
)
WHY_ASKED = both(
    "Do you know why {x}? | Tell me why {x}. | Explain why {x}. | Can you say why {x}? || I wonder why {x}. | "
    "Please tell me why {x}."
)


def advice(rng: random.Random, held_out: bool) -> Task:
    prompt = rng.choice(ADVICE[held_out]).format(x=pick(rng, DEEDS, held_out))
    return asked("advice", prompt, "", lambda text: plainly(text, 5))


def feeling(rng: random.Random, held_out: bool) -> Task:
    what = rng.choice(tuple(REASONS))
    reason = rng.choice(REASONS[what])
    fill = {"f": what, "r": reason, "R": capital(reason)}
    prompt = rng.choice(FEELING[held_out]).format(**fill)
    return asked("feeling", prompt, "", lambda text: plainly(text, 4))


def why(rng: random.Random, held_out: bool) -> Task:
    prompt = rng.choice(WHY_ASKED[held_out]).format(x=pick(rng, WHY, held_out))
    return asked("why", prompt, "", lambda text: plainly(text, 4))


def note(rng: random.Random, held_out: bool) -> Task:
    whom, noun = name(rng, held_out), pick(rng, THINGS, held_out)
    prompt = rng.choice(NOTES[held_out]).format(name=whom, **forms(noun))

    def demands(text: str) -> dict[str, bool]:
        met = {"to whom": says(text, whom)}
        return (
            met
            | ({"of what": mentions(text, noun)} if noun in words(prompt) else {})
            | plainly(text, 7)
        )

    return asked("note", prompt, "", demands)


MAKERS: dict[str, Callable[[random.Random, bool], Task]] = {
    "story": story, **{kind: about_noun(kind) for kind in ASKED}, "compare": compare, "two words": two_words, "list": listing,
    "advice": advice, "feeling": feeling, "why": why, "note": note,
}  # fmt: skip
KINDS = tuple(MAKERS)
SHARES = {
    "story": 8, "explain": 4, "list": 3, "advice": 3, "feeling": 2, "note": 2, "compare": 2, "two words": 2, "think": 2,
}  # fmt: skip


def request(rng: random.Random, kinds: Sequence[str] = KINDS, held_out: bool = False) -> Task:
    """One of the kinds, by SHARES; a function of `rng` alone."""
    kind = rng.choices(kinds, [SHARES.get(kind, 1) for kind in kinds])[0]
    return MAKERS[kind](rng, held_out)
