"""Every family against `transformers`, both ways, on random small models: the folder one side
writes, the other opens to equal logits."""

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.nn.cache import KVCache

SMALL = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GPT2 = dict(
    vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
)
NEOX = {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "head_dim")}
WINDOW = dict(sliding_window=8)
LONG = dict(short_factor=[1.1, 1.2, 1.3, 1.4], long_factor=[2.0, 3.0, 4.0, 5.0])


def rope(kind: str, theta: float = 10000.0, **options) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **options}}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
CASES = {
    "llama": ("llama", SMALL),
    "llama-untied-bias": ("llama", SMALL | dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4)),
    "llama-tied": ("llama", SMALL | dict(tie_word_embeddings=True)),
    "llama-linear": ("llama", SMALL | rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", SMALL | rope("dynamic", factor=4.0) | dict(max_position_embeddings=16)),
    "llama3": ("llama", SMALL | LLAMA3),
    "llama-yarn": ("llama", SMALL | rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral": ("mistral", SMALL | WINDOW),
    "mixtral": ("mixtral", SMALL | dict(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2": ("qwen2", SMALL),
    "qwen2-window": ("qwen2", SMALL | WINDOW | dict(use_sliding_window=True, max_window_layers=2)),
    "qwen3": ("qwen3", SMALL),
    "qwen3_moe": ("qwen3_moe", SMALL | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True)),
    "qwen3_moe-mixed": ("qwen3_moe", SMALL | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, mlp_only_layers=[1])),
    "gemma2": ("gemma2", SMALL | WINDOW | dict(query_pre_attn_scalar=8)),
    "gemma3": ("gemma3_text", SMALL | WINDOW | dict(query_pre_attn_scalar=8, num_hidden_layers=7)),
    "phi3": ("phi3", SMALL | WINDOW),
    "phi3-longrope": ("phi3", SMALL | rope("longrope", **LONG) | dict(original_max_position_embeddings=16)),
    "smollm3": ("smollm3", SMALL | dict(no_rope_layers=[1, 1, 1, 0])),
    "olmo2": ("olmo2", SMALL),
    "starcoder2": ("starcoder2", SMALL | WINDOW),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox-serial": ("gpt_neox", NEOX | dict(use_parallel_residual=False)),
}  # fmt: skip


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    """(transformers model, our network loaded from the folder it wrote)."""
    family, options = CASES[request.param]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **options)
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    folder = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder, dtype=torch.float32)


def close(a, b):
    assert (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (a - b).abs().max()


# 40 is past every window and every original context here
@pytest.mark.parametrize("length", [5, 40])
@torch.inference_mode()
def test_logits(pair, length):
    theirs, ours = pair
    tokens = torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(length))
    close(ours(tokens), theirs(tokens).logits)


@torch.inference_mode()
def test_padding_on_the_left(pair):
    theirs, ours = pair
    tokens, mask = torch.randint(3, 96, (2, 12)), torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=mask.long(), position_ids=positions).logits
    close(ours(tokens, positions=positions, mask=mask)[mask], expected[mask])


@torch.inference_mode()
def test_cache_matches_the_whole_sequence(pair):
    """Prefill 20, chunk 7, then single tokens: equal to transformers doing the same with its own
    cache."""
    theirs, ours = pair
    tokens = torch.randint(3, 96, (1, 30))
    cache, past, at = KVCache(ours.config, 2, 32), None, 0
    for count in (10, 5, 1, 1, 1):
        part = tokens[:, at : at + count]
        step = cache.step([(1, count)])
        logits = ours(part, cache=step)
        step.commit()
        out = theirs(part, past_key_values=past, use_cache=True)
        past, at = out.past_key_values, at + count
        close(logits, out.logits)


@torch.inference_mode()
def test_our_folder_opens_in_transformers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=20_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(3, 96, (2, 40))
    close(again(tokens).logits, theirs(tokens).logits)
    reloaded = checkpoints.load(tmp_path / "out")
    assert reloaded.config == ours.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(reloaded.state_dict().values(), ours.state_dict().values(), strict=True)
    )
