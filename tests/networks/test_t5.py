"""T5's and UMT5's encoders against transformers, both ways, on random small models."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.t5 import T5Config, T5EncoderModel, UMT5EncoderModel
from daedal.nn.relative import position_buckets

SMALL = dict(
    vocab_size=50,
    d_model=16,
    d_kv=6,
    d_ff=20,
    num_layers=3,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
)
CASES = {
    "1.0": (transformers.T5EncoderModel, transformers.T5Config(**SMALL)),
    "1.1": (
        transformers.T5EncoderModel,
        transformers.T5Config(**SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "gated-silu": (
        transformers.T5EncoderModel,
        transformers.T5Config(**SMALL, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-3),
    ),
    "umt5": (transformers.UMT5EncoderModel, transformers.UMT5Config(**SMALL)),
}
TOKENS = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(30) < torch.tensor([[30], [11]])


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        spread = (
            1.0
            if "bias" in name or "shared" in name
            else 1 / parameter[0].numel() ** 0.5
            if parameter.dim() > 1
            else 0.1
        )
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.7, std=spread, generator=g
        )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    kind, config = CASES[request.param]
    theirs, folder = randomised(kind(config)), tmp_path_factory.mktemp("t5")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
def test_states(pair):
    theirs, ours = pair
    expected = theirs(TOKENS).last_hidden_state
    assert expected.std() > 0.05
    close(ours(TOKENS), expected)
    close(ours(TOKENS, MASK)[MASK], theirs(TOKENS, MASK).last_hidden_state[MASK])


@torch.inference_mode()
def test_our_folder_opens_in_transformers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=8_000)
    again, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    close(again(TOKENS, MASK).last_hidden_state, theirs(TOKENS, MASK).last_hidden_state)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_padding_changes_nothing(pair):
    _, ours = pair
    close(ours(TOKENS, MASK)[1:, :11], ours(TOKENS[1:, :11]))
    assert ours(TOKENS, torch.zeros_like(MASK)).isfinite().all()


@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (8, 20)])
def test_buckets(count, farthest):
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    at = torch.arange(300)
    assert torch.equal(
        position_buckets(300, count, farthest, at.device),
        theirs(at[None] - at[:, None], True, count, farthest),
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", ["1.1", "umt5"])
def test_float16_does_not_overflow(name, tmp_path):
    """A product past 65504 in the feed-forward, as the large models have: in float16 the sum is
    taken in float32, and so is the stream."""
    kind, config = CASES[name]
    theirs = randomised(kind(config))
    for parameter in (
        p for n, p in theirs.named_parameters() if n.endswith(("wi_1.weight", "wo.weight"))
    ):
        parameter.mul_(200)
    theirs.save_pretrained(tmp_path)
    exact, half = (
        checkpoints.load(tmp_path)(TOKENS),
        checkpoints.load(tmp_path, torch.float16)(TOKENS),
    )
    assert half.dtype == torch.float16 and half.isfinite().all()
    assert (half.float() - exact).norm() < 0.01 * exact.norm()
    reference = kind.from_pretrained(tmp_path, dtype=torch.float16)(TOKENS).last_hidden_state
    assert (half.float() - exact).norm() < 2 * (reference.float() - exact).norm()


@torch.inference_mode()
def test_bfloat16_activations(pair):
    _, ours = pair
    exact, ours.compute_dtype = ours(TOKENS, MASK), torch.bfloat16
    mixed, ours.compute_dtype = ours(TOKENS, MASK), None
    assert (
        mixed.dtype == torch.bfloat16 and (mixed - exact)[MASK].norm() < 0.05 * exact[MASK].norm()
    )


@torch.inference_mode()
def test_old_files(tmp_path):
    """They hold the embedding twice, and keys of every model."""
    kind, config = CASES["1.0"]
    theirs = randomised(kind(config))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    raw = json.loads((tmp_path / "config.json").read_text()) | dict(
        n_positions=512, output_past=True, task_specific_params={"a": {}}, use_cache=True
    )
    (tmp_path / "config.json").write_text(json.dumps(raw))
    close(checkpoints.load(tmp_path)(TOKENS), theirs(TOKENS).last_hidden_state)


def test_flops_are_those_of_a_real_call(pair):
    _, ours = pair
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(TOKENS[:1])
    assert ours.flops(30) == counter.get_total_flops()


XXL = dict(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")


@pytest.mark.parametrize(
    ("kind", "config", "count"),
    [
        (T5EncoderModel, XXL, 4_762_310_656),
        (UMT5EncoderModel, XXL | dict(vocab_size=256384), 5_680_910_336),
    ],
    ids=["t5-1.1-xxl", "umt5-xxl"],
)
def test_published_sizes(kind, config, count):
    with torch.device("meta"):
        t5 = kind(parse(kind.config_class, config))
    assert sum(p.numel() for p in t5.parameters()) == count


def test_a_decoder_gets_one_sentence():
    with pytest.raises(DaedalError, match="is_decoder=True of T5EncoderModel is not supported"):
        parse(T5Config, {"is_decoder": True})
    with pytest.raises(DaedalError, match="'swish2' is not one of"):
        T5EncoderModel(parse(T5Config, SMALL | dict(feed_forward_proj="gated-swish2")))
