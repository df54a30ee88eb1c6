"""Word problems of two steps (and of one and three), worked out, over a wide grid of names, things
and phrasings.

    Pim had 3 pens. Then Pim bought 4 pens. Pim gave 2 pens to Rosa. How many pens are left?
    3 + 4 = 7. 7 - 2 = 5. The answer is 5.

Phrasings after the bar, and the words that daedal.worlds.lexicon holds out, are for evaluation."""

import random
from functools import partial

from daedal.worlds.answers import capital
from daedal.worlds.arithmetic import check
from daedal.worlds.lexicon import ANIMALS, FOODS, THINGS, names, noun, plural
from daedal.worlds.requests import UNCOUNTED, both
from daedal.worlds.tasks import Task

COUNTED = tuple(word for word in (*THINGS, *FOODS, *ANIMALS) if word not in UNCOUNTED)
MOST = 60

START = both(
    "{h} has {n} {t}. | {h} had {n} {t}. | There are {n} {t} in a box. | {h} starts with {n} {t}. | {h} owns {n} {t}. | "
    "There were {n} {t} on the table. | {h} sees {n} {t}. | In the garden there are {n} {t}. | {h} puts {n} {t} in a bag. | "
    "A shop has {n} {t}. | {h} counts {n} {t}. | {h} made {n} {t}. "
    "| {h} has got {n} {t}. | Once {h} had {n} {t}. | Today {h} has {n} {t}. | {n} {t} lie on the "
    "floor. | There are {n} {t} at school. | {h} holds {n} {t}. | In a bag there are {n} {t}. | "
    "{h} went out with {n} {t}. | {h} found {n} {t}. | My friend {h} has {n} {t}. | A box holds "
    "{n} {t}. | {h} bought {n} {t}. | {h} got {n} {t} for the birthday. | On a shelf there are "
    "{n} {t}. | {h} collects {t} and has {n}. | Look, {h} has {n} {t}! | {h} is the owner of {n} "
    "{t}. | In the morning there were {n} {t}. | {h} carries {n} {t}. | {h} had just {n} {t}. | "
    "{h} has a bag with {n} {t}. "
    "|| At first {h} has {n} {t}. | {n} {t} are in a basket. | "
    "{h} keeps {n} {t} at home. | {h} brought {n} {t}."
)
MORE = both(
    "{f} gives {h} {n} more. | {h} finds {n} more. | {h} buys {n} more. | {h} buys {n} {t}. | {h} gets {n} {t} from {f}. | "
    "Then {h} bought {n} more {t}. | {f} brings {n} more. | {n} more {t} come. | {h} makes {n} more. | {f} gave {h} {n} {t}. | "
    "{f} adds {n} {t}. | {h} is given {n} more. | Then {h} found {n} {t}. | {n} {t} are added. | {h} picks up {n} more {t}. | "
    "Later {f} gave {h} {n} more {t}. | {h} wins {n} {t}. | {f} puts {n} more in. "
    "| {h} takes {n} more. | Then {n} more come. | {f} lends {h} {n} {t}. | {f} sends {h} {n} "
    "more {t}. | {h} adds {n} {t} to them. | {h} goes out and buys {n} {t}. | {n} more are "
    "bought. | {h} receives {n} {t}. | The next day {h} gets {n} more {t}. | {h} and {f} find {n} "
    "more. | {f} has {n} {t} and gives them all to {h}. | From {f} come {n} more. | In the shop "
    "{h} buys {n} {t}. | Then there are {n} more. | {h} collects {n} more {t}. | {f} leaves {n} "
    "{t} for {h}. | {h} makes {n} new {t}. | {f} throws in {n} more. | {h} gets {n} as a present. "
    "| Her friend {f} gives her {n} {t}. | His friend {f} gives him {n} {t}. | Now {h} finds {n} "
    "{t} under the bed. | The teacher gives {h} {n} {t}. | {n} new {t} arrive. | {h} picks {n} "
    "{t}. | {h} put {n} more in the box. | {f} came with {n} {t} for {h}. "
    "|| {f} hands {h} {n} more {t}. | "
    "After that {h} gets {n} more. | {h} is lucky and finds another {n}. | Another {n} {t} are brought by {f}. | "
    "Now {f} buys {n} more {t} for {h}."
)
LESS = both(
    "{h} gives {n} to {f}. | {h} loses {n}. | {h} sells {n} of them. | {h} gives away {n} {t}. | {n} of them are lost. | "
    "{f} takes {n} of them. | {h} gave {n} {t} to {f}. | Then {h} lost {n} {t}. | {n} {t} are taken away. | {h} drops {n}. | "
    "{h} uses {n} of the {t}. | {f} takes away {n} {t}. | {n} of the {t} break. | {h} sold {n} {t}. | {n} are gone. | "
    "Later {h} gave away {n}. | {h} hands {n} to {f}. | {n} {t} go away. "
    "| {h} leaves {n} at school. | {n} of them fall into the water. | {n} {t} are sold. | {f} "
    "steals {n} of them. | A dog runs away with {n}. | {h} throws {n} away. | {n} are given to "
    "{f}. | {h} shares {n} with {f}. | {h} breaks {n} of them. | {n} {t} disappear. | {h} forgets "
    "{n} of them on the bus. | Then {n} of them fall down and break. | {f} borrows {n} {t}. | {h} "
    "sends {n} {t} to {f}. | {h} puts {n} of them away. | {f} wants {n}, and {h} gives them. | "
    "The next day {h} loses {n} {t}. | The wind blows {n} of them away. | {h} is robbed of {n} "
    "{t}. | {h} leaves {n} {t} with {f}. | {f} gets {n} of them. | {n} are used up. | {h} does "
    "not want {n} of them and gives them away. | {n} {t} are stolen. | She gives {n} to {f}. | He "
    "gives {n} to {f}. | {h} spends {n} of the {t}. | {h} pays with {n} {t}. "
    "|| {h} lets {f} have {n} of the {t}. | "
    "After that {n} {t} get lost. | {h} gives {f} {n} of them. | But {n} of the {t} are broken. | Then {f} takes {n} {t} home."
)
ASKS = both(
    "How many {t} does {h} have now? | How many {t} are there now? | How many {t} are left? | How many {t} are there in the "
    "end? | How many does {h} have in the end? | How many are left? | What is the number of {t} now? | How many {t} now? "
    "| How many {t} has {h} now? | What number of {t} is left? | How many {t} does {h} have at "
    "the end? | How many {t} does {h} still have? | And now, how many {t}? | How many {t} can you "
    "count now? | Tell me how many {t} there are now. | How many are there? | How many {t} is "
    "that? | So how many {t} are left? | How many {t} are there after that? | Can you say how "
    "many {t} there are? | How many {t} has {h} got left? | What is left? | How many is that now? "
    "| Work out how many {t} there are. | At the end, how many {t} are there? "
    "|| "
    "Now how many {t} are there? | How many {t} remain in the end? | Count the {t}: how many are there now?"
)
CHAINS = both(  # a whole story in one sentence, the signs of its steps first
    "+-: {h} has {a} {t}, buys {b} and gives away {c}. | +-: {h} had {a} {t}, got {b} more and lost {c}. | "
    "-+: {h} has {a} {t}, loses {b} and finds {c}. | ++: {h} has {a} {t}, finds {b} and buys {c}. | "
    "--: {h} had {a} {t}, gave {b} to {f} and lost {c}. | -+: {h} had {a} {t}, sold {b} and then bought {c}. "
    "| +-: {h} has {a} {t}, gets {b} from {f} and loses {c}. | +-: {h} finds {a} {t}, buys {b} "
    "more and sells {c}. | -+: {h} "
    "has {a} {t}, gives {b} to {f} and buys {c} new ones. | -+: Of {a} {t}, {h} breaks {b} and "
    "then makes {c}. | ++: {h} has {a} {t}, {f} gives {b}, and {c} more come. | ++: {h} buys {a} "
    "{t} on Monday, {b} on Tuesday and {c} on Friday. | --: {h} has {a} {t}, sells {b} and gives "
    "{c} away. | --: Out of {a} {t}, {b} are lost and {c} are broken. | +-: {h} had {a} {t}, "
    "bought {b}, gave {c} to {f}. | -+: {h} starts with {a} {t}, drops {b}, picks up {c}. | +-: "
    "{h} has {a} {t} and gets {b} more, but {f} takes {c}. | -+: There were {a} {t}; {b} were "
    "sold and {c} came back. | --: {f} takes {b} of the {a} {t} of {h}, and {c} are lost. "
    "|| "
    "+-: {h} has {a} {t}, buys {b} more, gives {c} away. | -+: With {a} {t} at first, {h} loses {b} and then gets {c} more. | "
    "++: {h} takes {a} {t}, then {b} more, then {c} more."
)
OTHERS = both(  # the kind of its two steps first
    "times+: There are {a} boxes with {b} {t} in each, and {c} more {t} on the floor. How many {t} are there? | "
    "times+: {h} buys {a} bags with {b} {t} each. {f} brings {c} more. How many {t} are there? | "
    "times-: {h} has {a} boxes of {b} {t}. {c} {t} are lost. How many {t} are left? | "
    "times-: {a} children have {b} {t} each. They give away {c} {t}. How many {t} do they have now? | "
    "more: {h} has {a} {t}. {f} has {b} more than {h}. How many {t} do they have together? | "
    "more: {h} has {a} {t} and {f} has {b} more {t} than {h}. How many {t} is that in all? | "
    "fewer: {h} has {a} {t}. {f} has {b} fewer than {h}. How many {t} do they have together? "
    "| times+: {h} has {a} bags. In each are {b} {t}. {f} gives {h} {c} more. How many {t} does "
    "{h} have? | times+: There are {a} shelves with {b} {t} each and {c} {t} on the table. How "
    "many {t} are there in all? | times+: {a} friends bring {b} {t} each, and {h} has {c}. How "
    "many {t} are there together? | times+: In {a} rooms there are {b} {t} each. In the hall are "
    "{c}. How many {t} is that? | times-: {h} buys {a} boxes with {b} {t} each and loses {c}. How "
    "many {t} are left? | times-: There are {a} trees with {b} {t} each. {c} fall down. How many "
    "{t} are left? | times-: {a} times {h} gets {b} {t}. Then {h} gives {c} to {f}. How many {t} "
    "does {h} have? | times-: In each of {a} baskets are {b} {t}. {f} takes {c}. How many are "
    "left? "
    "| more: {h} owns {a} {t}. {f} owns {b} more. How many {t} do both have? | more: If "
    "{h} has {a} {t} and {f} {b} more than that, how many {t} are there in all? | fewer: {f} has "
    "{b} {t} fewer than {h}. {h} has {a}. How many {t} do the two have? | fewer: {h} has {a} {t}, "
    "and {f} has {b} less. How many {t} do they have in all? "
    "|| "
    "times+: On {a} plates there are {b} {t} each. {h} adds {c} {t}. How many {t} are there in all? | "
    "times-: {h} fills {a} bags with {b} {t} each, then {f} takes {c} {t}. How many {t} are left? | "
    "more: {f} has {b} {t} more than {h}, who has {a} {t}. How many {t} do the two have?"
)


def plus_minus(rng: random.Random, value: int) -> tuple[str, int]:
    """A sign and a number that leave the result between 1 and MOST."""
    signs = ["+"] * (value + 12 <= MOST) + ["-"] * (value > 3)
    sign = rng.choice(signs)
    return sign, rng.randint(2, 12 if sign == "+" else min(12, value - 2))


def worked(value: int, steps: list[tuple[str, int]]) -> tuple[str, int]:
    """The steps as sums, and what comes out."""
    lines = []
    for sign, n in steps:
        result = {"+": value + n, "-": value - n, "x": value * n}[sign]
        lines.append(f"{value} {sign} {n} = {result}.")
        value = result
    return f"{' '.join(lines)} The answer is {value}.", value


def made(prompt: str, answer: str, value: int) -> Task:
    return Task("problem", capital(prompt), answer, partial(check, value))


def told(rng: random.Random, held_out: bool, count: int) -> Task:
    """A sentence a step."""
    (hero, friend), thing = names(rng, 2, held_out), plural(noun(rng, COUNTED, held_out))
    start = value = rng.randint(2, 20)
    fill = {"h": hero, "f": friend, "t": thing}
    lines, steps = [rng.choice(START[held_out]).format(n=value, **fill)], []
    for _ in range(count):
        sign, n = plus_minus(rng, value)
        way = rng.choice((MORE if sign == "+" else LESS)[held_out])
        lines.append(way.format(n=n, **fill))
        steps.append((sign, n))
        value += n if sign == "+" else -n
    lines.append(rng.choice(ASKS[held_out]).format(**fill))
    return made(" ".join(map(capital, lines)), *worked(start, steps))


def chained(rng: random.Random, held_out: bool) -> Task:
    """Two steps in one sentence."""
    (hero, friend), thing = names(rng, 2, held_out), plural(noun(rng, COUNTED, held_out))
    signs, text = rng.choice(CHAINS[held_out]).split(": ")
    a = rng.randint(6, 20)
    b = rng.randint(2, 9 if signs[0] == "+" else a - 2)
    middle = a + b if signs[0] == "+" else a - b
    c = rng.randint(1 if middle < 4 else 2, 9 if signs[1] == "+" else min(9, middle - 1))
    fill = {"h": hero, "f": friend, "t": thing}
    ask = rng.choice(ASKS[held_out]).format(**fill)
    prompt = f"{text.format(a=a, b=b, c=c, **fill)} {ask}"
    return made(prompt, *worked(a, [(signs[0], b), (signs[1], c)]))


def grouped(rng: random.Random, held_out: bool) -> Task:
    """Groups of as many, or two people of whom one has more: two steps that are not told one
    after the other."""
    (hero, friend), thing = names(rng, 2, held_out), plural(noun(rng, COUNTED, held_out))
    kind, text = rng.choice(OTHERS[held_out]).split(": ", 1)
    if kind in ("more", "fewer"):
        a = rng.randint(3, 15)
        b, c, sign = (
            rng.randint(1, 9 if kind == "more" else a - 1),
            0,
            "+" if kind == "more" else "-",
        )
        second = a + b if kind == "more" else a - b
        answer = (
            f"{a} {sign} {b} = {second}. {a} + {second} = {a + second}. The answer is {a + second}."
        )
        solved = answer, a + second
    else:
        a, b = rng.randint(2, 5), rng.randint(2, 9)
        c = rng.randint(1, 9 if kind == "times+" else min(9, a * b - 1))
        solved = worked(a, [("x", b), ("+" if kind == "times+" else "-", c)])
    return made(text.format(a=a, b=b, c=c, h=hero, f=friend, t=thing), *solved)


def problem(rng: random.Random, held_out: bool) -> Task:
    """A word problem: of two steps for evaluation, now and then of one or three in training."""
    way = rng.random()
    if way < 0.25:
        return chained(rng, held_out)
    if way < 0.45:
        return grouped(rng, held_out)
    return told(rng, held_out, 2 if held_out else rng.choice((1, 2, 2, 2, 3)))
