"""Documents and packing: every format gives the same texts, streams resume anywhere, no token is
lost, bad files get one sentence."""

import json
from collections import Counter
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard

from daedal.data.documents import Mixture, Source, Stream, documents
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.worlds import tales

TEXTS = list(tales(40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    pq.write_table(
        pa.table({"text": TEXTS, "split": ["train"] * 30 + ["val"] * 10}),
        folder / "a.parquet",
        row_group_size=7,
    )
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (folder / "a.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300, ("<|bos|>", "<|eos|>"), bos="<|bos|>", eos="<|eos|>")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.zst", "a.txt"])
def test_formats_agree(folder, name):
    assert [text.strip() for text in documents([Source(path=str(folder / name))])] == TEXTS


def test_filters(folder):
    source = Source(path=str(folder / "a.parquet"), where={"split": ["val"]}, limit=4)
    assert list(documents([source])) == TEXTS[30:34]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "."])
@pytest.mark.parametrize("limit", [3, 9, 31])
def test_a_limit_is_the_same_for_every_reader(folder, name, limit):
    source = Source(path=str(folder / name), limit=limit)
    seen = list(islice(Stream(source, seed=1).run(), 2 * limit))
    assert sorted(seen[:limit]) == sorted(seen[limit:]) == sorted(documents([source]))


def test_what_is_about_data_is_passed_over(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/one.jsonl").write_text('{"text": "one"}\n')
    for name in (
        "README.md",
        "LICENSE.txt",
        "dataset_info.json",
        "index.md",
        "data/.cache.jsonl",
        "data/state.json",
    ):
        (tmp_path / name).write_text('{"text": "no"}\n')
    assert list(documents([Source(path=str(tmp_path))])) == ["one"]
    (tmp_path / "data/one.jsonl").unlink()  # without tables markdown is text
    assert [text.strip() for text in documents([Source(path=str(tmp_path))])] == ['{"text": "no"}']


def test_an_epoch_is_a_permutation_and_the_next_another(folder):
    stream = iter(Mixture([Source(path=str(folder / "a.parquet"))], seed=1))
    first, second = [next(stream) for _ in range(40)], [next(stream) for _ in range(40)]
    assert Counter(first) == Counter(second) == Counter(TEXTS) and first != second != TEXTS


def test_mixture_keeps_its_shares(folder):
    mixture = Mixture(
        [Source(path=str(folder / "a.jsonl"), repeat=3), Source(path="tales:40:7")], seed=0
    )
    stream = iter(mixture)
    for _ in range(200):
        next(stream)
    shares = [taken / share for taken, share in zip(mixture.taken, mixture.shares, strict=True)]
    assert abs(shares[0] - shares[1]) < 0.02


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_packing_resumes_anywhere(folder, tokenizer, stop):
    sources = [Source(path=str(folder / "a.parquet")), Source(path=str(folder / "a.jsonl"))]

    def rows(state=None):
        return PackedRows(sources, tokenizer, 2, 50, seed=3, buffer=8, state=state)

    whole = iter(rows())
    expected = [next(whole) for _ in range(40)]
    packer = rows()
    part = iter(packer)
    for i in range(stop):
        assert torch.equal(next(part), expected[i])
    again = iter(rows(packer.state()))
    assert all(torch.equal(next(again), expected[i]) for i in range(stop, 40))


def test_no_token_is_lost(folder, tokenizer):
    """Rows of one pass hold the very tokens of the documents, but for what still waits in the
    buffer."""
    packer = PackedRows([Source(path=str(folder / "a.jsonl"))], tokenizer, 1, 60, buffer=8)
    rows = iter(packer)
    used = Counter(t for _ in range(30) for t in next(rows)[0].tolist())
    waiting = Counter(t for _, _, ids in packer.buffer for t in ids)
    taken = packer.mixture.streams[0].state
    assert taken["epoch"] == 0
    order = packer.mixture.streams[0].order(40, 0, 0, 0)
    given = Counter(
        t
        for i in order[: taken["document"]]
        for t in [
            tokenizer.bos_id,
            *tokenizer.encode(TEXTS[i], add_bos=False),
            tokenizer.eos_ids[0],
        ]
    )
    assert used + waiting == given


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "gave no document"),
        ("binary.txt", b"\x00\x01\x02", "NUL"),
        ("latin.txt", b"caf\xe9 au lait", "UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2"),
        ("broken.parquet", b"PAR1 but not really", "parquet"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DaedalError, match=words):
        next(iter(Mixture([Source(path=str(tmp_path / name))])))


def test_missing_files_and_columns(tmp_path, folder):
    with pytest.raises(DaedalError, match="holds no data"):
        list(documents([Source(path=str(tmp_path / "none"))]))
    with pytest.raises(DaedalError, match=r"no column 'body'; it has text, split"):
        list(documents([Source(path=str(folder / "a.parquet"), column="body")]))
