"""The metadata of a GGUF file as the `config.json` of its family, and what ends its texts.

llama.cpp names an architecture ("qwen2") and keeps its numbers under that name
("qwen2.block_count"); what its code knows about the architecture stands in no file, and so here.
"""

from collections.abc import Callable
from typing import Any

import torch

from daedal.checkpoints.gguf_file import File, dense
from daedal.errors import DaedalError, nearest
from daedal.nn.rope import Rope, base_frequencies, llama3

Raw = dict[str, Any]

# Architecture -> model_type.
ARCHITECTURES = {
    "llama": "llama", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2", "gemma3": "gemma3_text", "phi3": "phi3", "olmo2": "olmo2", "gpt2": "gpt2", "gptneox": "gpt_neox",
    "starcoder2": "starcoder2",
}  # fmt: skip
# Our field -> key below the architecture's name.
KEYS = {
    "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length", "max_position_embeddings": "context_length", "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping", "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count", "moe_intermediate_size": "expert_feed_forward_length",
    "use_parallel_residual": "use_parallel_residual",
}  # fmt: skip
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
# Tokens that end a text wherever a vocabulary has them as control tokens: of a turn, of a message,
# of a file.
ENDS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>",
    "<EOT>", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|fim_repo|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
CONTROL = 3  # of tokenizer.ggml.token_type
USUAL = {"unknown": 0, "bos": 1, "eos": 2}
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def architecture(file: File) -> str:
    """The architecture of a file's model, if it is a language model of a family that is known."""
    path, metadata = file.parts[0], file.metadata
    kind, name = metadata.get("general.type", "model"), metadata.get("general.architecture", "")
    if kind == "adapter":
        raise DaedalError(
            f"{path} is a LoRA adapter, not a model; give the adapter's peft folder instead, as BASE:ADAPTER."
        )
    if kind == "mmproj" or name == "clip":
        raise DaedalError(
            f"{path} is the vision part of a model, which Daedal does not read; give the file of the language model that came with it."
        )
    if kind != "model":
        raise DaedalError(f"{path} is of type {kind!r}, not a model; give the model's file.")
    if name not in ARCHITECTURES:
        raise DaedalError(
            f"{path} is a GGUF file of architecture {name!r}, which Daedal does not know{nearest(name, list(ARCHITECTURES))}; it knows {', '.join(ARCHITECTURES)}."
        )
    return name


def config_of(file: File) -> Raw:
    """The config.json of a file's model."""
    name = architecture(file)

    def get(key: str, default: Any = None) -> Any:
        return single(file, f"{name}.{key}", default)

    raw = {field: get(key) for field, key in KEYS.items()}
    raw["model_type"] = ARCHITECTURES[name]
    raw["rms_norm_eps"] = next((eps for key in EPSILONS if (eps := get(key)) is not None), None)
    raw["tie_word_embeddings"] = "output.weight" not in file.entries
    if "token_embd.weight" in file.entries:
        raw["vocab_size"] = file.entries["token_embd.weight"].shape[0]
    raw |= biases(file) | ids(file)
    raw |= SPECIAL[name](file, get, raw) if name in SPECIAL else {}
    raw |= rope(file, get, raw)
    return {key: value for key, value in raw.items() if value not in (None, {})}


def single(file: File, key: str, default: Any = None) -> Any:
    """A value, or the one value that an array (one a layer) repeats."""
    value = file.metadata.get(key, default)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise DaedalError(
            f"{file.parts[0]} has layers of different {key} ({value}), which Daedal does not know; take another model."
        )
    return value[0]


def biases(file: File) -> Raw:
    """Which layers have biases; families that always or never have them ignore it."""
    return {
        "attention_bias": "blk.0.attn_output.bias" in file.entries,
        "mlp_bias": "blk.0.ffn_up.bias" in file.entries,
        "use_bias": "blk.0.ffn_up.bias" in file.entries,
    }


def ids(file: File) -> Raw:
    return {f"{role}_token_id": token_id(file.metadata, role) for role in ("bos", "eos")}


def token_id(metadata: Raw, role: str) -> int | None:
    """The id of a role ("bos", "eos", "eot", "unknown" ...), if there is such a token; where a
    SentencePiece vocabulary says nothing, the usual one."""
    usual = USUAL if metadata.get("tokenizer.ggml.model") == "llama" else {}
    found = metadata.get(f"tokenizer.ggml.{role}_token_id", usual.get(role))
    known = found is not None and found < len(metadata.get("tokenizer.ggml.tokens") or [])
    return found if known else None


# What llama.cpp's code knows of an architecture.

Get = Callable[..., Any]


def llama_family(file: File, get: Get, raw: Raw) -> Raw:
    """Mixtral's files are of architecture llama."""
    return {"model_type": "mixtral"} if raw["num_local_experts"] else {}


def gemma(file: File, get: Get, raw: Raw) -> Raw:
    """Scores are scaled by the head's width, in the 27B models (of 46 and 62 layers) by that of
    D/H. A pattern is one layer in so many, or a list of those that slide."""
    layers, heads, width = raw["num_hidden_layers"], raw["num_attention_heads"], raw["hidden_size"]
    whole = {"gemma2": 46, "gemma3_text": 62}[raw["model_type"]]
    out: Raw = {"query_pre_attn_scalar": width / heads if layers == whole else raw["head_dim"]}
    out["rope_local_base_freq"] = get("rope.freq_base_swa")
    pattern = file.metadata.get(f"{architecture(file)}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        kinds = ("full_attention", "sliding_attention")
        return out | {"layer_types": [kinds[bool(sliding)] for sliding in pattern]}
    return out | {"sliding_window_pattern": pattern}


def qwen3moe(file: File, get: Get, raw: Raw) -> Raw:
    return {"norm_topk_prob": True, "intermediate_size": raw["intermediate_size"] or 0}


def phi3(file: File, get: Get, raw: Raw) -> Raw:
    original = get("rope.scaling.original_context_length")
    return {
        "sliding_window": raw["sliding_window"] or None,
        "original_max_position_embeddings": original,
    }


def olmo2(file: File, get: Get, raw: Raw) -> Raw:
    if raw["sliding_window"]:
        raise DaedalError(
            f"{file.parts[0]} is an OLMo 3 (it has a sliding window), which Daedal does not know; OLMo 2 is."
        )
    return {}


SPECIAL: dict[str, Callable[[File, Get, Raw], Raw]] = {
    "llama": llama_family, "gemma2": gemma, "gemma3": gemma, "qwen3moe": qwen3moe, "phi3": phi3, "olmo2": olmo2,
}  # fmt: skip


# Rotary positions.


def rope(file: File, get: Get, raw: Raw) -> Raw:
    """`rope_scaling`, and what part of a head rotates."""
    head = raw["head_dim"] or raw["hidden_size"] // raw["num_attention_heads"]
    turning = get("rope.dimension_count", head)
    out: Raw = {"partial_rotary_factor": turning / head} if turning != head else {}
    return out | {"rope_scaling": scaling(file, get, turning, raw["rope_theta"] or 10000.0)}


def scaling(file: File, get: Get, dim: int, theta: float) -> Raw:
    kind, factor = get("rope.scaling.type"), get("rope.scaling.factor", get("rope.scale_linear"))
    original = get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in file.entries:
        return divided(numbers(file, "rope_freqs.weight"), dim, theta)
    if "rope_factors_long.weight" in file.entries:
        long, short = (numbers(file, f"rope_factors_{size}.weight") for size in ("long", "short"))
        given = {"attention_factor": get("rope.scaling.attn_factor")}
        return {"rope_type": "longrope", "long_factor": long, "short_factor": short} | {
            key: value for key, value in given.items() if value
        }
    if kind == "yarn":
        found = {"factor": factor, "original_max_position_embeddings": original}
        found |= {f"beta_{end}": get(f"rope.scaling.yarn_beta_{end}") for end in ("fast", "slow")}
        return {"rope_type": "yarn"} | {key: value for key, value in found.items() if value}
    linear = kind in (None, "linear") and factor not in (None, 0, 1)
    return {"rope_type": "linear", "factor": factor} if linear else {}


def numbers(file: File, name: str) -> list[float]:
    return dense(file.raw(name), file.entries[name].kind).flatten().tolist()


def divided(factors: list[float], dim: int, theta: float) -> Raw:
    """Llama 3.1's scaling, which the file holds as what each frequency is divided by; other factors
    as those of LongRoPE, which do not depend on the length here."""
    found = {"rope_type": "llama3", "factor": max(factors), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}  # fmt: skip
    rope = Rope(dim, theta, 8192, tuple(sorted(found.items())))
    same = base_frequencies(rope) / llama3(rope, 0)[0]
    if len(factors) == dim // 2 and torch.allclose(same, torch.tensor(factors), rtol=1e-3):
        return found
    return {
        "rope_type": "longrope",
        "long_factor": factors,
        "short_factor": factors,
        "attention_factor": 1.0,
    }


# What ends a text, and how its makers draw.


def generation_config(file: File) -> Raw:
    """The generation_config.json of a file's model."""
    drawn = {ours: file.metadata.get(f"general.sampling.{key}") for key, ours in SAMPLING.items()}
    return {"eos_token_id": ends(file)} | {k: v for k, v in drawn.items() if v is not None}


def ends(file: File) -> list[int]:
    """Every id that ends a text: those that the metadata name, and control tokens that are known to."""
    metadata, tokens = file.metadata, file.metadata.get("tokenizer.ggml.tokens") or []
    named = [token_id(metadata, role) for role in ("eos", "eot", "eom")]
    kinds = metadata.get("tokenizer.ggml.token_type") or []
    known = set(ENDS)
    listed = [
        i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind == CONTROL and token in known
    ]  # fmt: skip
    return list(dict.fromkeys(i for i in [*named, *listed] if i is not None))
