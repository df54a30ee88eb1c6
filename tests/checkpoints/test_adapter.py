"""Adapter folders: peft opens ours, we open peft's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from daedal import checkpoints
from daedal.checkpoints.adapter import load_adapter, save_adapter
from daedal.errors import DaedalError
from daedal.nn.lora import add_lora, merge_lora
from daedal.nn.quantized import quantize_

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


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]}),
        ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("qwen2", {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
        ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only", "use_dora": True}),
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("gpt2", {}),
    ],
)
def test_we_open_what_else_peft_writes(tmp_path: Path, family: str, options: dict) -> None:
    """Whole layers, biases, updates of embeddings, pairs on fused matrices."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    more = {} if family == "gpt2" else {"intermediate_size": 48, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(
        family, **sizes, **more, tie_word_embeddings=True, pad_token_id=0
    )
    base = transformers.AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(
        base, peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **options)
    )
    for p in theirs.parameters():
        if p.requires_grad:
            p.data.add_(0.1 * torch.randn(p.shape))
    theirs.save_pretrained(tmp_path / "adapter")
    theirs.eval()
    ours = checkpoints.load(tmp_path / "base")
    load_adapter(ours, tmp_path / "adapter")
    with torch.no_grad():
        reference = theirs(IDS).logits
        torch.testing.assert_close(ours(IDS), reference, rtol=1e-4, atol=1e-4)
        merge_lora(ours)
        checkpoints.save(ours, tmp_path / "merged")
        again = checkpoints.load(tmp_path / "merged")(IDS)
        torch.testing.assert_close(again, reference, rtol=1e-4, atol=1e-4)


def test_whole_layers_do_not_change_with_the_request(tiny_folder: Path, tmp_path: Path) -> None:
    network = checkpoints.load(tiny_folder)
    add_lora(network, 2, targets=("q_proj",))
    save_adapter(network, tmp_path)
    whole = {"base_model.model.lm_head.weight": network.lm_head.weight.detach().clone()}
    state = load_file(tmp_path / "adapter_model.safetensors")
    save_file(state | whole, tmp_path / "adapter_model.safetensors")
    with pytest.raises(DaedalError, match=r"holds lm_head.weight whole, .* load it as BASE:"):
        load_adapter(checkpoints.load(tiny_folder), tmp_path, whole=False)
    packed = quantize_(checkpoints.load(tiny_folder), 8)
    with pytest.raises(DaedalError, match=r"lm_head.weight whole, and the model's is packed"):
        load_adapter(packed, tmp_path)
    strange = {"base_model.model.embed_tokens.trainable_tokens_delta": torch.zeros(2, 8)}
    save_file(state | strange, tmp_path / "adapter_model.safetensors")
    with pytest.raises(DaedalError, match=r"trainable_tokens_delta, which is not read; merge"):
        load_adapter(checkpoints.load(tiny_folder), tmp_path)


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
