"""Distillation of language models: divergences by hand, a student that hears its teacher, and bad
input."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams
from daedal.train import distil_text
from daedal.train.distil_text import Written, distance, distillation, divergence
from daedal.train.recipe.base import ModelRecipe
from daedal.train.recipe.text import DistilTextRecipe
from daedal.train.rollout import seed_of
from daedal.train.tasks import load_recipe, run


def network(seed: int, width: int = 32, vocab: int = 40, context: int = 32) -> Decoder:
    made = build(
        config_from_dict(
            ModelRecipe(depth=2, context=context, options={"hidden_size": width}).config(
                vocab, 0, 1
            )
        )
    ).init_weights(seed)
    torch.manual_seed(seed)
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return made


def recipe(**more: object) -> DistilTextRecipe:
    return DistilTextRecipe.model_validate(
        {"out": "x", "steps": 1, "teacher": "t", "data": {"train": []}, **more}
    )


def test_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()  # student, teacher
    forward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(p, q, "forward").item() == pytest.approx(forward) and divergence(
        p, q, "reverse"
    ).item() == pytest.approx(reverse)
    m = [0.375, 0.625]
    js = 0.5 * sum(
        t * math.log(t / x) + 0.5 * math.log(0.5 / x) for t, x in zip((0.25, 0.75), m, strict=True)
    )
    assert divergence(p, q, "js").item() == pytest.approx(js) == divergence(q, p, "js").item()
    assert divergence(p, q, "js", 1e-4).item() / 1e-4 == pytest.approx(forward, rel=1e-2)
    assert divergence(p, q, "js", 1 - 1e-4).item() / 1e-4 == pytest.approx(reverse, rel=1e-2)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_a_student_that_is_its_teacher_learns_nothing_and_chunks_do_not_matter(kind: str) -> None:
    student, teacher, r = (
        network(0),
        network(1, 64),
        recipe(divergence=kind, temperature=2.0, weight=1.0),
    )
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
    plain = torch.nn.functional.cross_entropy(
        student(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_run_brings_the_student_nearer(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "\n\n".join("the cat sat on the mat and the dog ran to the cat" for _ in range(200))
    )
    quick = [
        f"teacher={tiny_folder}", f"out={tmp_path / 'out'}", f"data={{train: [{{path: {tmp_path / 'a.txt'}, repeat: 50}}], validation: []}}", "steps=12",
        "model={depth: 2, context: 32, options: {hidden_size: 64, tie_word_embeddings: true}}", "weight=1.0", "rows=4", "micro_rows=4", "sample_every=100", "optimizer.warmup=2",
    ]  # fmt: skip
    folder = run(load_recipe("recipes/chat/distil.yaml", quick))
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.7 * losses[0] and checkpoints.load(folder).config.num_hidden_layers == 2
    (tmp_path / "out2").mkdir()
    with pytest.raises(DaedalError, match=r"the student has .* tokens and the teacher"):
        run(
            load_recipe(
                "recipes/chat/distil.yaml",
                [*quick, f"out={tmp_path / 'out2'}", "tokenizer={path: house/text}"],
            )
        )


# ---- the student's own text ----------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(
        "\n<|endoftext|>\n".join(
            f"the cat sat on mat {i} and the dog ran to the cat" for i in range(200)
        )
    )
    return tmp_path / "a.txt"


def quick(teacher: Path, texts: Path, out: Path, *more: str) -> DistilTextRecipe:
    return load_recipe("recipes/chat/distil.yaml", [
        f"teacher={teacher}", f"out={out}", f"data={{train: [{{path: {texts}}}], validation: []}}", "steps=6", "weight=1.0", "rows=4", "micro_rows=2",
        "model={depth: 2, context: 32, options: {hidden_size: 64, tie_word_embeddings: true}}", "sample_every=100", "checkpoint_every=2",
        "optimizer.warmup=2", "prompts=[]", *more,
    ])  # fmt: skip


class Rows:
    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __iter__(self):
        while True:
            yield self.tokens

    def state(self) -> dict:
        return {}


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_on_policy_gradients_by_hand(tiny_folder: Path, kind: str) -> None:
    """What the student writes is what it draws alone, and the gradient that of the mean divergence
    over the drawn tokens, one row at a time."""
    tokenizer = Tokenizer.load(tiny_folder)
    student, teacher = (
        network(0, vocab=tokenizer.vocab_size),
        network(1, 64, vocab=tokenizer.vocab_size),
    )
    r = recipe(divergence=kind, rows=3, seed=5, on_policy={"prompt_tokens": 4, "tokens": 6})
    text = torch.randint(3, tokenizer.vocab_size, (3, 12))
    batches = iter(Written(r, Rows(text), student, tokenizer, None))
    for number in range(2):
        batch = next(batches)
        objective = distillation(r, teacher)
        student.zero_grad()
        (objective.loss(student, batch) / objective.count(batch)).backward()
        found = {name: p.grad.clone() for name, p in student.named_parameters()}
        student.zero_grad()
        total, drawn = 0.0, 0
        for i in range(3):
            prompt = text[i, :4].tolist()
            output = generate(
                student,
                prompt,
                SamplingParams(seed=seed_of(5, 3 * number + i), max_tokens=6),
                eos_ids=tokenizer.eos_ids,
            )
            ids = prompt + output
            assert batch["tokens"][i, : len(ids)].tolist() == ids and batch["mask"][i].nonzero()[
                :, 0
            ].tolist() == list(range(3, len(ids) - 1))
            p, q = (
                each(torch.tensor([ids]))[0, 3:-1].log_softmax(-1) for each in (student, teacher)
            )
            q, middle = q.detach(), ((p.exp() + q.detach().exp()) / 2).log()
            by_hand = {
                "forward": q.exp() * (q - p),
                "reverse": p.exp() * (p - q),
                "js": 0.5 * q.exp() * (q - middle) + 0.5 * p.exp() * (p - middle),
            }
            total, drawn = total + by_hand[kind].sum(), drawn + len(output)
        assert objective.count(batch) == drawn
        (total / drawn).backward()
        for name, p in student.named_parameters():
            torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


def test_the_share_of_batches_and_prompts_of_conversations(chat_base: Path) -> None:
    tokenizer = Tokenizer.load(chat_base)
    student, text = network(0, vocab=tokenizer.vocab_size), torch.randint(3, 40, (1, 12))
    r = recipe(rows=1, on_policy={"share": 0.3, "prompt_tokens": 2, "tokens": 2})
    batches = iter(Written(r, Rows(text), student, tokenizer, None))
    own = [("mask" in next(batches)) for _ in range(100)]
    assert 15 < sum(own) < 45 and own[7:] == [
        ("mask" in b)
        for b, _ in zip(
            Written(r, Rows(text), student, tokenizer, {"number": 7}), range(93), strict=False
        )
    ]
    r = recipe(rows=2, on_policy={"prompts": [{"path": "tasks:list"}], "tokens": 3})
    written = Written(
        r,
        Rows(text.expand(2, -1)),
        network(0, vocab=tokenizer.vocab_size, context=128),
        tokenizer,
        None,
    )
    batch = next(iter(written))
    for i in range(2):
        ids = written.questions.encoded(written.questions.question(i))
        assert (
            batch["tokens"][i, : len(ids)].tolist() == ids
            and int(batch["mask"][i].nonzero()[0]) == len(ids) - 1
        )
    with pytest.raises(
        DaedalError,
        match=r"on_policy.tokens = 128 after a prompt is beyond the student's context of 32",
    ):
        Written(recipe(on_policy={}), Rows(text), student, tokenizer, None)
    with pytest.raises(ValueError, match="whole weights"):
        recipe(on_policy={}, parallel="fsdp")


LATE = """
import sys, time
from daedal.train.tasks import load_recipe, run
from daedal.train.trainer import Trainer
whole = Trainer.one_step
Trainer.one_step = lambda self, batch: (time.sleep(0.15), whole(self, batch))[1]
run(load_recipe(sys.argv[1], sys.argv[2:]))
"""


def test_an_on_policy_run_that_is_killed_goes_on_to_the_same_losses(
    tiny_folder: Path, texts: Path, tmp_path: Path
) -> None:
    more = ["on_policy={share: 0.6, prompt_tokens: 6, tokens: 12}", "steps=10"]
    run(quick(tiny_folder, texts, tmp_path / "whole", *more))
    r = quick(tiny_folder, texts, tmp_path / "killed", *more)
    (tmp_path / "r.yaml").write_text(r.model_dump_json())
    child = subprocess.Popen(
        [sys.executable, "-c", LATE, str(tmp_path / "r.yaml")], stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        if list((tmp_path / "killed").glob("checkpoints/step-*")):
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "model").exists()
    run(r)
    runs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert [line["loss"] for line in runs[0]] == [line["loss"] for line in runs[1]] and len(
        runs[0]
    ) == 10
    assert {line["written"] for line in runs[0]} == {0.0, 1.0}


# ---- the teacher's text --------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sequence_level_rows_are_what_the_teacher_writes(
    tiny_folder: Path, texts: Path, tmp_path: Path, temperature: float
) -> None:
    how = f"sequence={{texts: 16, prompt_tokens: 5, tokens: 20, temperature: {temperature}}}"
    r = quick(tiny_folder, texts, tmp_path / "out", how, "weight=0.0", "steps=2")
    teacher, tokenizer = distil_text.teacher_of(r), Tokenizer.load(tiny_folder)
    said = generate(
        teacher,
        [tokenizer.bos_id, *tokenizer.encode("the cat sat on mat 3", add_bos=False)[:5]],
        SamplingParams(temperature=0, max_tokens=9),
    )
    with torch.no_grad():  # a teacher that comes to ends
        teacher.lm_head.weight[[said[-1], tokenizer.eos_ids[0]]] = teacher.lm_head.weight[
            [tokenizer.eos_ids[0], said[-1]]
        ]
    source = distil_text.teachers_text(r, teacher)
    rows = [json.loads(line)["text"] for line in Path(source.path).read_text().splitlines()]
    assert rows and len(set(rows)) == len(rows)
    expected = set()
    for i, text in enumerate(distil_text.islice(distil_text.Mixture(r.data.train, r.seed), 16)):
        prompt = [tokenizer.bos_id, *tokenizer.encode(text, add_bos=False)[:5]]
        params = SamplingParams(temperature=temperature, seed=seed_of(r.seed, i), max_tokens=20)
        output = generate(teacher, prompt, params, eos_ids=tokenizer.eos_ids, cached=True)
        if output[-1] in tokenizer.eos_ids:
            expected.add(tokenizer.decode(prompt + output))
    assert set(rows) == expected
    before = Path(source.path).stat().st_mtime_ns
    run(r)  # reads what is there
    assert (
        Path(source.path).stat().st_mtime_ns == before
        and len(list((tmp_path / "out").glob("teacher-*"))) == 1
    )
    assert source.path in (tmp_path / "out" / "recipe.json").read_text()


def test_a_teacher_that_never_ends_is_one_sentence(
    tiny_folder: Path, texts: Path, tmp_path: Path
) -> None:
    r = quick(tiny_folder, texts, tmp_path / "out", "sequence={texts: 2, tokens: 1}")
    with pytest.raises(
        DaedalError, match=r"none of 2 texts of .* ended within sequence.tokens = 1; raise it"
    ):
        run(r)
