"""Component and pipeline folders: round trips, what a bad folder says, configs with keys that are
unknown, fixed or left out."""

import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from daedal import checkpoints
from daedal.checkpoints.folder import fill
from daedal.cli.models import described
from daedal.errors import DaedalError
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.networks.config import defaulted, parse, to_dict
from daedal.networks.names import Names

SMALL = dict(
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def small():
    return AutoencoderKL(parse(AutoencoderKLConfig, SMALL)).init_weights(0)


@pytest.fixture
def folder(tmp_path):
    checkpoints.save(small(), tmp_path / "vae")
    return tmp_path / "vae"


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def edit(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in (raw | changes).items() if v != "gone"})
    )


def rewrite(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def test_round_trip_in_every_dtype(folder, tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        module = checkpoints.load(folder, dtype=dtype)
        checkpoints.save(module, tmp_path / "out", max_shard_bytes=20_000)
        assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
        again = checkpoints.load(tmp_path / "out")
        assert (
            same(again, module)
            and all(p.dtype == dtype for p in again.parameters())
            and not again.training
        )
    assert list(tmp_path.glob(".*")) == []


def test_saving_over_shards_leaves_no_stale_one(folder):
    module = checkpoints.load(folder)
    checkpoints.save(module, folder, max_shard_bytes=20_000)
    checkpoints.save(module, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]
    assert same(checkpoints.load(folder), module)


def test_the_half_precision_variant_is_found(folder, tmp_path):
    theirs = diffusers.AutoencoderKL.from_pretrained(
        folder, torch_dtype=torch.float16, low_cpu_mem_usage=False
    )
    theirs.save_pretrained(tmp_path / "whole", variant="fp16")
    theirs.save_pretrained(tmp_path / "shards", variant="fp16", max_shard_size="20KB")
    assert (
        not (tmp_path / "whole" / WEIGHTS).exists()
        and len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    )
    for name in ("whole", "shards"):
        ours = checkpoints.load(tmp_path / name)
        assert all(
            torch.equal(tensor, theirs.state_dict()[key])
            for key, tensor in ours.state_dict().items()
        )


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (
            lambda f: edit(f, _class_name="AutoencoderLK"),
            "'AutoencoderLK' is not a component Daedal knows .did you mean 'AutoencoderKL'",
        ),
        (
            lambda f: edit(f, latent_chanels=3),
            "unknown key 'latent_chanels' .did you mean 'latent_channels'",
        ),
        (
            lambda f: edit(f, down_block_types=["DownEncoderBlock2D", "DownBlock"]),
            "'DownBlock' is not one of",
        ),
        (
            lambda f: edit(f, latent_channels=8),
            r"7 misshapen tensors: decoder.conv_in.weight \(16, 4, 3, 3\) instead of",
        ),
        (lambda f: edit(f, layers_per_block=2), "32 missing tensors: decoder"),
        (
            lambda f: edit(f, mid_block_add_attention=False),
            "20 unmatched tensors: decoder.mid_block.attentions.0",
        ),
        (
            lambda f: rewrite(f, lambda t: t.pop("quant_conv.bias")),
            "1 missing tensors: quant_conv.bias",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update(stray=torch.zeros(1))),
            "1 unmatched tensors: stray",
        ),
        (
            lambda f: (f / WEIGHTS).unlink(),
            "holds no weights: neither diffusion_pytorch_model.safetensors",
        ),
        (lambda f: (f / WEIGHTS).rename(f / "diffusion_pytorch_model.bin"), "pickled weights only"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_bad_folder_gets_one_sentence(folder, breakage, words):
    breakage(folder)
    with pytest.raises(DaedalError, match=words):
        checkpoints.load(folder)


def test_names_of_the_file_are_not_always_ours():
    class Renamed(torch.nn.Module):
        names = Names(
            renames=(("inner.", "outer."),),
            former=(("ancient.", "outer."),),
            skipped=("position_ids",),
        )

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 3)

    weight, bias = torch.randn(3, 2), torch.randn(3)
    for stored in ("outer", "ancient"):
        module = Renamed()
        fill(
            module,
            iter(
                {
                    f"{stored}.weight": weight,
                    f"{stored}.bias": bias,
                    "text.position_ids": torch.arange(4),
                }.items()
            ),
        )
        assert torch.equal(module.inner.weight, weight) and torch.equal(module.inner.bias, bias)
    with pytest.raises(DaedalError, match=r"1 missing tensors: outer\.bias"):
        fill(Renamed(), iter({"outer.weight": weight}.items()))


def test_pickled_weights_are_read_when_asked(folder):
    module = checkpoints.load(folder)
    torch.save(module.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert same(checkpoints.load(folder, allow_pickle=True), module)


# Pipelines.


@pytest.fixture
def pipeline(tmp_path):
    """A folder as diffusers lays one out."""
    root = tmp_path / "pipeline"
    checkpoints.save(small(), root / "vae")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler", "beta_start": 0.1})
    )
    (root / "tokenizer").mkdir()
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.39.0", "requires_safety_checker": True,
        "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None], "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }  # fmt: skip
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def test_a_pipeline_folder(pipeline):
    parts = checkpoints.load_parts(pipeline)
    assert set(parts) == {"model_index", "vae", "scheduler", "tokenizer", "feature_extractor"}
    assert same(parts["vae"], small()) and parts["scheduler"]["beta_start"] == 0.1
    assert (
        parts["tokenizer"] == pipeline / "tokenizer"
        and parts["model_index"]["requires_safety_checker"]
    )
    assert (
        checkpoints.load_parts(pipeline, dtype=torch.bfloat16)["vae"].quant_conv.weight.dtype
        == torch.bfloat16
    )
    shutil.rmtree(pipeline / "vae")
    with pytest.raises(DaedalError, match="vae is not a folder"):
        checkpoints.load_parts(pipeline)


def test_a_pipeline_is_described_part_by_part(pipeline):
    shown = described(pipeline)
    assert set(shown) == {"folder", "model_index", "vae"}
    assert shown["vae"]["parameters"] == sum(p.numel() for p in small().parameters())


def test_a_folder_of_one_component_is_no_pipeline(folder):
    with pytest.raises(DaedalError, match=r"no model_index.json"):
        checkpoints.load_parts(folder)


# Configs.


@dataclass(frozen=True, kw_only=True)
class Example:
    size: int
    steps: tuple[int, ...] = (1, 2)
    nested: tuple[int | tuple[int, ...], ...] = ()

    class_name: ClassVar[str] = "Example"
    fixed: ClassVar[dict] = {"mode": "plain", "ends": (1, 2)}
    ignored: ClassVar[frozenset[str]] = frozenset({"initializer_range"})


def test_a_config_is_read_and_written():
    raw = {
        "_class_name": "Example",
        "_diffusers_version": "0",
        "size": 3,
        "nested": [1, [2, 3]],
        "mode": "plain",
        "ends": [1, 2],
    }
    config = parse(Example, raw | {"initializer_range": 0.02, "torch_dtype": "float32"})
    assert config == Example(size=3, nested=(1, (2, 3))) and hash(config)
    assert to_dict(config) == {k: v for k, v in raw.items() if k != "_diffusers_version"} | {
        "steps": [1, 2]
    }
    assert parse(Example, json.loads(json.dumps(to_dict(config)))) == config
    assert defaulted(Example, raw) == ["steps"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "Example lacks size"),
        (
            {"size": 1, "mode": "fancy"},
            "mode='fancy' of Example is not supported; Daedal knows mode='plain' only",
        ),
        ({"size": 1, "stepps": 1}, "unknown key 'stepps' .did you mean 'steps'"),
    ],
)
def test_a_bad_config_gets_one_sentence(raw, words):
    with pytest.raises(DaedalError, match=words):
        parse(Example, raw)
