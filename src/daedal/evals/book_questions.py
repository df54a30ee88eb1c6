"""Questions about books, made by program, whose answers are known: who did or said it, how many,
where. A question is made of one sentence, in other words: its answer is taken out, names beside it
are masked, words are replaced by synonyms, adverbs dropped, a phrase moved to the front, a speech
reported. It is kept where the words it was made of stand together in no other passage, so that who
knows the book could answer it.

    for question in questions(passages, random.Random(0), 200): question.text, question.answer"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daedal.assist.documents.passages import sentences
from daedal.assist.documents.words import STOP, content
from daedal.worlds.tasks import phrases

# Words of these books that may stand for one another, each with what it is replaced by.
SYNONYMS = dict(
    pair.split("=")
    for pair in phrases(
        "said=remarked | asked=inquired | cried=shouted | replied=responded | answered=responded | looked=gazed | looking=gazing | "
        "walked=strode | walking=strolling | ran=raced | running=racing | went=travelled | came=arrived | coming=arriving | "
        "began=started | begun=started | gave=handed | given=handed | saw=noticed | seen=noticed | "
        "heard=perceived | thought=believed | knew=understood | known=understood | wanted=wished | found=discovered | got=obtained | "
        "sat=rested | stood=waited | lay=rested | opened=unlocked | closed=shut | shut=closed | fell=dropped | threw=hurled | "
        "thrown=hurled | turned=swung | held=gripped | caught=seized | seized=caught | stopped=halted | left=quitted | "
        "returned=came back | rose=got up | sent=dispatched | brought=fetched | carried=bore | "
        "killed=slew | died=perished | lived=dwelt | kept=retained | put=placed | placed=set | laid=put | pulled=tugged | drew=pulled | "
        "pushed=shoved | raised=lifted | lifted=raised | laughed=chuckled | smiled=beamed | wept=sobbed | spoke=talked | "
        "speaking=talking | talked=spoke | told=informed | called=named | wrote=penned | written=penned | read=studied | bought=purchased | "
        "sold=traded | paid=settled | made=produced | built=constructed | broke=smashed | broken=smashed | tried=attempted | "
        "helped=assisted | loved=adored | hated=detested | feared=dreaded | hoped=longed | slept=slumbered | ate=devoured | "
        "drank=swallowed | showed=displayed | hid=concealed | hidden=concealed | followed=pursued | waited=lingered | "
        "passed=went by | reached=got to | seemed=appeared | appeared=emerged | remembered=recalled | married=wed | "
        "house=dwelling | home=household | room=chamber | door=entrance | window=pane | street=road | road=highway | town=city | "
        "city=town | village=hamlet | garden=yard | wood=forest | forest=woods | woods=forest | hill=slope | mountain=peak | sea=ocean | ocean=sea | "
        "river=stream | stream=brook | boat=vessel | ship=vessel | horse=steed | dog=hound | child=youngster | children=youngsters | "
        "boy=lad | boys=lads | girl=lass | girls=lasses | man=fellow | men=fellows | woman=lady | women=ladies | father=parent | "
        "mother=parent | friend=companion | friends=companions | doctor=physician | soldier=warrior | soldiers=troops | "
        "people=persons | money=cash | letter=note | paper=document | picture=painting | clothes=garments | dress=gown | "
        "hat=cap | coat=jacket | face=countenance | eyes=gaze | hair=locks | voice=tone | hand=palm | hands=palms | head=skull | "
        "foot=leg | feet=legs | heart=breast | blood=gore | fire=blaze | light=glow | night=evening | morning=dawn | "
        "evening=dusk | story=tale | stories=tales | answer=reply | noise=sound | sound=noise | dinner=meal | supper=meal | "
        "breakfast=meal | bread=loaf | table=desk | chair=seat | bed=couch | stone=rock | rock=boulder | stones=rocks | path=track | "
        "fear=dread | joy=delight | anger=rage | grief=sorrow | sorrow=grief | trouble=difficulty | danger=peril | business=trade | "
        "little=small | small=tiny | big=large | large=huge | great=immense | old=aged | young=youthful | bad=wicked | "
        "beautiful=lovely | pretty=charming | ugly=hideous | happy=glad | glad=pleased | sad=unhappy | angry=furious | afraid=scared | "
        "frightened=terrified | strange=odd | poor=needy | rich=wealthy | strong=powerful | tired=weary | quick=fast | "
        "quickly=fast | suddenly=all at once | slowly=at leisure | quiet=silent | silent=mute | loud=noisy | dark=gloomy | bright=shining | "
        "cold=chilly | hot=warm | hard=tough | dead=lifeless | empty=vacant | full=filled | dear=beloved | clever=smart | "
        "stupid=foolish | brave=bold | cruel=harsh | white=pale | long=lengthy | short=brief | high=tall | tall=high | deep=profound | "
        "always=ever | often=frequently | soon=shortly | again=once more | perhaps=maybe | near=close to | behind=at the back of | "
        "beneath=under | under=below | across=over | among=amid | towards=in the direction of | toward=in the direction of | "
        "because=since | until=till | while=as | whole=entire | several=some | also=too"
    )
)  # fmt: skip
IRREGULAR = frozenset(["was", "had", "went", "came", "took", "gave", "saw", "heard", "thought", "knew", "found", "got", "sat", "stood", "lay", "fell", "threw", "held", "caught", "left", "rose", "sent", "brought", "kept", "put", "laid", "drew", "wept", "spoke", "told", "wrote", "read", "bought", "sold", "made", "built", "broke", "loved", "slept", "ate", "drank", "hid", "felt", "began", "ran", "led", "lost", "met", "set", "shook", "sang", "sprang", "struck", "swam", "swore", "tore", "understood", "wore", "won", "bent", "bore", "blew", "chose", "clung", "crept", "drove", "fled", "flew", "forgot", "grew", "hung", "hurt", "knelt", "leapt", "lit", "rang", "rode", "sank", "shot", "shut", "sought", "spent", "stole", "stuck", "swept", "taught", "woke"])  # fmt: skip
SAYING = "said|cried|asked|replied|answered|exclaimed|shouted|remarked|whispered|murmured"
NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|eighty|hundred|thousand"
TITLES = "Mr|Mrs|Miss|Dr|Sir|Lady|Lord|Madame|Monsieur|Captain|Aunt|Uncle|Doctor|Colonel|Father|Mother|Professor"
NAME = rf"(?:(?:{TITLES})\.? )?[A-Z][a-z]{{2,}}(?: [A-Z][a-z]{{2,}})?"
NO_NAMES = frozenset(["God", "Lord", "Heaven", "Christmas", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December", "English", "French", "Chapter", "Sir", "Madame", "Monsieur", "Captain", "Aunt", "Uncle", "Doctor", "Father", "Mother"])  # fmt: skip
SHIFTED = {"i": "they", "i'm": "they were", "i've": "they had", "i'll": "they would", "me": "them", "my": "their", "mine": "theirs", "myself": "themself", "you": "the other", "your": "the other's", "we": "they all", "our": "their", "us": "them all", "am": "were", "are": "were", "is": "was", "have": "had", "has": "had", "will": "would", "can": "could", "shall": "should", "may": "might", "don't": "do not", "it's": "it was"}  # fmt: skip
PHRASE = re.compile(r"^(.{25,}?) ((?:in|on|at|after|before|with|from|under|by|for) (?:the|a|an|his|her|their) [a-z ]{4,40})$")  # fmt: skip
PLACE, MANY = "a certain place", "so many"  # where what is asked for stood
LEAST, LONGEST = 4, 14  # words of content at least, and words at most, that a question is made of
KINDS = ("who did", "who said", "how many", "where")


@dataclass(frozen=True)
class Question:
    """A question, its answer, the sentence that holds it and the number of that one's passage."""

    kind: str
    text: str
    answer: str
    sentence: str
    passage: int


class Names:
    """The names of some texts: words that stand capitalised within sentences, thrice or more, and
    seldom otherwise; and those among them that do or own something, as persons."""

    def __init__(self, passages: Sequence[str]) -> None:
        inner, lower, acting = Counter[str](), Counter[str](), Counter[str]()
        for text in passages:
            inner.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text))
            lower.update(re.findall(r"\b[a-z]{3,}\b", text))
            acting.update(re.findall(rf"\b(?:{SAYING}|{TITLES})\.? ([A-Z][a-z]{{2,}})\b", text))
            acting.update(re.findall(r"\b([A-Z][a-z]{2,})(?:'s| \w+ed| said| had| was)\b", text))
        self.known = {word for word, n in inner.items() if n >= 3 and lower[word.lower()] < n / 2}
        self.known -= NO_NAMES
        self.persons = {word for word, n in acting.items() if n > 0.15 * inner[word]}

    def has(self, name: str) -> bool:
        """Whether every word of a name is one, or a title."""
        words = name.split()
        titles = TITLES.split("|")
        return words[-1] in self.known and all(
            word in self.known or word.strip(".") in titles for word in words[:-1]
        )

    def person(self, name: str) -> bool:
        return bool(self.persons & set(name.split())) or name.split()[0].strip(".") in TITLES


def questions(
    passages: Sequence[str], rng: random.Random, count: int, kinds: Sequence[str] = KINDS
) -> list[Question]:
    """`count` questions about passages, of all kinds alike, fewer where there are not so many. No
    passage is asked about twice."""
    known, owners = Names(passages), owners_of(passages)
    made: dict[str, list[Question]] = {kind: [] for kind in kinds}
    wanted = -(-count // len(kinds))
    for number in rng.sample(range(len(passages)), len(passages)):
        found = [q for q in asked(passages[number], number, known, owners, rng) if q.kind in made]
        found = [q for q in found if len(made[q.kind]) < wanted]
        if found:
            one = min(found, key=lambda q: (len(made[q.kind]), q.text))
            made[one.kind].append(one)
        if all(len(some) == wanted for some in made.values()):
            break
    return [q for some in zip(*made.values(), strict=False) for q in some][:count]


def asked(
    text: str, number: int, known: Names, owners: dict[str, set[int]], rng: random.Random
) -> Iterator[Question]:
    """The questions that a passage can be asked."""
    for sentence in sentences(text):
        for kind, start, rest, answer in cut(sentence, known):
            kept = shortened(rest, rng)
            words = content(kept) - content(f"{PLACE} {MANY}")
            if len(words) < LEAST or alone(words, owners) != {number}:
                continue
            said = reworded(masked(kept, known, answer, rng), rng)
            if answer.lower() not in said.lower():
                yield Question(kind, fronted(start, said, rng), answer, sentence, number)


def cut(sentence: str, known: Names) -> Iterator[tuple[str, str, str, str]]:
    """(kind, how the question starts, what follows, answer) of a sentence."""
    plain = sentence.strip("\"' ")
    spoken = re.match(rf'"([^"]{{30,160}}?)[,.!?]*" (?:{SAYING}) ({NAME})\b', sentence)
    if spoken and known.has(spoken[2]):
        verb = "asked" if sentence[spoken.end(1)] == "?" else "said that"
        yield "who said", f"who {verb}", reported(spoken[1], known), spoken[2]
    if '"' in plain or len(plain) > 260:
        return
    found = re.match(rf"({NAME}) (\w+) (.+?)[.!?]?$", plain)
    if found and known.has(found[1]) and (found[2].endswith("ed") or found[2] in IRREGULAR):
        yield "who did", "who", f"{found[2]} {found[3]}", found[1]
    counted = re.search(
        rf"(?<![\w-])((?:{NUMBERS})(?:[ -](?:{NUMBERS}))*|\d+) ([a-z]{{3,}}s)\b", plain
    )
    if counted and counted[2] not in ("was", "has", "this"):
        rest = plain[: counted.start(1)] + MANY + plain[counted.end(1) :]
        yield "how many", f"how many {counted[2]} are meant, where", lowered(rest), counted[1]
    placed = re.search(rf"\b(?:in|at|to|from|near) ({NAME})\b", plain)
    if placed and known.has(placed[1]) and not known.person(placed[1]):
        rest = plain[: placed.start(1)] + PLACE + plain[placed.end(1) :]
        yield "where", "which place is meant, where", lowered(rest), placed[1]


def lowered(text: str) -> str:
    """What stood at the beginning, within a sentence: a name stays as it is."""
    text = " ".join(text.split()).strip(" .!?;,")
    first = text.split(" ", 1)[0]
    return first.lower() + text[len(first) :] if first.lower() in STOP and first != "I" else text


def reported(speech: str, known: Names) -> str:
    """Direct speech as reported speech, as far as pronouns and verbs tell."""
    words = re.sub(r"[,!?.;:]+", "", speech).split()
    said = [
        word if word in known.known else SHIFTED.get(word.lower(), word.lower()) for word in words
    ]
    return " ".join(said)


def shortened(text: str, rng: random.Random) -> str:
    """At most LONGEST words of a text, whole clauses around what is asked for (else the first ones), and
    without most adverbs."""
    clauses = re.split(r"\s*[,;:]\s*| -- ", text)
    at = next((i for i, clause in enumerate(clauses) if PLACE in clause or MANY in clause), 0)
    kept, after = clauses[at], at + 1
    while len(kept.split()) < 8 and (after < len(clauses) or at):
        if after < len(clauses):
            kept, after = f"{kept}, {clauses[after]}", after + 1
        else:
            kept, at = f"{clauses[at - 1]}, {kept}", at - 1
    words = [
        w for w in kept.split() if not (len(w) > 5 and w.endswith("ly") and rng.random() < 0.7)
    ]
    asked = " ".join(words).find(PLACE if PLACE in kept else MANY)
    end = max(LONGEST, len(" ".join(words)[:asked].split()) + 4) if asked >= 0 else LONGEST
    words = words[end - LONGEST : end]
    while words and words[-1].lower().strip(",") in STOP:
        words.pop()
    return lowered(" ".join(words))


def masked(text: str, known: Names, answer: str, rng: random.Random) -> str:
    """Without three of four names."""
    text = re.sub(rf"\b{re.escape(answer)}\b", "they", text)

    def mask(found: re.Match[str]) -> str:
        hidden = known.has(found[0]) and rng.random() < 0.75
        return "someone" if hidden else found[0]

    return re.sub(r"\b[Tt]he someone\b", "someone", re.sub(NAME, mask, text))


def reworded(text: str, rng: random.Random) -> str:
    """With synonyms for nine of ten words that have one."""

    def other(found: re.Match[str]) -> str:
        return SYNONYMS[found[0]] if found[0] in SYNONYMS and rng.random() < 0.9 else found[0]

    return re.sub(r"[a-z]+", other, text)


def fronted(start: str, rest: str, rng: random.Random) -> str:
    """The question, half of the time with its last phrase in front."""
    found = PHRASE.match(rest)
    if found and rng.random() < 0.5:
        start, rest = f"{found[2]}, {start}", found[1]
    whole = f"{start} {rest}?"
    return whole[0].upper() + whole[1:]


def owners_of(passages: Sequence[str]) -> dict[str, set[int]]:
    """The passages of each stem."""
    owners: dict[str, set[int]] = {}
    for number, text in enumerate(passages):
        for word in content(text):
            owners.setdefault(word, set()).add(number)
    return owners


def alone(words: set[str], owners: dict[str, set[int]]) -> set[int]:
    """The passages that hold all of some words."""
    return set.intersection(*(owners.get(word, set()) for word in words))
