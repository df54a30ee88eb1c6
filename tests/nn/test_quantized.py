"""Packed weights: round trips, both ways of computing, whole networks, and replayed decode steps."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from daedal.networks import build, config_from_dict
from daedal.nn import attention, blocks, kernels
from daedal.nn.cache import KVCache
from daedal.nn.gptq import gptq
from daedal.nn.linear import linears
from daedal.nn.lora import add_lora, lora_state
from daedal.nn.packing import quantize_int8
from daedal.nn.quantized import QuantLinear, dequantize_, freeze_packed_, quantize_
from daedal.nn.replay import DecodeReplay, NotCapturable

native = pytest.mark.skipif(not kernels.build() or not kernels.available(), reason=kernels.status())
# relative, of a Gaussian matrix
ERROR = {"int8": 0.01, "bf16": 0.004, "q4_k": 0.09, "q6_k": 0.025, "q5_0": 0.05, "q8_0": 0.007}
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


def test_int8_error_is_half_a_level() -> None:
    weight = torch.randn(5, 64)
    levels, scale = quantize_int8(weight)
    assert ((levels * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("kind", ERROR)
@pytest.mark.parametrize(
    ("inputs", "outputs", "rows"), [(64, 48, 1), (100, 37, 3), (96, 8, 40), (32, 1, 5)]
)
def test_both_ways_compute_the_product_of_the_packed_weight(kind, inputs, outputs, rows) -> None:
    torch.manual_seed(0)
    if kind in blocks.KINDS:
        inputs += -inputs % blocks.KINDS[kind].weights
    weight, bias, x = (
        torch.randn(outputs, inputs),
        torch.randn(outputs),
        torch.randn(2, rows, inputs),
    )
    layer = QuantLinear.of(weight, bias, kind)
    assert off(layer.dequantized(), weight) < ERROR[kind]
    reference = F.linear(x, layer.dequantized(), bias)
    with torch.inference_mode():
        assert off(layer(x), reference) < 0.01 and off(layer._torch(x), reference) < 0.01
        index = torch.tensor([[0, outputs - 1]])
        assert torch.equal(layer.rows(index), layer.dequantized()[index])


def test_gradients_flow_to_the_input() -> None:
    layer, x = (
        QuantLinear.of(torch.randn(8, 32), None, "int8"),
        torch.randn(1, 32, requires_grad=True),
    )
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
    error = {4: 0.35, 8: 0.04, 16: 0.016}[bits]
    # 4 bits: activations are int8
    assert off(packed, full) < error and off(packed, plain) < (0.06 if bits == 4 else 0.02)
    assert bool(names) != tied  # a tied matrix is stored once, as the embedding
    assert not tied or network.lm_head.weight is network.embed_tokens.weight


@pytest.mark.parametrize(
    "kinds", [["int8"] * 3, ["q4_k", "q4_k", "q6_k"], ["int8", "q4_k", "bf16"]]
)
def test_projections_of_one_input_agree_with_single_calls(kinds: list[str]) -> None:
    layers, x = (
        [
            QuantLinear.of(torch.randn(n, 256), None, kind)
            for n, kind in zip((16, 8, 8), kinds, strict=True)
        ],
        torch.randn(2, 256),
    )
    with torch.inference_mode():
        for together, layer in zip(linears(x, *layers), layers, strict=True):
            assert torch.equal(together, layer(x))


@native
@pytest.mark.parametrize("kind", ["int8", "bf16", "fp32", "q4_k", "q6_k", "q5_0", "q8_0"])
@pytest.mark.parametrize("inputs", [256, 768, 1024])
def test_rows_do_not_depend_on_their_batch(kind: str, inputs: int) -> None:
    """Bit for bit, whichever loop the number of rows selects; all but int8 up to the rows from which
    their product is another one, 24, or 6 of the blocks of files, and then nearly."""
    rows = {"int8": 100, "bf16": 23, "fp32": 23}.get(kind, 5)
    weight = torch.randn(43, inputs)
    layer = QuantLinear.of(weight, None, kind) if kind != "fp32" else None
    held = (layer.weight, layer.scale) if layer else (weight, None)
    x, packed = torch.randn(100, inputs), [(*held, None, 43, kernels.code(kind))]
    alone = torch.cat([kernels.linear(row[None], packed)[0] for row in x])
    for count in (2, 3, 4, 5, 7, 16, 23, 100):
        together = kernels.linear(x[:count].contiguous(), packed)[0]
        assert off(together, alone[:count]) < (5e-3 if kind == "bf16" else 1e-5)
        if count <= rows:
            assert torch.equal(together, alone[:count])


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


@pytest.mark.parametrize(("kind", "width"), [("q4_k", 256), ("q5_0", 64)])
def test_gptq_loses_less_output_than_rounding(kind: str, width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(512, width) @ torch.randn(width, width), torch.randn(32, width)
    nearest = QuantLinear.of(weight, None, kind).dequantized()
    ours = blocks.unpack(gptq(weight, x.T @ x, kind), kind)
    assert off(ours, weight) < 2 * off(nearest, weight)
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
