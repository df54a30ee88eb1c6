"""Adapter folders: peft opens ours, we open peft's."""

from pathlib import Path

import pytest
import torch

from daedal import checkpoints
from daedal.checkpoints.adapter import load_adapter, save_adapter
from daedal.errors import DaedalError
from daedal.nn.lora import add_lora, merge_lora

TARGETS = ("q_proj", "v_proj", "down_proj")
IDS = torch.arange(12)[None]


def shaken(module: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(1)
    for name, p in module.named_parameters():
        if "lora_" in name:
            p.data.add_(0.1 * torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("dora", [False, True])
def test_peft_opens_ours(tiny_folder: Path, tmp_path: Path, dora: bool) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    network = checkpoints.load(tiny_folder)
    add_lora(network, 3, 6, TARGETS, rslora=True, dora=dora)
    shaken(network)
    save_adapter(network, tmp_path / "adapter", str(tiny_folder))
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_folder), tmp_path / "adapter"
    ).eval()
    again = checkpoints.load(tiny_folder)
    assert len(load_adapter(again, tmp_path / "adapter")) == 6
    with torch.no_grad():
        ours = network(IDS)
        torch.testing.assert_close(ours, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again(IDS), ours, rtol=1e-5, atol=1e-5)
        merge_lora(again)
        torch.testing.assert_close(again(IDS), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "patterns",
    [
        {},
        {"alpha_pattern": {"layers.0.self_attn.v_proj": 64}},
        {"alpha_pattern": {"q_proj": 64}, "rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {r"model\.layers\.\d\.self_attn\.q_proj": 9, "self_attn.q_proj": 64}},
    ],
)
def test_we_open_pefts(tiny_folder: Path, tmp_path: Path, patterns: dict) -> None:
    """With another alpha and rank for some layers, told as peft takes it."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=list(TARGETS), use_rslora=True, **patterns
    )
    theirs = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_folder), config
    ).eval()
    shaken(theirs)
    theirs.save_pretrained(tmp_path)
    network = checkpoints.load(tiny_folder)
    load_adapter(network, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(network(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def test_errors(tiny_folder: Path, tmp_path: Path) -> None:
    network = checkpoints.load(tiny_folder)
    with pytest.raises(DaedalError, match="has no LoRA layers to save"):
        save_adapter(network, tmp_path)
    with pytest.raises(DaedalError, match="no adapter_config"):
        load_adapter(network, tmp_path)
    wide = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
    add_lora(wide, 2, targets=("to_q",))
    save_adapter(wide, tmp_path)
    with pytest.raises(DaedalError, match=r"an adapter for another model: .* has no layer to_q"):
        load_adapter(network, tmp_path)
    with pytest.raises(DaedalError, match=r"to_q.lora_A.weight is \(2, 4\) instead of \(2, 8\)"):
        load_adapter(torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 4)}), tmp_path)
