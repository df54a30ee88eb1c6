"""Blocks of GGUF files: unpacked and multiplied as the gguf package unpacks them, and rounded to."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from daedal.errors import DaedalError
from daedal.nn import blocks, kernels

native = pytest.mark.skipif(not kernels.build() or not kernels.available(), reason=kernels.status())
# where a block keeps its fp16 numbers
HALVES = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q2_k": (80, 82)}
HALVES |= {"q3_k": (108,), "q6_k": (208,)}


def of(kind: blocks.Kind) -> GGMLQuantizationType:
    return GGMLQuantizationType(kind.number)


def random_rows(name: str, rows: int, columns: int) -> torch.Tensor:
    """Any bits that a file could hold, with finite scales."""
    kind = blocks.KINDS[name]
    draw = np.random.default_rng(0)
    data = draw.integers(0, 256, (rows * columns // kind.weights, kind.size), dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        data[:, at : at + 2] = draw.normal(size=(len(data), 1)).astype(np.float16).view(np.uint8)
    return torch.from_numpy(data.reshape(rows, -1))


def off(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def test_kinds_are_those_of_the_format() -> None:
    for name, kind in blocks.KINDS.items():
        assert of(kind).name == name.upper() and GGML_QUANT_SIZES[of(kind)] == kind[1:]


@native
@pytest.mark.parametrize("name", blocks.KINDS)
def test_kernels_unpack_and_multiply_every_kind(name: str) -> None:
    columns = 768 if blocks.KINDS[name].weights == 256 else 736  # not whole pieces of 256
    rows = random_rows(name, 37, columns)
    reference = torch.from_numpy(quants.dequantize(rows.numpy(), of(blocks.KINDS[name])))
    assert torch.equal(blocks.unpack(rows, name), reference)
    torch.testing.assert_close(kernels.unpack(rows, name), reference, rtol=1e-6, atol=1e-6)
    bias, code = torch.randn(37), kernels.code(name)
    for count in (1, 2, 3, 4, 9, 24, 61):  # the last two by way of panels
        x = torch.randn(count, columns)
        ours = kernels.linear(x, [(rows, None, bias, 37, code)])[0]
        assert off(ours, x @ reference.mT + bias) < 0.02  # activations are int8


@native
@pytest.mark.parametrize("count", [1, 30])
def test_kinds_mix_in_one_call(count: int) -> None:
    names, x = ["q4_k", "q6_k", "q8_0"], torch.randn(count, 512)
    weights = [(random_rows(n, 20, 512), None, None, 20, kernels.code(n)) for n in names]
    for ours, weight in zip(kernels.linear(x, weights), weights, strict=True):
        assert torch.equal(ours, kernels.linear(x, [weight])[0])


@pytest.mark.parametrize(
    ("name", "least"), [("q4_k", 0.075), ("q6_k", 0.019), ("q5_0", 0.045), ("q8_0", 0.006)]
)
def test_rounding_loses_little_and_nothing_twice(name: str, least: float) -> None:
    weight = torch.randn(16, 512) * torch.rand(16, 1)
    once = blocks.unpack(blocks.to_blocks(weight, name), name)
    assert off(once, weight) < least
    assert off(blocks.unpack(blocks.to_blocks(once, name), name), once) < 0.12 * least
    if name in ("q5_0", "q8_0"):  # those that the gguf package rounds to, too
        theirs = quants.quantize(weight.numpy(), of(blocks.KINDS[name]))
        theirs = torch.from_numpy(quants.dequantize(theirs, of(blocks.KINDS[name])))
        assert off(once, weight) <= off(theirs, weight) * 1.0001


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q5_0", "q8_0"])
def test_rounding_of_odd_weights(name: str) -> None:
    """Zeros stay zeros, one sign stays one sign, numbers beyond fp16 stay finite."""
    weight = torch.zeros(4, 256)
    weight[1], weight[2, 7], weight[3] = 3.5, -2.0, torch.rand(256) * 1e-7
    out = blocks.unpack(blocks.to_blocks(weight, name), name)
    assert not out[0].any() and off(out[1], weight[1]) < 0.01 and out[2, :7].abs().max() < 1e-3
    assert out[2, 7].isclose(torch.tensor(-2.0), rtol=0.02) and out[3].abs().max() < 2e-7
    assert blocks.unpack(blocks.to_blocks(weight * 1e9, name), name).isfinite().all()


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(DaedalError, match="320 weights is not whole blocks of q4_k"):
        blocks.to_blocks(torch.zeros(2, 320), "q4_k")
    with pytest.raises(DaedalError, match="not rounded to 'q2_k'; choose q4_k"):
        blocks.to_blocks(torch.zeros(2, 256), "q2_k")
