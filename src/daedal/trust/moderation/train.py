"""Trains and measures the classifier of daedal.trust.moderation.

    python -m daedal.trust.moderation.train hh_harmless_test.parquet persona_chat.parquet [--save]

The first file holds conversations of Anthropic's hh-rlhf (harmless-base, MIT; Bai et al. 2022), which
have no categories: users' turns get theirs by patterns of words, as weak labels, and turns without any
count as harmless with a small weight. Sixty of its rows, drawn by chance, are for measuring alone: each
was labelled harmful or not by reading; twelve are neither plainly, and left out. The second
file holds everyday talk (Synthetic-Persona-Chat, CC BY 4.0). The rest is made (made.py). Thresholds let
one in a hundred harmless texts of training's own held-out part be called harmful."""

import random
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.data.rows import messages_of, told
from daedal.processes.measures import wilson
from daedal.trust.memorised.overlap import words_of
from daedal.trust.moderation.classifier import BUCKETS, CATEGORIES, Classifier, features
from daedal.trust.moderation.made import LOOKALIKES, sentences
from daedal.worlds import requests
from daedal.worlds.tales import tale

PEOPLE = r"(?:someone|somebody|him|her|them|people|person|kids?|child(?:ren)?|man|woman|wife|husband|boss|neighbou?rs?|friends?|brother|sister|mother|father|politician|cops?|guy|girl|president)"
GROUPS = r"(?:blacks?|asians?|jews?|jewish|muslims?|mexicans?|immigrants?|gays?|lesbians?|trans(?:gender)?|women|whites?|indians?|chinese|africans?|puerto ricans?)"
WEAK = {
    "violence": rf"(?:kill|murder|stab|shoot|assassinat\w*|torture|strangl\w*|poison|beat up|hurt|rape|kidnap)\b.{{0,30}}\b{PEOPLE}\b|\bbombs?\b|killing a person",
    "self-harm": r"suicid\w*|(?:kill|cut|hurt|harm)(?:ing)? my ?self|end my life|overdos\w*|want to die",
    "illicit": r"\b(?:steal(?:ing)?|rob|shoplift\w*|hack(?:ing)?|counterfeit\w*|launder\w*|cocaine|meth|heroin|crack|fake ids?|break into|smuggl\w*|forg(?:e|ing)|hotwire|marijuana|weed|get away with|cheat on|unregistered|saw off)\b",
    "harassment": r"\b(?:insult|bully|harass|stalk\w*|pranks?|be mean|make fun of|annoy|embarrass|humiliat\w*|threaten|blackmail|mess with|idiot|moron|loser|shut up|start drama)\b",
    "hate": rf"\b{GROUPS}\b.{{0,60}}\b(?:hate|inferior|stupid|dirty|go back|not be allowed|shouldn'?t|deport|criminals?|lazy|slit|bad|worse|dumb)\b|\b(?:hate|stupid|dirty|racist jokes?)\b.{{0,30}}\b{GROUPS}\b",
    "sexual": r"\b(?:porn\w*|sex(?:ual|y)?|naked|nudes?|blowjob|masturbat\w*|orgasm|dick|prostitutes?|hookers?)\b",
}  # fmt: skip
PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in WEAK.items()}
LABELLED = (
    "Y?YNNYNY?YNYYYN?YYNNNNNNN?YYYY??NNN?NNYN???YNYYYY?NYYYYY?NNY"  # of SAMPLE rows; ? unclear
)
UNSAID = 0.3  # weight of a turn in which no pattern is found
ALARMS = 0.01
LOWEST = 0.5  # threshold, whatever ALARMS allow: everyday talk has few of the look-alikes' words
LONGEST = 60  # words of an example


class Example(NamedTuple):
    text: str
    categories: frozenset[str]
    weight: float = 1.0


def user_turns(row: dict[str, Any], column: str | None = None) -> list[str]:
    turns = messages_of(row[column] if column else told(row) or ())
    return [turn["content"] for turn in turns if turn["role"] == "user"]


def split_rows(path: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(those that are trained on, the sixty labelled ones)."""
    rows = pq.read_table(path).to_pylist()
    labelled = random.Random(1).sample(rows, len(LABELLED))
    said = {row["prompt"][0]["text"] for row in labelled}
    return [row for row in rows if row["prompt"][0]["text"] not in said], labelled


def weak(rows: list[dict[str, Any]]) -> list[Example]:
    found = []
    for text in dict.fromkeys(turn for row in rows for turn in user_turns(row, "prompt")):
        named = frozenset(name for name, pattern in PATTERNS.items() if pattern.search(text))
        found.append(Example(text, named, 1.0 if named else UNSAID))
    return found


def everyday(path: str, held_out: bool) -> list[Example]:
    """Users' turns, and requests of the house's world."""
    rows = pq.read_table(path).to_pylist()
    turns = [turn for row in rows[held_out::2] for turn in user_turns(row)][:4000]
    rng = random.Random(f"everyday/{held_out}")
    asked = [requests.request(rng, held_out=held_out).messages[0]["content"] for _ in range(1000)]
    return [Example(text, frozenset()) for text in dict.fromkeys([*turns, *asked])]


def made(held_out: bool) -> list[Example]:
    rng = random.Random(f"made/{held_out}")
    return [Example(text, categories) for text, categories in sentences(rng, held_out)]


def tensors(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Buckets (n,), offsets (E + 1,), scales (n,), labels (E, categories), weights (E,)."""
    rows = [features(words_of(each.text)[:LONGEST]) for each in examples]
    sizes = np.array([len(row) for row in rows])
    labels = [[name in each.categories for name in CATEGORIES] for each in examples]
    return (
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)).float(),
        torch.tensor(labels).float(),
        torch.tensor([each.weight for each in examples]),
    )


def fit(examples: list[Example], steps: int = 300, decay: float = 2e-6) -> Classifier:
    """Full-batch Adam on the weighted cross entropy; a positive counts three times."""
    buckets, offsets, scales, labels, weights = tensors(examples)
    bag = nn.EmbeddingBag(BUCKETS, len(CATEGORIES), mode="sum", include_last_offset=True)
    nn.init.zeros_(bag.weight)
    bias = nn.Parameter(torch.full((len(CATEGORIES),), -3.0))
    optimizer = torch.optim.Adam([bag.weight, bias], lr=0.05)
    for _ in range(steps):
        logits = bag(buckets, offsets, per_sample_weights=scales) + bias
        losses = F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=torch.tensor(3.0), reduction="none"
        )
        loss = (losses.mean(1) * weights).mean() + decay * bag.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    none = np.full(len(CATEGORIES), 0.5, np.float32)
    return Classifier(bag.weight.detach().numpy(), bias.detach().numpy(), none)


def calibrated(found: Classifier, harmless: list[Example]) -> Classifier:
    """Thresholds that ALARMS of these texts reach, shared evenly among categories; 0.5 at least."""
    scores = np.stack([found.scores(each.text) for each in harmless])
    wanted = np.quantile(scores, 1 - ALARMS / len(CATEGORIES), axis=0)
    return Classifier(found.weights, found.bias, np.maximum(wanted, LOWEST).astype(np.float32))


def flags(found: Classifier, texts: list[str]) -> list[bool]:
    return [bool((found.scores(text) >= found.thresholds).any()) for text in texts]


def line(name: str, hits: list[bool]) -> None:
    low, high = wilson(sum(hits), len(hits))
    print(f"{name:<52} {sum(hits) / len(hits):.3f} [{max(0, low):.3f}, {min(1, high):.3f}] (n = {len(hits)})")  # fmt: skip


def measure(found: Classifier, labelled: list[dict[str, Any]], talk: list[Example]) -> None:
    harmful = [each for each in made(True) if each.categories]
    for name, at in zip(CATEGORIES, range(len(CATEGORIES)), strict=True):
        some = [each.text for each in harmful if name in each.categories]
        line(f"recall, made, {name}", [bool(found.scores(t)[at] >= found.thresholds[at]) for t in some])  # fmt: skip
    line("recall, made, any category", flags(found, [each.text for each in harmful]))
    first = [row["prompt"][0]["text"] for row in labelled]
    for sign, name in (("Y", "recall, real requests labelled by hand"), ("N", "false alarms, real and harmless")):  # fmt: skip
        line(name, flags(found, [t for t, label in zip(first, LABELLED, strict=True) if label == sign]))  # fmt: skip
    line("over-refusal, look-alikes in frames", flags(found, [e.text for e in made(True) if not e.categories]))  # fmt: skip
    line("over-refusal, look-alikes as people write", flags(found, list(LOOKALIKES)))
    rng = random.Random("tales")
    line("over-refusal, tales made by program", flags(found, [tale(rng) for _ in range(500)]))
    line("over-refusal, everyday talk and requests", flags(found, [each.text for each in talk]))


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    rows, labelled = split_rows(sys.argv[1])
    talk, other = everyday(sys.argv[2], False), everyday(sys.argv[2], True)
    found = calibrated(fit([*weak(rows), *talk, *made(False)]), other[::2])
    measure(found, labelled, other[1::2])
    if "--save" in sys.argv:
        found.save()


if __name__ == "__main__":
    main()
