"""Merging: the formulas against peft's and by hand, and folders."""

from pathlib import Path

import pytest
import torch
from peft.utils import merge_utils
from safetensors.torch import load_file
from typer.testing import CliRunner

from daedal import checkpoints
from daedal.checkpoints.merge import dare, linear, slerp, ties
from daedal.errors import DaedalError


def test_ties_is_pefts() -> None:
    changes, weights = torch.randn(3, 7, 5), torch.tensor([0.5, 1.0, 2.0])
    for density in (0.2, 0.6, 1.0):
        assert torch.allclose(
            ties(weights, changes, density),
            merge_utils.ties(list(changes), weights, density),
            atol=1e-6,
        )


def test_dare_is_unbiased_and_linear_is_a_mean() -> None:
    changes, draw = torch.randn(2, 4), torch.Generator().manual_seed(0)
    many = torch.stack([dare(torch.tensor([1.0, 0.5]), changes, 0.3, draw) for _ in range(20000)])
    assert torch.allclose(many.mean(0), changes[0] + 0.5 * changes[1], atol=0.05)
    assert torch.allclose(
        dare(torch.tensor([1.0, 0.5]), changes, 1.0, draw), changes[0] + 0.5 * changes[1]
    )
    assert torch.allclose(
        linear(torch.tensor([1.0, 3.0]), changes), 0.25 * changes[0] + 0.75 * changes[1]
    )


def test_slerp_keeps_the_length_and_the_angle() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    assert torch.allclose(slerp(0.5, a, b), torch.tensor([2.0, 2.0]) / 2**0.5) and torch.equal(
        slerp(0.0, a, b), a
    )
    assert torch.allclose(
        slerp(1 / 3, a, b),
        2
        * torch.tensor(
            [(torch.pi / 6 * torch.ones(())).cos(), (torch.pi / 6 * torch.ones(())).sin()]
        ),
    )
    assert torch.allclose(slerp(0.25, a, 1.5 * a), 1.125 * a)


@pytest.fixture(scope="module")
def family(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model and two that were made from it."""
    folder, made = tmp_path_factory.mktemp("family"), [Path(tiny_folder)]
    for seed in range(2):
        torch.manual_seed(seed)
        network = checkpoints.load(tiny_folder, dtype=torch.float32)
        for p in network.parameters():
            p.data += 0.1 * torch.randn(p.shape)
        checkpoints.save(network, folder / str(seed))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / str(seed) / name).write_bytes((Path(tiny_folder) / name).read_bytes())
        made.append(folder / str(seed))
    return made


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "dare"])
def test_folders_merge(family: list[Path], method: str, tmp_path: Path) -> None:
    from daedal.cli import app

    base, a, b = map(str, family)
    command = ["merge", a, b, str(tmp_path / "out"), "--method", method, "--density", "1.0"]
    run = CliRunner().invoke(
        app, [*command, *(["--base", base] if method in ("ties", "dare") else [])]
    )
    assert run.exit_code == 0, run.output
    merged, first, second, start = (
        checkpoints.load(folder, dtype=torch.float32).state_dict()
        for folder in (tmp_path / "out", a, b, base)
    )
    for name, value in merged.items():
        middle = (first[name] + second[name]) / 2
        if method in ("linear", "dare"):
            assert torch.allclose(
                value, middle, atol=1e-2 if value.dtype != torch.float32 else 1e-5
            ), name
        moved = (value - start[name]).norm() / (middle - start[name]).norm().clamp(min=1e-6)
        assert 0.5 < moved < 2, (name, moved)
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_networks_of_pictures_merge_and_paint(tmp_path: Path) -> None:
    from daedal import checkpoints
    from daedal.checkpoints.merge import merge
    from daedal.pipelines.image import load

    house = checkpoints.resolve("house/image")
    network = checkpoints.load(house, dtype=torch.float32)
    other = {
        name: value + 0.01 * torch.randn(value.shape)
        for name, value in network.state_dict().items()
    }
    middle = {name: (value + other[name]) / 2 for name, value in network.state_dict().items()}
    network.load_state_dict(other)
    checkpoints.save(network, tmp_path / "other", max_shard_bytes=4_000_000)
    merge([tmp_path / "other", house], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.index.json"))
    merged = checkpoints.load(tmp_path / "out").state_dict()
    assert all(torch.allclose(merged[name], value, atol=1e-5) for name, value in middle.items())
    merge([house, tmp_path / "other"], tmp_path / "painter")
    assert load(tmp_path / "painter")("a red circle", steps=1).pixels.shape == (64, 64, 3)


def test_what_cannot_be_merged_gets_a_sentence(family: list[Path], tmp_path: Path) -> None:
    from daedal.checkpoints.merge import merge

    with pytest.raises(DaedalError, match=r"'slurp' is not a way to merge.*slerp"):
        merge(family, tmp_path, "slurp")  # type: ignore[arg-type]
    with pytest.raises(DaedalError, match="another family"):
        merge([family[0], checkpoints.resolve("house/image")], tmp_path)
    with pytest.raises(DaedalError, match="3 models were given; slerp merges two"):
        merge(family, tmp_path, "slerp")
    with pytest.raises(DaedalError, match="give it as base"):
        merge(family[1:], tmp_path, "ties")
    with pytest.raises(DaedalError, match="1 weights were given for 2"):
        merge(family[1:], tmp_path, "linear", [1.0])
    with pytest.raises(DaedalError, match="is packed"):
        merge([family[0], Path(checkpoints.resolve("house/text"))], tmp_path)


def test_a_merge_is_written_shard_by_shard(
    family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tensors as in one file, and never more than a shard of them made before it is
    written."""
    from daedal.checkpoints import files, merge

    merge.merge(family[1:], tmp_path / "whole")
    made, most, write = [0], [0], files.write
    real = merge.linear
    monkeypatch.setattr(
        merge, "linear", lambda *given: made.__setitem__(0, made[0] + 1) or real(*given)
    )
    monkeypatch.setattr(
        files, "write", lambda shard, path: (most.append(made[0] - sum(most)), write(shard, path))
    )
    merge.merge(family[1:], tmp_path / "parts", shard_bytes=20_000)
    shards = sorted((tmp_path / "parts").glob("*.safetensors"))
    sizes = [len(load_file(file)) for file in shards]
    assert len(shards) > 3 and max(most) <= max(sizes) + 1 < made[0]
    whole, parts = (dict(files.tensors(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(
        torch.equal(whole[name], parts[name]) for name in whole
    )
    index = (tmp_path / "parts" / "model.safetensors.index.json").read_text()
    assert all(file.name in index for file in shards)
