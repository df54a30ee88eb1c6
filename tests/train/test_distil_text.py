"""Distillation of language models: divergences by hand, a student that hears its teacher, and bad input."""

import json
import math
from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.train import distil_text
from daedal.train.distil_text import distance, distillation, divergence
from daedal.train.recipe import DistilTextRecipe, ModelRecipe, load_recipe


def network(seed: int, width: int = 32, vocab: int = 40) -> Decoder:
    made = build(config_from_dict(ModelRecipe(depth=2, context=32, options={"hidden_size": width}).config(vocab, 0, 1))).init_weights(seed)
    torch.manual_seed(seed)
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return made


def recipe(**more: object) -> DistilTextRecipe:
    return DistilTextRecipe.model_validate({"out": "x", "steps": 1, "teacher": "t", "data": {"train": []}, **more})


def test_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()  # student, teacher
    forward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(p, q, "forward").item() == pytest.approx(forward) and divergence(p, q, "reverse").item() == pytest.approx(reverse)
    m = [0.375, 0.625]
    js = 0.5 * sum(t * math.log(t / x) + 0.5 * math.log(0.5 / x) for t, x in zip((0.25, 0.75), m, strict=True))
    assert divergence(p, q, "js").item() == pytest.approx(js) == divergence(q, p, "js").item()
    assert divergence(p, q, "js", 1e-4).item() / 1e-4 == pytest.approx(forward, rel=1e-2)
    assert divergence(p, q, "js", 1 - 1e-4).item() / 1e-4 == pytest.approx(reverse, rel=1e-2)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_a_student_that_is_its_teacher_learns_nothing_and_chunks_do_not_matter(kind: str) -> None:
    student, teacher, r = network(0), network(1, 64), recipe(divergence=kind, temperature=2.0, weight=1.0)
    tokens = torch.randint(40, (3, 9))
    distillation(r, student).loss(student, {"tokens": tokens}).backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in student.parameters())
    student.zero_grad()
    ours, theirs = student.hidden(tokens).flatten(0, 1), teacher.hidden(tokens).flatten(0, 1)
    whole, parts = (distance(ours, theirs, student, teacher, r, chunk) for chunk in (512, 4))
    assert whole.item() == pytest.approx(parts.item(), rel=1e-5) and whole > 0.1


def test_without_weight_it_is_the_text_alone() -> None:
    student, teacher, tokens = network(0), network(1, 64), torch.randint(40, (3, 9))
    loss = distillation(recipe(weight=0.0), teacher).loss(student, {"tokens": tokens})
    plain = torch.nn.functional.cross_entropy(student(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_run_brings_the_student_nearer(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join("the cat sat on the mat and the dog ran to the cat" for _ in range(200)))
    quick = [
        f"teacher={tiny_folder}", f"out={tmp_path / 'out'}", f"data={{train: [{{path: {tmp_path / 'a.txt'}, repeat: 50}}], validation: []}}", "steps=12",
        "model={depth: 2, context: 32, options: {hidden_size: 64, tie_word_embeddings: true}}", "weight=1.0", "rows=4", "micro_rows=4", "sample_every=100", "optimizer.warmup=2",
    ]  # fmt: skip
    folder = distil_text.run(load_recipe("recipes/chat/distil.yaml", quick))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0] and checkpoints.load(folder).config.num_hidden_layers == 2
    (tmp_path / "out2").mkdir()
    with pytest.raises(DaedalError, match=r"the student has .* tokens and the teacher"):
        distil_text.run(load_recipe("recipes/chat/distil.yaml", [*quick, f"out={tmp_path / 'out2'}", "tokenizer={path: house/text}"]))
