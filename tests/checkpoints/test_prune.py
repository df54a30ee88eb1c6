"""Pruning: what does nothing is cut first, and costs nothing."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from daedal import checkpoints
from daedal.checkpoints.prune import prune
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.train.recipe.base import ModelRecipe


def network(family: str = "llama") -> Decoder:
    raw = ModelRecipe(family=family, depth=4, context=32, options={"hidden_size": 64}).config(
        50, 0, 1
    )
    made = build(config_from_dict(raw)).init_weights(0)
    torch.manual_seed(0)
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return made.eval()


@torch.no_grad()
def test_layers_and_neurons_that_do_nothing_go_first_and_are_not_missed() -> None:
    made, tokens = network(), [torch.randint(50, (2, 16)) for _ in range(3)]
    made.layers[2].mlp.down_proj.weight.zero_()
    made.layers[2].attention.o_proj.weight.zero_() if hasattr(
        made.layers[2], "attention"
    ) else made.layers[2].self_attn.o_proj.weight.zero_()
    dead = torch.randperm(made.config.intermediate_size)[:60]
    for layer in made.layers:
        layer.mlp.up_proj.weight[dead] = 0
    smaller = prune(made, tokens, layers=3, intermediate=made.config.intermediate_size - 60)
    assert (
        smaller.config.num_hidden_layers == 3 and smaller.parameter_count() < made.parameter_count()
    )
    assert torch.allclose(smaller(tokens[0]), made(tokens[0]), atol=1e-5)
    assert torch.allclose(prune(made, tokens)(tokens[0]), made(tokens[0]), atol=1e-6)


def test_the_command_writes_a_folder_that_loads(tiny_folder: Path, tmp_path: Path) -> None:
    from daedal.cli import app

    (tmp_path / "a.txt").write_text("the cat sat on the mat\n\nand the dog ran to the cat\n")
    c = checkpoints.load(tiny_folder).config
    run = CliRunner().invoke(
        app,
        [
            "prune",
            str(tiny_folder),
            str(tmp_path / "out"),
            "--calibrate",
            str(tmp_path / "a.txt"),
            "--intermediate",
            "16",
        ],
    )
    assert run.exit_code == 0, run.output
    smaller = checkpoints.load(tmp_path / "out")
    assert (
        smaller.config.intermediate_size == 16
        and smaller.config.num_hidden_layers == c.num_hidden_layers
    )
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_what_cannot_be_pruned_gets_a_sentence() -> None:
    tokens = [torch.randint(50, (1, 8))]
    with pytest.raises(DaedalError, match="layers=9 is out of range; this model has 4"):
        prune(network(), tokens, layers=9)
    with pytest.raises(DaedalError, match="no text to see"):
        prune(network(), [], layers=3)
