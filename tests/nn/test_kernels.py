"""The kernels against PyTorch in fp64 or fp32, at shapes that have remainders."""

import pytest
import torch
import torch.nn.functional as F

from daedal.nn import kernels
from daedal.nn.attention import attend

pytestmark = pytest.mark.skipif(
    not kernels.build() or not kernels.available(), reason=kernels.status()
)


def close(ours: torch.Tensor, reference: torch.Tensor, tolerance: float) -> bool:
    return ((ours - reference).norm() / reference.norm()).item() < tolerance


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_is_a_matrix_product_with_bias(rows: int, dtype: torch.dtype) -> None:
    x, weights = torch.randn(rows, 96), [torch.randn(n, 96).to(dtype) for n in (37, 8, 1)]
    bias = torch.randn(37)
    outs = kernels.linear(
        x,
        [
            (w, None, bias if w.shape[0] == 37 else None, w.shape[0], 8 * dtype.itemsize)
            for w in weights
        ],
    )
    for out, w in zip(outs, weights, strict=True):
        assert close(out, F.linear(x, w.float(), bias if w.shape[0] == 37 else None), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "groups", "dim", "window", "softcap"),
    [(6, 2, 64, None, None), (4, 4, 40, 5, None), (5, 1, 72, None, 3.0), (2, 1, 128, 7, 2.0)],
)
def test_attend_reads_its_slot_and_writes_the_new_key(
    heads, groups, dim, window, softcap, dtype
) -> None:
    lengths, slots = torch.tensor([0, 5, 30]), torch.tensor([2, 0, 3])
    keys, values = (torch.randn(4, groups, 32, dim).to(dtype) for _ in range(2))
    q, (k, v) = torch.randn(3, heads, dim), (torch.randn(3, groups, dim) for _ in range(2))
    other = keys[1].clone()
    out = kernels.attend(
        q, k, v, keys, values, slots, lengths, scale=0.2, window=window, softcap=softcap
    )
    for b, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        assert torch.equal(keys[slot, :, length], k[b].to(dtype)) and torch.equal(
            values[slot, :, length], v[b].to(dtype)
        )
        seen_k, seen_v = (
            t[slot, :, : length + 1].float().transpose(0, 1)[None] for t in (keys, values)
        )
        reference = attend(
            q[b][None, None],
            seen_k,
            seen_v,
            scale=0.2,
            window=window,
            softcap=softcap,
            offset=length,
        )
        assert close(out[b], reference[0, 0], 1e-5)
    assert torch.equal(keys[1], other)


def test_small_layers_agree_with_torch() -> None:
    x, y, w = torch.randn(3, 1, 100), torch.randn(3, 1, 100), torch.randn(100)
    assert close(kernels.rms_norm(x, w, 1e-5), F.rms_norm(x, (100,), w, 1e-5), 1e-6)
    assert torch.equal(kernels.binary("add", x, y), x + y) and torch.equal(
        kernels.binary("mul", x, y), x * y
    )
    wide = torch.linspace(-100, 100, 1001)
    assert close(kernels.act(wide, 0), F.silu(wide), 1e-6) and close(
        kernels.act(wide, 1), F.gelu(wide, approximate="tanh"), 1e-6
    )


def test_rope_rotates_halves_and_passes_the_rest() -> None:
    from daedal.nn.rope import apply_rope

    x, angle = torch.randn(2, 3, 4, 20), torch.randn(2, 3, 1, 8)
    assert close(
        kernels.rope(x, angle.cos(), angle.sin()), apply_rope(x, angle.cos(), angle.sin()), 1e-6
    )


def test_nan_and_infinity_come_through() -> None:
    weight, scale = torch.ones(8, 32, dtype=torch.int8), torch.ones(8)
    for bad in (torch.nan, torch.inf):
        x = torch.ones(1, 32)
        x[0, 5] = bad
        assert not kernels.linear(x, [(weight, scale, None, 8, 8)])[0].isfinite().any()


def test_a_library_is_named_by_its_source_and_switched_off_by_the_environment(monkeypatch) -> None:
    assert kernels.library_path().name.startswith("kernels-") and "ready" in kernels.status()
    monkeypatch.setenv("DAEDAL_KERNELS", "0")
    assert "off" in kernels.status() and not kernels.available()


def test_reading_has_a_speed() -> None:
    assert kernels.read_bandwidth(0.01, 8 << 20) > 1e8


def test_a_library_that_computes_wrong_is_not_used(monkeypatch) -> None:
    linear = kernels.linear
    monkeypatch.setattr(
        kernels,
        "linear",
        lambda x, weights: [1.1 * y if weights[0][4] > 64 else y for y in linear(x, weights)],
    )
    for name, value in (
        ("_library", None),
        ("_wrong", False),
        ("_failure", ""),
        ("_next_look", 0.0),
    ):
        monkeypatch.setattr(kernels, name, value)
    assert not kernels.available() and not kernels.available()
    assert "q4_k product is wrong" in kernels.status()
