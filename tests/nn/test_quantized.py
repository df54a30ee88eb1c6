"""Packed weights: round trips, both ways of computing, whole networks, and replayed decode steps."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from daedal.networks import build, config_from_dict
from daedal.nn import attention, kernels
from daedal.nn.cache import KVCache
from daedal.nn.gptq import gptq
from daedal.nn.linear import linears
from daedal.nn.lora import add_lora, lora_state
from daedal.nn.packing import pack_int4, quantize_int8, unpack_int4
from daedal.nn.quantized import QuantLinear, dequantize_, freeze_packed_, quantize_
from daedal.nn.replay import DecodeReplay, NotCapturable

native = pytest.mark.skipif(not kernels.build() or not kernels.available(), reason=kernels.status())
ERROR = {4: 0.13, 8: 0.01, 16: 0.004}  # relative, of a Gaussian matrix
TINY = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip


def tiny(family: str = "llama", tied: bool = True, **more: object) -> nn.Module:
    torch.manual_seed(0)
    network = build(
        config_from_dict({"model_type": family, **TINY, "tie_word_embeddings": tied, **more})
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else nn.init.uniform_(
            parameter, 0.5, 1.5
        )
    return network.eval()


def off(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def test_int4_packing_is_a_round_trip() -> None:
    levels, scale = torch.randint(-8, 8, (24, 96)), torch.rand(24, 3).half()
    for ours, given in zip(unpack_int4(*pack_int4(levels, scale)), (levels, scale), strict=True):
        assert torch.equal(ours, given)


def test_int8_error_is_half_a_level() -> None:
    weight = torch.randn(5, 64)
    levels, scale = quantize_int8(weight)
    assert ((levels * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(
    ("inputs", "outputs", "rows"), [(64, 48, 1), (100, 37, 3), (96, 8, 40), (32, 1, 5)]
)
def test_both_ways_compute_the_product_of_the_packed_weight(bits, inputs, outputs, rows) -> None:
    torch.manual_seed(0)
    weight, bias, x = (
        torch.randn(outputs, inputs),
        torch.randn(outputs),
        torch.randn(2, rows, inputs),
    )
    layer = QuantLinear.of(weight, bias, bits)
    assert off(layer.dequantized(), weight) < ERROR[bits]
    reference = F.linear(x, layer.dequantized(), bias)
    with torch.inference_mode():
        assert off(layer(x), reference) < 0.01 and off(layer._torch(x), reference) < 0.01
        index = torch.tensor([[0, outputs - 1]])
        assert torch.equal(layer.rows(index), layer.dequantized()[index])


def test_gradients_flow_to_the_input() -> None:
    layer, x = QuantLinear.of(torch.randn(8, 32), None, 8), torch.randn(1, 32, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.dequantized().sum(0)[None])


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_network_is_its_dequantised_self(bits: int, tied: bool) -> None:
    network, tokens = tiny(tied=tied), torch.randint(0, 50, (1, 7))
    with torch.inference_mode():
        full = network(tokens)
        packed = quantize_(network, bits)(tokens)
        names = [name for name in network.state_dict() if "lm_head" in name]
        plain = dequantize_(network)(tokens)
    # int4: activations are int8
    assert off(packed, full) < 4 * ERROR[bits] and off(packed, plain) < (
        0.06 if bits == 4 else 0.02
    )
    assert bool(names) != tied  # a tied matrix is stored once, as the embedding
    assert not tied or network.lm_head.weight is network.embed_tokens.weight


def test_projections_of_one_input_agree_with_single_calls() -> None:
    layers, x = (
        [QuantLinear.of(torch.randn(n, 64), None, 8) for n in (16, 8, 8)],
        torch.randn(2, 64),
    )
    with torch.inference_mode():
        for together, layer in zip(linears(x, *layers), layers, strict=True):
            assert torch.equal(together, layer(x))


@native
@pytest.mark.parametrize("bits", [4, 8, 16, 32])
@pytest.mark.parametrize("inputs", [64, 704, 1088])
def test_rows_do_not_depend_on_their_batch(bits: int, inputs: int) -> None:
    """Bit for bit, whichever loop the number of rows selects; bf16 and fp32 up to the 24 rows from
    which bf16 multiplies in int16."""
    weight, rows = torch.randn(43, inputs), 100 if bits in (4, 8) else 23
    layer = QuantLinear.of(weight, None, min(bits, 16))
    packed = (
        (weight, None, None, 43)
        if bits == 32
        else (layer.weight, layer.scale if bits < 16 else None, None, 43)
    )
    x = torch.randn(rows, inputs)
    alone = torch.cat([kernels.linear(row[None], [packed], bits)[0] for row in x])
    for count in (2, 3, 4, 7, 16, rows):
        assert torch.equal(kernels.linear(x[:count].contiguous(), [packed], bits)[0], alone[:count])


@native
@pytest.mark.parametrize(
    "family",
    ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2"],
)
def test_replay_gives_the_logits_of_the_plain_call(family: str) -> None:
    extra = (
        {"sliding_window": 4, "query_pre_attn_scalar": 16}
        if family != "qwen2" and family != "gpt2"
        else {}
    )
    network = quantize_(tiny(family, **extra), 8)
    with torch.inference_mode():
        plain, cache = KVCache(network.config, 3, 32), KVCache(network.config, 3, 32)
        replay = DecodeReplay(network, cache, 2)
        for token in range(8):  # two sequences in slots 2 and 0, the second one token behind
            slots = [2, 0] if token else [2, 1]
            step = plain.step([(slot, 1) for slot in slots])
            reference = network(torch.tensor([[token, token + 9]]), cache=step)[0]
            step.commit()
            assert off(replay([token, token + 9], slots), reference) < 2e-3
    assert plain.lengths == cache.lengths


@native
def test_a_step_that_looks_at_values_is_refused() -> None:
    class Looking(nn.Module):
        def forward(self, tokens, cache=None):
            return tokens.float()[..., None] * (1 if tokens.sum() > 0 else 2)

    with pytest.raises(NotCapturable):
        DecodeReplay(Looking(), KVCache(tiny().config, 1, 8), 1)


@native
def test_a_capture_leaves_other_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step beside it keeps its gradients."""
    network, kernel, beside = quantize_(tiny(), 8), kernels.rope, []

    def elsewhere() -> None:
        x = torch.randn(1, 3, 2, 8, requires_grad=True)
        beside.append(
            attention.apply_rope(x, torch.ones(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)).grad_fn
        )

    def rope(*given: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return kernel(*given)

    monkeypatch.setattr(kernels, "rope", rope)
    with torch.inference_mode():
        DecodeReplay(network, KVCache(network.config, 1, 8), 1)
    assert beside and all(beside)


def test_gptq_loses_less_output_than_rounding() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(64, 64)
    x, weight = torch.randn(512, 64) @ mixing, torch.randn(32, 64)
    nearest = QuantLinear.of(weight, None, 4).dequantized()
    levels, scale = gptq(weight, x.T @ x)
    ours = (levels.unflatten(1, (-1, 32)) * scale[..., None]).flatten(1)
    assert levels.min() >= -8 and levels.max() <= 7
    assert off(x @ ours.T, x @ weight.T) < 0.8 * off(x @ nearest.T, x @ weight.T)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_flow_through_a_frozen_packed_network(bits: int) -> None:
    """As through the weights that it stands for; the head stays plain, and passes without gradient
    say the same in training mode."""
    network, ids = tiny(), torch.randint(50, (3, 12))
    freeze_packed_(network, bits)
    plain = dequantize_(copy.deepcopy(network))
    assert isinstance(network.lm_head, nn.Linear) and isinstance(
        network.layers[0].self_attn.q_proj, QuantLinear
    )
    gradients = []
    for each in (network, plain):
        add_lora(each, 2, targets=("v_proj", "gate_proj"))
        for p in lora_state(each).values():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        logits = each.train()(ids)
        logits.square().sum().backward()
        gradients.append([p.grad for p in each.parameters() if p.requires_grad])
        with torch.no_grad():
            torch.testing.assert_close(each(ids), logits, rtol=1e-5, atol=1e-5)
    assert len(gradients[0]) == 8
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
