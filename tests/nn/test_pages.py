"""Attention over pages equals plain attention over each sequence by itself, in every form: mixed
numbers of new tokens, grouped heads, windows, caps on scores, pages in any order and shared."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.nn.attention import attend
from daedal.nn.pages import FORMS, QUERIES, Pages

K = 8  # head dim


def scattered(lengths: list[int], size: int, heads: int, spare: int, shared: int):
    """Sequences' keys and values (S, Hkv, K) each, and the same in a pool of pages: tables, keys and
    values (Hkv, n, size, K). The first `shared` whole pages of all are the same."""
    counts = [-(-length // size) for length in lengths]
    order = (1 + torch.randperm(sum(counts) + spare)).tolist()
    common = order[: min(shared, min(length // size for length in lengths))]
    tables, free = [], order[len(common) :]
    for count in counts:
        table = common + free[: count - len(common)]
        tables.append(table + [0] * (max(counts) - count))
        free = free[count - len(common) :]
    shape = (heads, 1 + sum(counts) + spare, size, K)
    keys, values = torch.randn(shape).double(), torch.randn(shape).double()
    table = torch.tensor(tables)
    texts = [
        tuple(t[:, row].flatten(1, 2)[:, :length].transpose(0, 1) for t in (keys, values))
        for row, length in zip(table, lengths, strict=True)
    ]
    return table, keys, values, texts


def agrees(form: str, starts: list[int], news: list[int], size: int, groups: int, **scores) -> None:
    lengths = [start + new for start, new in zip(starts, news, strict=True)]
    table, keys, values, texts = scattered(lengths, size, heads=2, spare=3, shared=1)
    q = torch.randn(len(starts), max(news), 2 * groups, K).double()
    pages = Pages(table, torch.tensor(starts), max(news), size)
    found = FORMS[form](q, keys, values, pages, scale=0.3, **scores)
    assert found.shape == q.shape
    for i, (start, new, (k, v)) in enumerate(zip(starts, news, texts, strict=True)):
        want = attend(q[i, None, :new], k[None], v[None], offset=start, scale=0.3, **scores)
        torch.testing.assert_close(found[i, :new], want[0], rtol=1e-6, atol=1e-6)


SEQUENCES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=4)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    SEQUENCES,
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, 1, 5, 64]),
    st.sampled_from([None, 2.0]),
)
def test_pages_equal_plain_attention(form, sequences, size, groups, window, softcap) -> None:
    starts, news = (list(column) for column in zip(*sequences, strict=True))
    agrees(form, starts, news, size, groups, window=window, softcap=softcap)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [None, 40])
def test_a_decode_step_and_a_prompt_longer_than_a_block(form: str, window: int | None) -> None:
    agrees(form, [7, 0, 33], [1, 1, 1], size=4, groups=2, window=window)
    agrees(form, [5, 0], [QUERIES + 30, 3], size=16, groups=2, window=window)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), min_size=1, max_size=3),
    st.sampled_from([None, 1, 40, 500]),
    st.sampled_from([16, 128]),
)
def test_flex_walks_every_page_that_a_block_of_queries_sees_once(sequences, window, size) -> None:
    """The unfused maths asks the mask alone; the kernel of a GPU reads these lists of pages, and
    would count a page twice that is named twice."""
    starts, news = (list(column) for column in zip(*sequences, strict=True))
    lasts = [start + new for start, new in sequences]
    table, *_ = scattered(lasts, size, heads=1, spare=0, shared=1)
    pages = Pages(table, torch.tensor(starts), max(news), size)
    mask = pages.block_mask(window, count=1 + int(table.max()))
    for b, (start, last) in enumerate(zip(starts, lasts, strict=True)):
        for row in range(-(-max(news) // QUERIES)):
            count = mask.kv_num_blocks[b, 0, row]
            named = [page for page in mask.kv_indices[b, 0, row, :count].tolist() if page]
            assert count <= mask.kv_indices.shape[-1] and len(named) == len(set(named))
            queries = range(start + row * QUERIES, min(start + (row + 1) * QUERIES, last))
            if queries:
                low = 0 if window is None else max(0, queries[0] + 1 - window)
                want = table[b, low // size : queries[-1] // size + 1].tolist()
                assert named[: len(want)] == want
