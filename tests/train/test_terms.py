"""Terms of the flow objective: weights by hand, an uncertainty that finds the mean loss, alignment
that reaches early blocks only."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from daedal import checkpoints
from daedal.checkpoints import resolve
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from daedal.networks.media import MediaConfig, MediaTransformer
from daedal.networks.media_codecs import grid_positions, patchify
from daedal.train import flow, sketch, terms
from daedal.train.recipe.flow import FlowRecipe
from daedal.train.tasks import load_recipe, run

TINY = MediaConfig(
    hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=96, vocab_size=300, text_layers=1, text_length=12, token_size=768,
    patch_size=16,
)  # fmt: skip
QUICK = [
    "model={depth: 4, options: {hidden_size: 64, patch_size: 16, text_layers: 1, text_length: 12}}", "rows=4", "data.captions=200", "prompts=[]",
    "sample_steps=2", "evaluate_pictures=1", "evaluate_every=100", "sample_every=100",
]  # fmt: skip


def recipe(out: Path, *overrides: str) -> FlowRecipe:
    return load_recipe("recipes/image/tiny.yaml", [*QUICK, f"out={out}", *overrides])


def wild(config: MediaConfig = TINY) -> MediaTransformer:
    network = MediaTransformer(config).init_weights(0)
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return network


def clip_folder(folder: Path) -> Path:
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
    }
    text, vision = (
        CLIPTextConfig(vocab_size=300, max_position_embeddings=13, **size),
        CLIPVisionConfig(image_size=32, patch_size=16, **size),
    )
    checkpoints.save(CLIPModel(CLIPConfig.of(text, vision, 32)).init_weights(0), folder)
    return folder


# ---- weights -------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    t = torch.tensor([0.01, 0.2, 0.5, 1.0])
    # no more than at 0.4
    assert terms.weight(t, None).tolist() == pytest.approx([6.25, 6.25, 4, 1])
    assert terms.weight(t, 5.0).tolist() == pytest.approx([5, 5, 1, 0])  # SNR: 9801, 16, 1, 0


def test_uncertainty_finds_the_log_of_the_mean_loss() -> None:
    """Losses drawn at each level from an exponential law of known mean: u(t) comes to its
    logarithm."""
    torch.manual_seed(0)
    head, mean = terms.Uncertainty(), lambda t: (1 - 2 * (t - 0.3).square() * 4).exp()
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 1500)
        t = torch.rand(512)
        u = head(t)
        (-mean(t) * torch.rand(512).log() / u.exp() + u).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    t = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(head(t), mean(t).log(), atol=0.1, rtol=0)


def test_offset_noise_moves_the_mean_colour() -> None:
    torch.manual_seed(0)
    eps = terms.offset(torch.Size((4000, 4, 3 * 16)), 0.5, 3)
    means = eps.view(4000, 4, 3, 16).mean((1, 3))  # of each picture's channels
    assert means.var().item() == pytest.approx(
        0.25 + 1 / 64, rel=0.05
    ) and eps.var().item() == pytest.approx(1.25, rel=0.02)
    torch.manual_seed(1)
    plain = terms.offset(torch.Size((2, 4, 48)), 0.0, 3)
    torch.manual_seed(1)
    assert torch.equal(plain, torch.randn(2, 4, 48))


# ---- alignment -----------------------------------------------------------------------------------


def aligned(network: MediaTransformer, align: terms.Alignment, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    images, positions = torch.rand(3, 3, 64, 64) * 2 - 1, grid_positions(64, 64, 16)
    x0, t, text = (
        patchify(images, 16),
        torch.rand(3, 1, 1),
        network.encode_text(torch.randint(300, (3, 12))),
    )
    eps, states = torch.randn(x0.shape), []
    network(
        terms.noised(x0, eps, terms.Level(1 - t, t, t)), positions, t[..., 0], text, None, states
    )
    return align(states, align.wanted(network, images, x0, eps, t, positions, text))  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["self", "tower"])
def test_alignment_falls_and_moves_early_blocks_only(tmp_path: Path, kind: str) -> None:
    network = wild()
    align = terms.auxiliary(
        recipe(
            tmp_path, "align=1.0", f"align_to={'self' if kind == 'self' else clip_folder(tmp_path)}"
        ),
        network,
    )["align"]
    first = aligned(network, align)
    assert first.shape == (3, 16)
    first.mean().backward()
    moved = [
        any(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
        for layer in network.layers
    ]
    assert moved == [True, True, False, False]
    optimizer = torch.optim.Adam([*network.parameters(), *align.parameters()], 1e-3)
    for seed in range(60):
        optimizer.zero_grad()
        aligned(network, align, seed).mean().backward()
        optimizer.step()
    assert aligned(network, align).mean() < 0.8 * first.mean()


def test_the_teacher_is_an_average_of_the_student() -> None:
    network = wild()
    align = terms.SelfAlignment(network, decay=0.75)
    before = network.proj_in.weight.detach().clone()
    network.proj_in.weight.data += 4
    align.teacher.follow(network)
    torch.testing.assert_close(align.teacher.weights()["proj_in.weight"], before + 1)
    torch.testing.assert_close(align.teacher.weights()["norm.weight"], network.norm.weight.data)


def test_align_to_something_else_is_an_error(tmp_path: Path) -> None:
    checkpoints.save(wild(), tmp_path)
    with pytest.raises(DaedalError, match="holds a MediaTransformer; give self"):
        terms.auxiliary(recipe(tmp_path, "align=1.0", f"align_to={tmp_path}"), wild())


# ---- captions ------------------------------------------------------------------------------------


def named(tmp_path: Path) -> Path:
    """Things in three styles, and one caption that does not start with its name."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    names = ["apple", "red car", "old tree", "sun", "small house", "bird", "fish and chips", "hat"]
    rows = [
        {"name": name, "caption": f"{name}, {style} emoji"}
        for name in names
        for style in ("noto", "flat", "black and white")
    ]
    rows = [
        {**row, "image": buffer.getvalue()}
        for row in [*rows, {"name": "moon", "caption": "the moon, flat emoji"}]
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "named.parquet")
    return tmp_path / "named.parquet"


class Bag(nn.Module):
    """Words that only add up: the pooled vector is their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.embed = torch.zeros(24, 16), torch.randn(2048, 16)

    def forward(self, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return self.embed[tokens]

    def gist(self, states: torch.Tensor) -> torch.Tensor:
        return states.mean(1)


def test_names_and_endings_add_up(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = Tokenizer.load(resolve("house/image"))
    adds = terms.Additive(
        recipe(tmp_path, f"data.train=[{{path: {named(tmp_path)}}}, {{path: scenes}}]"), words, 24
    )
    assert adds.captions.shape == (3, 8, 24)
    assert (
        words.decode([t for t in adds.captions[1, 0].tolist() if t != words.pad_id])
        == "apple, flat emoji"
    )
    assert adds(Bag(), 20).item() == pytest.approx(0, abs=1e-6)
    text = wild(replace(TINY, vocab_size=2048, text_length=24)).text
    before = adds(text, 100).item()
    optimizer = torch.optim.Adam(text.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        adds(text, 20).backward()
        optimizer.step()
    assert adds(text, 100).item() < before / 4


@pytest.mark.parametrize("task", ["flow", "sketch"])
def test_adding_up_is_part_of_the_loss(tmp_path: Path, task: str) -> None:
    words, file = Tokenizer.load(resolve("house/image")), named(tmp_path)
    network = wild(replace(TINY, vocab_size=2048, sketch=8))
    batch = {"images": torch.zeros(4, 3, 64, 64), "captions": torch.zeros(4, 12, dtype=torch.int64)}
    options = "model={options: {hidden_size: 64, patch_size: 16, text_length: 12, sketch: 8}}"
    losses = []
    for weight in (0.0, 0.5):
        of = load_recipe(
            f"recipes/image/{'tiny' if task == 'flow' else task}.yaml",
            [options, f"data.train=[{{path: {file}}}]", f"additive={weight}"],
        )
        objective = {"flow": flow.flow_loss, "sketch": sketch.sketching}[task](of, words)
        network.auxiliary = nn.ModuleDict({"before": sketch.Before(network)})
        torch.manual_seed(1)
        losses.append(objective.loss(network, batch).item())
    assert losses[1] > losses[0] * (1 + 1e-4)


def test_nothing_to_add_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match="additive needs captions of names with endings"):
        run(recipe(tmp_path, "additive=0.3"))


def test_a_run_with_all_terms_goes_on_to_the_same_losses_and_ships_none_of_them(
    tmp_path: Path,
) -> None:
    asked = [
        "min_snr=5",
        "uncertainty=true",
        "offset_noise=0.1",
        "align=0.2",
        "steps=4",
        "checkpoint_every=2",
        "micro_rows=2",
        "ema=0.9",
    ]
    run(recipe(tmp_path / "whole", *asked))
    out = run(recipe(tmp_path / "part", *asked))
    (tmp_path / "part/checkpoints/step-00000004.pt").unlink()
    run(recipe(tmp_path / "part", *asked))
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "part")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4 and all(map(math.isfinite, losses[0]))
    from safetensors import safe_open

    with safe_open(out / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "auxiliary" in name]  # noqa: SIM118
