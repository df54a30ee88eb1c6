"""GGUF files made by the gguf package's writer from folders that transformers wrote, as llama.cpp's
converter makes them: what tests read, written by other code than ours."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "gpt2": "gpt2",
    "gpt_neox": "gptneox", "starcoder2": "starcoder2",
}  # fmt: skip
# Of types whose blocks the gguf package cannot make: bytes of a block, places of its fp16 numbers,
# and the largest weight for a scale of 1.
SCALES = {
    "Q2_K": (84, (80, 82), 45), "Q3_K": (110, (108,), 128), "Q4_K": (144, (0, 2), 945), "Q5_K": (176, (0, 2), 1953),
    "Q6_K": (210, (208,), 4096), "IQ4_NL": (18, (0,), 127), "IQ4_XS": (136, (0,), 4064),
}  # fmt: skip


def quantised(weight: np.ndarray, kind: str) -> np.ndarray:
    """(N, K) as blocks, uint8 (N, bytes of a row): rounded where the package can round, else random
    bytes with small scales."""
    if kind not in SCALES:
        return gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    size, places, largest = SCALES[kind]
    weights = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    draw = np.random.default_rng(weight.size)
    blocks = draw.integers(
        0, 256, (*weight.shape[:-1], weight.shape[-1] // weights, size), np.uint8
    )
    for place in places:
        scale = (draw.uniform(0.05, 0.2, (*blocks.shape[:-1], 1)) / largest).astype(np.float16)
        blocks[..., place : place + 2] = scale.view(np.uint8)
    return blocks.reshape(*weight.shape[:-1], -1)


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from halves to pairs, as llama.cpp rotates them."""
    pairs = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def converted(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """What the converter does to a tensor's values."""
    family, heads = config.model_type, config.num_attention_heads
    if family in ("llama", "mistral", "mixtral", "smollm3") and (
        "q_proj" in name or "k_proj" in name
    ):
        return permuted(tensor, heads if "q_proj" in name else config.num_key_value_heads)
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if family == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T
    if family == "gpt_neox" and "query_key_value" in name:
        return tensor.unflatten(0, (heads, 3, -1)).swapaxes(0, 1).flatten(0, 2)
    return tensor


def gathered(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Experts in one tensor (E, N, K) a layer."""
    out, experts = {}, {}
    for name, tensor in state.items():
        head, _, tail = name.partition(".experts.")
        if tail:
            index, _, layer = tail.partition(".")
            experts.setdefault(f"{head}.experts.{layer}", {})[int(index)] = tensor
        else:
            out[name] = tensor
    return out | {name: torch.stack([of[i] for i in sorted(of)]) for name, of in experts.items()}


def write(
    folder: Path, path: Path, config: Any, kind: str = "F32", metadata: Any = None, **more: Any
) -> Path:
    """The folder's model as a GGUF file, matrices in `kind`; `metadata(writer)` adds a tokenizer."""
    name = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, name, **more)
    describe(writer, config)
    if metadata:
        metadata(writer)
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for disk, tensor in gathered(load_file(folder / "model.safetensors")).items():
        if disk.endswith((".attn.bias", ".masked_bias", "inv_freq")):
            continue
        values = converted(disk, tensor.float(), config).contiguous().numpy()
        add(writer, names.get_name(disk, (".weight", ".bias")), values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    plain = (
        kind == "F32"
        or values.ndim < 2
        or name.endswith("ffn_gate_inp.weight")
        or values.shape[-1] % block
    )
    if plain:
        writer.add_tensor(name, values)
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, quantised(values, kind), raw_dtype=gguf.GGMLQuantizationType[kind])


def describe(writer: gguf.GGUFWriter, c: Any) -> None:
    rope = getattr(c, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(getattr(c, "intermediate_size", None) or 4 * c.hidden_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(getattr(c, "num_key_value_heads", None) or c.num_attention_heads)
    if getattr(c, "head_dim", None):
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
    if hasattr(c, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if hasattr(c, key):
            writer.add_layer_norm_eps(getattr(c, key))
    if rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        describe_rope(writer, rope, c)
    if c.model_type.startswith(("gemma", "phi3")) and c.sliding_window:
        writer.add_sliding_window(c.sliding_window)
    if c.model_type == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    if experts := getattr(c, "num_local_experts", None) or getattr(c, "num_experts", None):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(c.num_experts_per_tok)
    if getattr(c, "moe_intermediate_size", None):
        writer.add_expert_feed_forward_length(c.moe_intermediate_size)
    if c.model_type == "gpt_neox":
        writer.add_parallel_residual(c.use_parallel_residual)


def describe_rope(writer: gguf.GGUFWriter, rope: dict[str, Any], c: Any) -> None:
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    kind, original = rope["rope_type"], rope.get("original_max_position_embeddings")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(original)
    if kind == "longrope":
        writer.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
        for size in ("long", "short"):
            factors = np.array(rope[f"{size}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{size}.weight", factors)
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3(rope, head))


def llama3(rope: dict[str, Any], dim: int) -> np.ndarray:
    """What each frequency is divided by."""
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    turns = rope["original_max_position_embeddings"] / waves
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
