"""Vector quantisation and finite scalar quantisation: gradients, averages worked by hand, revival,
round trips."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.errors import DaedalError
from daedal.nn.codebook import FSQ, CodebookAverage, VectorQuantizer, code_use


def quantizer(codes=8, dim=3, seed=0):
    layer = VectorQuantizer(codes, dim)
    torch.nn.init.normal_(layer.embedding.weight, generator=torch.Generator().manual_seed(seed))
    return layer


def test_the_nearest_code_by_brute_force():
    layer, z = quantizer(), torch.randn(2, 5, 7, 3)
    distances = (z[..., None, :] - layer.embedding.weight).square().sum(-1)
    assert torch.equal(layer(z).indices, distances.argmin(-1))
    assert torch.equal(layer.nearest(layer.lookup(torch.arange(8))), torch.arange(8))


def test_gradients_pass_straight_through():
    """The output is a code, but its gradient is the input's; the losses pull each side to the other
    and nothing else."""
    layer, z = quantizer(), torch.randn(4, 3, requires_grad=True)
    out = layer(z)
    torch.testing.assert_close(out.values, layer.lookup(out.indices))
    weights = torch.randn(4, 3)
    (out.values * weights).sum().backward()
    assert torch.equal(z.grad, weights) and layer.embedding.weight.grad is None
    z.grad = None
    out = layer(z)
    out.commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z - layer.lookup(out.indices)).detach() / 12)
    assert layer.embedding.weight.grad is None
    layer(z).codebook.backward()
    expected = torch.zeros(8, 3).index_add_(
        0, out.indices, 2 * (layer.lookup(out.indices) - z).detach() / 12
    )
    torch.testing.assert_close(layer.embedding.weight.grad, expected)


def test_the_average_by_hand():
    """Three steps of a code: sum of decay**age * vectors over sum of decay**age, whatever the
    start; unused codes stay."""
    layer = quantizer(codes=3, dim=1)
    before, average = layer.embedding.weight.detach().clone(), CodebookAverage(layer, decay=0.9)
    for values in ([1.0, 3.0], [5.0], [7.0, 8.0, 9.0]):
        z = torch.tensor(values)[:, None]
        average.update(layer, z, torch.zeros(len(values), dtype=torch.long))
    total = 0.81 * (1 + 3) + 0.9 * 5 + (7 + 8 + 9)
    count = 0.81 * 2 + 0.9 * 1 + 3
    torch.testing.assert_close(
        layer.embedding.weight[0, 0].item(), total / count, atol=1e-6, rtol=1e-6
    )
    assert torch.equal(layer.embedding.weight[1:], before[1:])


def test_the_average_finds_clusters():
    """It is k-means: from codes in the right cells, every code ends at the mean of its cluster."""
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])
    layer = quantizer(3, 2)
    with torch.no_grad():
        layer.embedding.weight.copy_(0.5 * centres)
    average = CodebookAverage(layer, decay=0.9)
    for _ in range(60):
        z = centres[torch.randint(3, (300,), generator=g)] + 0.3 * torch.randn(300, 2, generator=g)
        average.update(layer, z, layer.nearest(z))
    assert (layer.embedding.weight - centres).abs().max() < 0.05


def test_dead_codes_are_revived():
    """Codes far from everything move onto vectors of the batch, those in use stay; afterwards none
    is dead."""
    g = torch.Generator().manual_seed(0)
    layer, z = quantizer(16, 3), torch.randn(500, 3, generator=g)
    with torch.no_grad():
        layer.embedding.weight[4:] += 100
    average = CodebookAverage(layer, decay=0.5)
    average.update(layer, z, layer.nearest(z))
    used = layer.embedding.weight[:4].clone()
    assert code_use(layer.nearest(z), 16)["used"] == 0.25
    assert average.revive(layer, z, generator=g) == 12
    assert torch.equal(layer.embedding.weight[:4], used)
    assert all((z == code).all(-1).any() for code in layer.embedding.weight[4:])
    assert average.revive(layer, z, generator=g) == 0
    assert code_use(layer.nearest(z), 16)["used"] == 1.0


def test_use_of_a_codebook():
    even = code_use(torch.arange(8).repeat(5), 16)
    assert even["used"] == 0.5 and math.isclose(even["perplexity"], 8)
    one = code_use(torch.zeros(9, dtype=torch.long), 16)
    assert one["used"] == 1 / 16 and math.isclose(one["perplexity"], 1)
    skewed = code_use(torch.tensor([0, 0, 0, 1]), 2)
    assert math.isclose(skewed["perplexity"], math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_fsq_codes_round_trip(levels):
    """Index -> values -> index, one index for each point of the grid, and quantising is idempotent
    in the sense that matters."""
    layer = FSQ(tuple(levels))
    assert layer.codes == math.prod(levels)
    every = torch.arange(layer.codes)
    values = layer.lookup(every)
    assert torch.equal(layer.indices(values), every) and len(values.unique(dim=0)) == layer.codes
    assert values.min() == -1 and values.max() <= 1
    out, indices = layer(torch.randn(50, len(levels)) * 3)
    torch.testing.assert_close(out, layer.lookup(indices))


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7, 5, 5, 5, 5)])
def test_fsq_reaches_every_level_and_no_other(levels):
    layer = FSQ(levels)
    sweep = torch.linspace(-9, 9, 2001)[:, None].expand(-1, len(levels))
    values, _ = layer(sweep)
    for channel, count in enumerate(levels):
        seen = values[:, channel].round(decimals=5).unique()
        assert len(seen) == count
        # monotone
        assert (
            torch.equal(seen, seen.sort().values)
            and (values[1:, channel] >= values[:-1, channel] - 1e-6).all()
        )
    centre, _ = layer(torch.zeros(1, len(levels)))
    assert centre.abs().max() < 1e-6


def test_fsq_gradient_is_that_of_the_squashing():
    layer, z = FSQ((8, 5)), torch.randn(20, 2, requires_grad=True)
    layer(z)[0].sum().backward()
    again = z.detach().clone().requires_grad_()
    (layer.bound(again) / torch.tensor([4, 2])).sum().backward()
    torch.testing.assert_close(z.grad, again.grad)


def test_fsq_levels_must_be_levels():
    for levels in ((), (1, 5), (0,)):
        with pytest.raises(DaedalError, match="at least 2"):
            FSQ(levels)
    assert [FSQ(p).codes for p in itertools.islice([(8, 6, 5), (8, 5, 5, 5)], 2)] == [240, 1000]
