"""Preference models: pairs by a rule, an order learnt and found again among held-out pairs, and
what their reward does to pictures."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from daedal import checkpoints
from daedal.data.pairs import TASTES, FilePairs, TastePairs
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.processes.imaging import pixels
from daedal.systems.house_media import flow_levels, paint
from daedal.train import prefer, rate
from daedal.train.tasks import load_recipe, run

TINY = MediaConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, vocab_size=300, text_layers=1, text_length=12, token_size=192,
    patch_size=8, sample_size=32,
)  # fmt: skip
QUICK = [
    "model={side: 32, depth: 1, width: 64, text_length: 12}", "vocab_size=300", "rows=8", "micro_rows=8", "steps=80", "evaluate_every=200",
    "evaluate_pictures=200", "data.captions=100", "optimizer={name: adamw, adam_lr: 0.002, warmup: 5}",
]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rate")
    run(load_recipe("recipes/image/rate.yaml", [*QUICK, f"out={folder}"]))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    network = MediaTransformer(TINY).init_weights(0)
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    checkpoints.save(network, folder)
    Tokenizer.train(
        ["a red circle left of a blue star"] * 5, 300, ["<|end|>", "<|pad|>"], pad="<|pad|>"
    ).save(folder)
    return folder


@pytest.mark.parametrize("taste", TASTES)
def test_a_taste_orders_pairs(taste: str) -> None:
    source, rng = TastePairs(32, taste), random.Random(0)
    for _ in range(20):
        chosen, rejected, caption = source.pair(rng)
        assert TASTES[taste](chosen) >= TASTES[taste](rejected) and caption == ""
    with pytest.raises(DaedalError, match=r"scenes:reder is no taste.*redder"):
        TastePairs(32, "reder")


def test_pairs_from_files(tmp_path: Path) -> None:
    def encoded(colour: tuple[int, int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        return buffer.getvalue()

    red, blue = encoded((255, 0, 0)), encoded((0, 0, 255))
    pq.write_table(
        pa.Table.from_pylist(
            [{"chosen": red, "rejected": {"bytes": blue}["bytes"], "caption": "a fire"}]
        ),
        tmp_path / "p.parquet",
    )
    (tmp_path / "red.png").write_bytes(red)
    (tmp_path / "blue.png").write_bytes(blue)
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"chosen": "red.png", "rejected": "blue.png", "caption": "a fire"}) + "\n"
    )
    for name in ("p.parquet", "p.jsonl"):
        chosen, rejected, caption = FilePairs(tmp_path / name, 8).pair(random.Random(0))
        assert (
            chosen[0, 0].tolist() == [255, 0, 0]
            and rejected[0, 0].tolist() == [0, 0, 255]
            and caption == "a fire"
        )
    (tmp_path / "bad.jsonl").write_text('{"image": "x"}\n')
    with pytest.raises(
        DaedalError, match="no rows with chosen and rejected; its columns are image"
    ):
        FilePairs(tmp_path / "bad.jsonl", 8)


def test_held_out_pairs_are_ordered_and_the_folder_says_the_same(out: Path) -> None:
    found = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
    assert found["accuracy"] > 0.9 and found["pairs"] == 200
    reward_scorer, source, rng = (
        rate.RewardScorer(out / "model"),
        TastePairs(32, "redder"),
        random.Random("others"),
    )
    drawn = [source.pair(rng) for _ in range(100)]
    images = [
        torch.from_numpy(np.stack([pair[i] for pair in drawn])).permute(0, 3, 1, 2).float() / 127.5
        - 1
        for i in range(2)
    ]
    chosen, rejected = (reward_scorer(x, [""] * 100) for x in images)
    assert (chosen > rejected).float().mean() > 0.9
    large = torch.nn.functional.interpolate(images[0], scale_factor=2)  # any size is looked at
    assert torch.corrcoef(torch.stack([reward_scorer(large, [""] * 100), chosen]))[0, 1] > 0.99


def test_without_a_head_a_rater_is_its_clip_model(out: Path, tmp_path: Path) -> None:
    reward_scorer = rate.RewardScorer(out / "model")
    reward_scorer.rater.head.weight.data.zero_()
    images, words = torch.rand(3, 3, 32, 32) * 2 - 1, ["a red circle", "two blue stars", "a cross"]
    scorer = reward_scorer.scorer
    torch.testing.assert_close(
        reward_scorer(images, words),
        scorer.clip.scale * (scorer.pictures(images) * scorer.texts(words)).sum(-1),
    )


def opinion_and_redness(folder: Path, reward_scorer: rate.RewardScorer) -> tuple[float, float]:
    """Means over pictures of no words."""
    words = torch.full((16, 12), 1)
    network = checkpoints.load(folder, torch.float32).eval()
    made = paint(network, words, words, list(range(16)), flow_levels(4), size=(32, 32))
    return reward_scorer(made, [""] * 16).mean().item(), float(
        np.mean([TASTES["redder"](picture) for picture in pixels(made)])
    )


@pytest.mark.parametrize(("method", "rate_", "steps"), [("refl", 0.0005, 12), ("grpo", 0.0015, 18)])
def test_the_reward_rises(
    out: Path, start: Path, tmp_path: Path, method: str, rate_: float, steps: int
) -> None:
    overrides = [
        f"out={tmp_path}", f"model.start={start}", "model.options={sample_size: 32}", f"reward={out / 'model'}", f"steps={steps}", "rows=8",
        "micro_rows=8", "kl=0.0", "rollout_steps=4", f"optimizer={{name: adamw, adam_lr: {rate_}, warmup: 1}}", "evaluate_pictures=1",
        "evaluate_every=1000", "ema=null", *(["group=16", "rows=2", "micro_rows=2"] if method == "grpo" else []),
    ]  # fmt: skip
    reward_scorer = rate.RewardScorer(out / "model")
    before, red = opinion_and_redness(start, reward_scorer)
    after, redder = opinion_and_redness(
        run(load_recipe(f"recipes/image/{method}.yaml", overrides)), reward_scorer
    )
    # the rater is pleased, and what it was taught to like has grown
    assert after > before + 0.5 and redder > red + 2


def test_a_pull_without_reward_keeps_the_start(out: Path, start: Path) -> None:
    """At the start the pull is zero; elsewhere it is what the answers differ by."""
    recipe = load_recipe(
        "recipes/image/refl.yaml",
        [f"model.start={start}", f"reward={out / 'model'}", "kl=1.0", "rollout_steps=3"],
    )
    network = checkpoints.load(start, torch.float32)
    objective = prefer.refl(recipe, Tokenizer.load(start))
    part = {
        "images": torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        "captions": torch.full((4, 12), 1),
    }
    losses = []
    for pull in (0.0, 1.0):
        recipe.kl = pull
        torch.manual_seed(0)
        losses.append(objective.loss(network, part).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_scene_has_no_slope() -> None:
    with pytest.raises(DaedalError, match="no slope to follow; give reward"):
        load_recipe("recipes/image/refl.yaml", ["reward=scenes"])
