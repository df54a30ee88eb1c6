"""Small talk: greetings, names and favourites told and asked for later, feelings, what the model is
and can do, questions about the story it has just told, and "I don't know" to what lies outside its
small world.

    t = task(random.Random("7/42"))
    t.messages        # the conversation up to what the user says last; its assistant turns are
    right answers too
    t.check(text)     # what an answer to that earns

A task is a function of the generator alone. Every tenth pair of a name and a favourite is held out,
and every tenth open question."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from daedal.worlds import lexicon
from daedal.worlds.stories import (
    ANIMALS,
    COLOURS,
    FOODS,
    HEROES,
    Story,
    apart,
    says,
    sentences,
    story,
)
from daedal.worlds.tasks import Task, asked, phrases

HELLO = phrases(
    "Hello! | Hi! | Hi there! | Hello there. | Good morning! | Good evening! | Hey! | hello | hi"
)
HOW = ("How are you?", "How are you today?", "How do you do?", "Are you well?")
WELL = ("I am well, thank you.", "I am fine, thank you.", "Very well, thank you.")
OFFERS = (
    "What would you like to do?",
    "Shall I tell you a story?",
    "How can I help you?",
    "Would you like a story?",
)
TOLD_NAME = ("My name is {name}.", "I am {name}.", "I'm {name}.", "You can call me {name}.")
ASK_NAME = (
    "What is my name?",
    "Do you know my name?",
    "What am I called?",
    "Do you remember my name?",
    "Who am I?",
)
KINDS_OF_LIKING = {"animal": ANIMALS, "colour": COLOURS, "food": FOODS}
GLAD = ("happy", "glad", "excited", "proud")
SAD = ("sad", "lonely", "scared", "angry", "tired", "bored", "ill", "worried")
WHO = phrases(
    "Who are you? | What are you? | What is your name? | Tell me about yourself. | Are you a "
    "person? | Are you a robot? | Are you real?"
)
CAN = ("What can you do?", "Can you help me?", "Help!", "What do you know?", "How can you help me?")
THANKS = phrases(
    "Thank you! | Thanks! | Thank you very much. | That was nice. | I liked that. | Good job! | "
    "Well done! | Great!"
)
BYE = ("Goodbye!", "Bye!", "Bye bye.", "Good night!", "See you tomorrow.", "I have to go now.")
ABOUT_ME = "I am Daedal, a small computer program that tells stories."
ABLE = "I can tell a story, answer questions about a text, write a list, change a text and do small sums."
NOT_TOLD = ("don't know", "did not tell")
UNKNOWN = ("I don't know.", "I don't know that.", "I don't know. I only know a small world.")

LANDS = phrases(
    "France | Spain | India | China | Brazil | Egypt | Japan | Canada | Kenya | Peru | Italy | "
    "Norway | Chile | Iran | Mali"
)
PEOPLE = (
    "the king", "the queen", "the president", "Shakespeare", "Mozart", "Napoleon", "Einstein", "the mayor", "my teacher", "my neighbour",
    "Darwin", "my boss",
)  # fmt: skip
SUBJECTS = (
    "physics", "the war", "money", "history", "electricity", "the law", "medicine", "football", "the internet", "computers", "gravity",
    "the economy", "chess", "DNA", "the stock market",
)  # fmt: skip
DEEDS = (
    "win the election", "fix my car", "file my taxes", "get a visa", "learn French", "build a house", "invest my money", "cure a cold",
    "write a letter to a lawyer", "cook a lobster",
)  # fmt: skip
OPEN: tuple[tuple[str, Sequence[str]], ...] = (
    ("What is the capital of {}?", LANDS), ("How many people live in {}?", LANDS), ("Where is {}?", LANDS), ("What do people speak in {}?", LANDS),
    ("Who is the president of {}?", LANDS), ("When was {} born?", PEOPLE), ("How old is {}?", PEOPLE), ("Who is {}?", PEOPLE), ("Where does {} live?", PEOPLE),
    ("What did {} say?", PEOPLE), ("Can you explain {} to me?", SUBJECTS), ("What do you think of {}?", SUBJECTS), ("What is {}?", SUBJECTS),
    ("Tell me about {}.", SUBJECTS), ("How do I {}?", DEEDS), ("Can you {}?", DEEDS), ("What is the weather like in {}?", LANDS),
    ("What time is it in {}?", LANDS), ("What is the news from {}?", LANDS), ("Who won the game in {}?", LANDS),
)  # fmt: skip

Say = Callable[[str], dict[str, bool]]


@dataclass
class Talk:
    """A conversation as it grows: what was told, the exchanges so far, and how the last answer is
    judged."""

    rng: random.Random
    held_out: bool
    name: str = ""
    liked: dict[str, str] = field(default_factory=dict)  # kind -> favourite
    told: Story | None = None
    last: Task | None = None

    def add(self, prompt: str, answer: str, demands: Say) -> None:
        task = asked("talk", prompt, answer, demands)
        if self.last:
            said = {"role": "assistant", "content": self.last.answer}
            task = replace(task, before=(*self.last.messages, said))
        self.last = task

    @property
    def you(self) -> str:
        """ ", Tom", now and then, when the name is known."""
        return f", {self.name}" if self.name and self.rng.random() < 0.7 else ""


def brief(text: str, wanted: Sequence[str], not_said: Sequence[str] = ()) -> dict[str, bool]:
    """One of the words `wanted` said, none of `not_said`, and in at most three sentences."""
    said = any(says(text, word) for word in wanted) and not any(
        says(text, word) for word in not_said
    )
    return {"right": said, "short": 1 <= len(sentences(text)) <= 3}


# ---- what is said --------------------------------------------------------------------------------


def greeting(talk: Talk) -> None:
    rng = talk.rng
    hello, asks = rng.choice(HELLO), rng.random() < 0.5
    reply = (
        "Good morning" if "morning" in hello else "Good evening" if "evening" in hello else "Hello"
    )
    prompt, you = f"{hello} {rng.choice(HOW)}" if asks else hello, talk.you
    well = f" {rng.choice(WELL)}" if asks else ""
    answer = f"{reply}{you}!{well} {rng.choice(OFFERS)}"
    wanted = ("well", "fine") if asks else (reply, "hi")
    talk.add(prompt, answer, partial(brief, wanted=wanted, not_said=("know",)))


def naming(talk: Talk) -> None:
    rng = talk.rng
    talk.name = (
        lexicon.name(rng, talk.held_out) if rng.random() < 0.7 else rng.choice(tuple(HEROES))
    )
    hello = rng.random() < 0.5
    prompt = f"{rng.choice(HELLO)} " * hello + rng.choice(TOLD_NAME).format(name=talk.name)
    answer = (
        f"Hello, {talk.name}! {rng.choice(OFFERS)}"
        if hello
        else rng.choice(("Nice to meet you, {}!", "Hello, {}! Nice to meet you.")).format(talk.name)
    )
    talk.add(prompt, answer, partial(brief, wanted=(talk.name,)))


def recall_name(talk: Talk) -> None:
    prompt, others = talk.rng.choice(ASK_NAME), tuple(name for name in HEROES if name != talk.name)
    if talk.name:
        answer, wanted = f"Your name is {talk.name}.", (talk.name,)
    else:
        answer, wanted = "I don't know. You did not tell me your name.", NOT_TOLD
    talk.add(prompt, answer, partial(brief, wanted=wanted, not_said=others))


def liking(talk: Talk) -> None:
    rng = talk.rng
    kind = rng.choice(tuple(KINDS_OF_LIKING))
    some = KINDS_OF_LIKING[kind]
    what = rng.choice(
        [each for each in some if apart(talk.name or kind, each, talk.held_out)] or some
    )
    talk.liked[kind] = what
    many = what if kind != "animal" else {"mouse": "mice", "fox": "foxes"}.get(what, f"{what}s")
    favourite = f"My favourite {kind} is {'the ' * (kind == 'animal')}{what}."
    prompt = rng.choice((favourite, f"I like {many}.", f"I love {many}!"))
    if not prompt.startswith("My"):
        prompt += f" It is my favourite {kind}."
    reply = {"animal": f"{many.capitalize()} are lovely{talk.you}!", "colour": f"{what.capitalize()} is a lovely colour{talk.you}!", "food": f"{what.capitalize()} is good to eat{talk.you}!"}[kind]  # fmt: skip
    talk.add(prompt, reply, partial(brief, wanted=(what, many)))


def recall_liking(talk: Talk) -> None:
    rng = talk.rng
    if rng.random() < 0.8:
        kind = rng.choice(tuple(talk.liked) or tuple(KINDS_OF_LIKING))
    else:
        kind = rng.choice(tuple(KINDS_OF_LIKING))
    prompt = rng.choice(
        ("What is my favourite {}?", "Do you know my favourite {}?", "Which {} do I like best?")
    ).format(kind)
    if kind in talk.liked:
        what = f"{'the ' * (kind == 'animal')}{talk.liked[kind]}"
        others = [other for other in KINDS_OF_LIKING[kind] if other != talk.liked[kind]]
        right = partial(brief, wanted=(talk.liked[kind],), not_said=others)
        talk.add(prompt, f"Your favourite {kind} is {what}.", right)
    else:
        answer = f"I don't know. You did not tell me your favourite {kind}."
        talk.add(prompt, answer, partial(brief, wanted=NOT_TOLD))


def feeling(talk: Talk) -> None:
    rng = talk.rng
    glad = rng.random() < 0.4
    what = rng.choice(GLAD if glad else SAD)
    prompt = rng.choice(("I am {} today.", "I feel {}.", "I am so {}.", "I'm {}.")).format(what)
    if glad:
        answer = f"I am glad that you are {what}{talk.you}! {rng.choice(OFFERS)}"
    else:
        answer = f"I am sorry that you are {what}{talk.you}. {rng.choice(('Would you like a story?', 'Shall I tell you a story?', 'Can I help you?'))}"
    talk.add(prompt, answer, partial(brief, wanted=("glad" if glad else "sorry",)))


def who(talk: Talk) -> None:
    prompt = talk.rng.choice(WHO)
    first = {"Are you a person?": "No. ", "Are you real?": "No. ", "Are you a robot?": "Yes. "}
    talk.add(prompt, first.get(prompt, "") + ABOUT_ME, partial(brief, wanted=("Daedal", "program")))


def able(talk: Talk) -> None:
    talk.add(talk.rng.choice(CAN), ABLE, partial(brief, wanted=("story", "stories")))


def open_question(talk: Talk) -> None:
    rng = talk.rng
    while True:
        words, some = rng.choice(OPEN)
        what = rng.choice(some)
        if apart(words, what, talk.held_out):
            break
    talk.add(words.format(what), rng.choice(UNKNOWN), partial(brief, wanted=("don't know",)))


def thanks(talk: Talk) -> None:
    rng = talk.rng
    if rng.random() < 0.6:
        answers = (f"You are welcome{talk.you}!", f"I am glad that you like it{talk.you}!")
        answer = rng.choice(answers)
        prompt, wanted = rng.choice(THANKS), ("welcome", "glad")
    else:
        prompt, wanted = rng.choice(BYE), ("goodbye", "good night", "bye")
        answer = f"Good night{talk.you}!" if "night" in prompt else f"Goodbye{talk.you}!"
    talk.add(prompt, answer, partial(brief, wanted=wanted, not_said=("know",)))


def telling(talk: Talk) -> None:
    """A story, asked for without many words: of somebody, or of anybody."""
    rng, again = talk.rng, talk.told is not None
    talk.told = tale = story(rng, talk.held_out)
    if again:
        asking = ("Tell me another one", "Another story, please", "One more")
    else:
        asking = ("Tell me a story", "Yes, please", "A story, please", "I want a story")
    named = rng.random() < 0.5
    prompt = rng.choice(asking) + (f" about {tale.hero}." if named else ".")

    def demands(text: str) -> dict[str, bool]:
        return {"a story": 3 <= len(sentences(text)) <= 8} | (
            {"hero named": says(text, tale.hero)} if named else {}
        )

    talk.add(prompt, tale.text, demands)


def about_story(talk: Talk) -> None:
    """A question about the story that the assistant has just told."""
    rng, tale = talk.rng, talk.told
    assert tale is not None
    asks = [
        (rng.choice(("Who was in the story?", "Who was the story about?", "What was the child called?")), tale.hero, f"The story was about {tale.hero}.", tuple(HEROES)),
        (rng.choice((f"Where was {tale.hero}?", "Where did it happen?")), tale.place, f"{tale.hero} was {tale.place}.", ()),
    ]  # fmt: skip
    if says(tale.text, tale.animal):
        answer = f"There was a {tale.animal} in the story."
        asks.append(("Which animal was in the story?", tale.animal, answer, ANIMALS))
    if tale.ending[0] == "moral":
        learned = tale.ending[1]
        answer = f"{tale.hero} learned to {learned}."
        asks.append((f"What did {tale.hero} learn?", learned, answer, ()))
    prompt, right, answer, rivals = rng.choice(asks)
    others = [rival for rival in rivals if rival != right]
    talk.add(prompt, answer, partial(brief, wanted=(right,), not_said=others))


# ---- a conversation ------------------------------------------------------------------------------

MIDDLE = (
    naming,
    liking,
    feeling,
    who,
    able,
    open_question,
    open_question,
    telling,
    recall_name,
    recall_liking,
    thanks,
)


def task(rng: random.Random, held_out: bool = False) -> Task:
    """One to five exchanges: a greeting or the point at once, then one thing after another; what
    was told is asked for soon after."""
    talk = Talk(rng, held_out)
    if rng.random() < 0.6:
        rng.choice((greeting, greeting, naming))(talk)
    for _ in range(rng.randint(0 if talk.last else 1, 4)):
        following(talk)(talk)
    assert talk.last is not None
    return talk.last


def following(talk: Talk) -> Callable[[Talk], None]:
    """What comes next: after a story often a question about it, after an offer often a yes, after
    something told often its recall."""
    rng, last = talk.rng, talk.last
    if talk.told and last and last.answer == talk.told.text and rng.random() < 0.6:
        return rng.choice((about_story, about_story, thanks, telling))
    if last and "story?" in last.answer and rng.random() < 0.4:
        return telling
    if (talk.name or talk.liked) and rng.random() < 0.35:
        return (
            recall_name if talk.name and (not talk.liked or rng.random() < 0.5) else recall_liking
        )
    return rng.choice(MIDDLE)
