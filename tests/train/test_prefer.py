"""Distillation and preference training of the media transformer, on closed forms and tiny networks."""

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from daedal import checkpoints
from daedal.data.pictures import encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.networks.media_codecs import grid_positions, patchify
from daedal.processes.samplers import euler
from daedal.systems.house_media import flow_levels, predictor
from daedal.train import distill, prefer
from daedal.train.tasks import load_recipe, run
from daedal.worlds import scenes

ASK = distill.ask
TINY = MediaConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, vocab_size=300, text_layers=1, text_length=12, token_size=768,
    patch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        ["a red circle left of a blue star"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>"
    )


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    checkpoints.save(wild(0), folder)
    tokenizer.save(folder)
    return folder


def wild(seed: int) -> MediaTransformer:
    network = MediaTransformer(TINY).init_weights(0)
    torch.manual_seed(seed)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return network


def batch(tokenizer: Tokenizer, rows: int = 4) -> dict[str, torch.Tensor]:
    return prefer.ScenePairs([], tokenizer, rows, 12, seed=1).batch(1)


# ---- distillation --------------------------------------------------------------------------------


def test_pseudo_huber_by_hand() -> None:
    d = torch.tensor([[3.0, 4.0]])
    c = 0.00054 * math.sqrt(2)
    assert distill.pseudo_huber(d).item() == pytest.approx(
        (math.sqrt(25 + c * c) - c) * math.sqrt(2), rel=1e-5
    )


def test_a_student_that_names_the_teachers_picture_everywhere_has_no_loss(
    tokenizer: Tokenizer, folder: Path
) -> None:
    """A teacher that answers one fixed picture makes a straight path into it; a student that always
    answers that picture is consistent, one that answers zero is charged at the last level only."""
    recipe = load_recipe(
        "recipes/image/distill.yaml", [f"model.start={folder}", "levels=4", "method=consistency"]
    )
    fixed = torch.rand(16, 768)

    class Answers:
        config = TINY

        def __init__(self, answer: torch.Tensor) -> None:
            self.answer, self.codec = answer, MediaTransformer(TINY).codec

        def to(self, device: torch.device) -> "Answers":
            return self

        def encode_text(self, tokens: torch.Tensor) -> None:
            return None

        def __call__(
            self, x: torch.Tensor, positions: torch.Tensor, level: torch.Tensor, text: None
        ) -> torch.Tensor:
            return self.answer.expand_as(x)

    objective = distill.consistency(recipe, tokenizer, teacher=Answers(fixed))  # type: ignore[arg-type]
    part = batch(tokenizer, 16)
    # rounding, of a loss in thousands otherwise
    assert objective.loss(Answers(fixed), part).item() < 2.0
    assert objective.loss(Answers(torch.zeros(16, 768)), part).item() > 1000


def test_a_student_of_guidance_has_no_loss_where_it_names_what_its_teacher_does(
    tokenizer: Tokenizer, folder: Path
) -> None:
    recipe = load_recipe(
        "recipes/image/guidance.yaml", [f"model.start={folder}", "teacher_guidance=1.0"]
    )
    network, part = (
        cast(MediaTransformer, checkpoints.load(folder, dtype=torch.float32)),
        batch(tokenizer),
    )
    assert distill.guidance(recipe, tokenizer).loss(network, part).item() == pytest.approx(
        0, abs=1e-6
    )
    recipe = load_recipe(
        "recipes/image/guidance.yaml", [f"model.start={folder}", "teacher_guidance=2.0"]
    )
    # the teacher's own answer to no words, which guidance leaves as it is
    captions = encode_captions(tokenizer, [""] * 4, TINY.text_length)
    assert distill.guidance(recipe, tokenizer).loss(network, part).item() > 1e-4
    assert distill.guidance(recipe, tokenizer).loss(
        network, {**part, "captions": captions}
    ).item() == pytest.approx(0, abs=1e-6)


def test_a_progressive_student_lands_where_its_teacher_comes_in_several_steps(
    tokenizer: Tokenizer, folder: Path, monkeypatch
) -> None:
    """From noise, what the loss asks for takes one step of the student to where Euler takes the
    guided teacher in all of its own."""
    settings = [
        f"model.start={folder}",
        "levels=6",
        "sample_steps=1",
        "sample_shift=3.0",
        "teacher_guidance=2.0",
    ]
    recipe, teacher, part = (
        load_recipe("recipes/image/distill.yaml", settings),
        wild(1),
        batch(tokenizer),
    )
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        distill, "ask", lambda network, x, *rest: seen.append(x) or ASK(network, x, *rest)
    )
    loss = distill.progressive(recipe, tokenizer, teacher).loss(wild(2), part)
    noise, nothing = seen[-1], encode_captions(tokenizer, [""] * 4, TINY.text_length)
    levels, positions = flow_levels(6, 3.0), grid_positions(64, 64, TINY.patch_size)
    with torch.no_grad():
        uncond = teacher.encode_text(nothing)
        predict = predictor(
            teacher,
            teacher.encode_text(part["captions"]),
            positions,
            uncond=uncond,
            guidance_scale=2.0,
        )
        wanted = euler(predict, noise, levels, noise)  # type: ignore[arg-type]
        student = wild(2)
        made = ASK(
            student, noise, torch.ones(4, 1), positions, student.encode_text(part["captions"])
        )
    assert loss.item() == pytest.approx((made - wanted).square().sum().item(), rel=1e-4)


def test_a_teacher_takes_a_multiple_of_its_students_steps() -> None:
    with pytest.raises(
        DaedalError, match="7 steps of the teacher are no multiple of the student's 2"
    ):
        load_recipe("recipes/image/distill.yaml", ["levels=7", "sample_steps=2"])


def test_a_student_trains_saves_and_says_how_to_sample_it(tmp_path: Path, folder: Path) -> None:
    overrides = [
        f"out={tmp_path}", f"model.start={folder}", "steps=2", "rows=4", "micro_rows=4", "evaluate_pictures=1", "ema=null",
        "data={train: [{path: scenes}]}",
    ]  # fmt: skip
    out = run(load_recipe("recipes/image/distill.yaml", overrides))
    assert isinstance(checkpoints.load(out), MediaTransformer)
    assert json.loads((out / "generation_config.json").read_text()) == {
        "steps": 4,
        "shift": 3.0,
        "guidance_scale": 1.0,
        "sampler": "euler",
    }


def test_a_student_without_a_teacher_is_an_error() -> None:
    with pytest.raises(DaedalError, match=r"give model\.start"):
        load_recipe("recipes/image/distill.yaml", ["model={}"])


# ---- a critic on the teacher ---------------------------------------------------------------------


def looks(
    folder: Path, rows: int
) -> tuple[MediaTransformer, Callable[[torch.Tensor], list[torch.Tensor]]]:
    guide = cast(MediaTransformer, checkpoints.load(folder, dtype=torch.float32)).requires_grad_(
        False
    )
    text, positions = guide.encode_text(torch.randint(300, (rows, 12))), grid_positions(64, 64, 16)
    return guide, distill.looking(
        guide, torch.zeros(rows, 16, 768), positions, text, torch.full((rows, 1), 0.3)
    )


def test_heads_learn_to_tell_pictures_from_negatives(tokenizer: Tokenizer, folder: Path) -> None:
    guide, look = looks(folder, 16)
    heads = distill.Heads(64, 2)
    critic = distill.Critic(heads, look)
    real = patchify(batch(tokenizer, 16)["images"].float() / 127.5 - 1, 16)
    made = (-real).requires_grad_()
    maker, judged = distill.duel(distill.GAMES["hinge"], critic, real, made)
    assert maker.abs().max() == 0 and judged.tolist() == [2.0] * 16  # they know nothing yet
    optimizer = torch.optim.Adam(heads.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        distill.duel(distill.GAMES["hinge"], critic, real, made)[1].mean().backward()
        optimizer.step()
    assert made.grad is None  # the critic's loss asks nothing of the student
    maker, judged = distill.duel(distill.GAMES["hinge"], critic, real, made)
    assert judged.mean() < 1.0
    optimizer.zero_grad()
    maker.mean().backward()
    assert (
        made.grad.abs().max() > 0
        and heads.weight.grad is None
        and all(p.grad is None for p in guide.parameters())
    )


def test_an_adversarial_student_trains_and_leaves_its_critic_behind(
    tmp_path: Path, folder: Path
) -> None:
    overrides = [
        f"out={tmp_path}",
        f"model.start={folder}",
        "steps=2",
        "rows=4",
        "micro_rows=4",
        "evaluate_pictures=1",
        "ema=null",
        "adversarial=0.1",
    ]
    out = run(load_recipe("recipes/image/ladd.yaml", overrides))
    assert isinstance(checkpoints.load(out), MediaTransformer)
    trained = torch.load(tmp_path / "checkpoints/step-00000002.pt", weights_only=True)["model"]
    assert trained["auxiliary.heads.weight"].abs().max() > 0


# ---- preference ----------------------------------------------------------------------------------


def test_pairs_are_right_and_wrong(tokenizer: Tokenizer) -> None:
    part = batch(tokenizer, 24)
    for seed, chosen, rejected in zip(part["seeds"], part["images"], part["rejected"], strict=True):
        scene = prefer.scene_of(int(seed))
        right, wrong = (
            scenes.correct(scene, picture.permute(1, 2, 0).numpy())["all"]
            for picture in (chosen, rejected)
        )
        assert right and not wrong


def test_dpo_starts_at_log_two_and_falls_when_the_chosen_error_falls(
    tokenizer: Tokenizer, folder: Path
) -> None:
    recipe = load_recipe(
        "recipes/image/dpo.yaml", [f"model.start={folder}", "beta=5.0", "uniform=0.0"]
    )
    network, part = checkpoints.load(folder, dtype=torch.float32), batch(tokenizer)
    objective = prefer.dpo(recipe, tokenizer)
    for network.compute_dtype in (torch.bfloat16, None):  # both round alike
        assert objective.loss(network, part).item() / objective.count(part) == pytest.approx(
            math.log(2), rel=1e-4
        )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(30):
        torch.manual_seed(0)
        optimizer.zero_grad()
        loss = objective.loss(network, part)
        loss.backward()
        optimizer.step()
    assert loss.item() / objective.count(part) < 0.9 * math.log(2)


def test_advantages_by_hand() -> None:
    out = prefer.advantages(torch.tensor([0.0, 1.0, 5.0, 5.0]), 2)
    assert out.tolist() == pytest.approx([-0.7070, 0.7070, 0, 0], abs=1e-3)


def test_the_stochastic_step_keeps_the_marginals() -> None:
    """With the exact denoiser of N(0, 0.25) pictures, x stays of variance alpha^2 / 4 + sigma^2 at
    every level."""
    torch.manual_seed(0)
    levels, x = flow_levels(200), torch.randn(20000, 1, 1)
    for i in range(levels.steps - 1):
        level, after = levels[i], levels[i + 1]
        x0 = x * level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
        mean, spread = prefer.stochastic_step(x, x0, level, after, 0.7)
        x = mean + spread * torch.randn(x.shape)
    assert x.var().item() == pytest.approx(after.alpha**2 * 0.25 + after.sigma**2, rel=0.08)


def test_reward_is_what_is_right() -> None:
    seed = 5
    scene = prefer.scene_of(seed)
    pictures = [
        scenes.draw(scene),
        scenes.draw(prefer.corrupted(scene, random.Random(1))),
        np.full((64, 64, 3), 7, np.uint8),
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    right, corrupted, nothing = prefer.scene_reward(torch.tensor([seed] * 3), images).tolist()
    assert right == 1.0 > corrupted > 0.0 and nothing < right


@pytest.mark.parametrize(("sign", "seed"), [(1, 0), (-1, 0), (1, 1)])
def test_grpo_moves_towards_what_is_rewarded(
    tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch, sign: int, seed: int
) -> None:
    """With brightness as the reward, descent on a velocity network that says nothing yet lowers its
    velocities (noise minus picture), so that pictures get brighter; with darkness it raises them.
    """
    recipe = load_recipe(
        "recipes/image/grpo.yaml",
        [f"model.start={folder}", "kl=0.0", "rollout_steps=3", "group=16"],
    )
    monkeypatch.setattr(prefer, "scene_reward", lambda seeds, images: sign * images.mean((1, 2, 3)))
    network = MediaTransformer(dataclasses.replace(TINY, prediction="flow")).init_weights(0)
    torch.manual_seed(seed)
    prefer.grpo(recipe, tokenizer, start=network).loss(network, batch(tokenizer, 2)).backward()
    assert sign * network.proj_out.bias.grad.sum() > 0


def test_grpo_without_a_difference_in_reward_only_pulls_to_the_start(
    tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(
        "recipes/image/grpo.yaml", [f"model.start={folder}", "rollout_steps=3", "group=4"]
    )
    monkeypatch.setattr(prefer, "scene_reward", lambda seeds, images: torch.ones(len(seeds)))
    network = checkpoints.load(folder, dtype=torch.float32).requires_grad_(True)
    # it is at the start
    assert prefer.grpo(recipe, tokenizer).loss(
        network, batch(tokenizer, 2)
    ).item() == pytest.approx(0, abs=1e-5)
    network.proj_out.bias.data += 0.1
    loss = prefer.grpo(recipe, tokenizer).loss(network, batch(tokenizer, 2))
    loss.backward()
    assert loss.item() > 0 and network.proj_out.bias.grad.sum() > 0


def test_how_good_by_hand() -> None:
    rewards = torch.tensor([0.0, 1.0, 1.0, 1.0])
    # half a reward from the mean of its group, over the spread of all
    half = 0.5 * 0.5 / rewards.std().item()
    torch.testing.assert_close(
        prefer.rated(rewards, 2),
        torch.tensor([0.5 - half, 0.5 + half, 0.5, 0.5]),
        atol=1e-3,
        rtol=0,
    )


def nft(tokenizer: Tokenizer, folder: Path, *asked: str) -> tuple[torch.Tensor, MediaTransformer]:
    recipe = load_recipe(
        "recipes/image/nft.yaml", [f"model.start={folder}", "rollout_steps=3", *asked]
    )
    network = cast(MediaTransformer, checkpoints.load(folder, dtype=torch.float32)).requires_grad_(
        True
    )
    network.auxiliary = prefer.Prefer(recipe).auxiliary(network)
    torch.manual_seed(0)
    loss = prefer.nft(recipe, tokenizer).loss(network, batch(tokenizer, 2))
    loss.backward()
    return loss, network


@pytest.mark.parametrize("sign", [1, -1])
def test_nft_moves_towards_what_is_rewarded(
    tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    """With brightness as the reward, descent raises the pictures that are named; with darkness it
    lowers them."""
    monkeypatch.setattr(prefer, "scene_reward", lambda seeds, images: sign * images.mean((1, 2, 3)))
    _, network = nft(tokenizer, folder, "group=16")
    assert sign * network.proj_out.bias.grad.sum() < 0


def test_nft_without_a_difference_in_reward_stays_where_it_is(
    tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefer, "scene_reward", lambda seeds, images: torch.ones(len(seeds)))
    loss, network = nft(tokenizer, folder, "group=2")
    assert loss.item() > 0 and network.proj_out.bias.grad.abs().max() < 1e-5


def test_nft_goes_on_to_the_same_losses_with_the_same_old_policy(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """From a model with an input for edges, which no reward reaches: its parameters have no
    optimizer state."""
    checkpoints.save(
        MediaTransformer(dataclasses.replace(TINY, control_size=256)).init_weights(0),
        tmp_path / "start",
    )
    tokenizer.save(tmp_path / "start")
    asked = [
        f"model.start={tmp_path / 'start'}",
        "rows=2",
        "micro_rows=2",
        "rollout_steps=2",
        "group=2",
        "evaluate_every=100",
        "checkpoint_every=1",
    ]
    for name, steps in (("whole", 3), ("parts", 2), ("parts", 3)):
        recipe = load_recipe(
            "recipes/image/nft.yaml",
            [
                *asked,
                "follow=0.9",
                "optimizer.decay=0.0",
                f"out={tmp_path / name}",
                f"steps={steps}",
            ],
        )
        assert isinstance(checkpoints.load(run(recipe)), MediaTransformer)
    whole, parts = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 3


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_run_of_each_method(tmp_path: Path, folder: Path, method: str) -> None:
    overrides = [
        f"out={tmp_path}",
        f"model.start={folder}",
        "steps=1",
        "rows=2",
        "micro_rows=2",
        "evaluate_pictures=1",
    ]
    out = run(
        load_recipe(
            f"recipes/image/{method}.yaml",
            [*overrides, "rollout_steps=2", "group=2"] if method == "grpo" else overrides,
        )
    )
    assert isinstance(checkpoints.load(out), MediaTransformer)
