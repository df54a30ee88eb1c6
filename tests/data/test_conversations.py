"""Conversations of every shape, cut at turns, packed whole, drawn the same again; what cannot be
learned from is counted."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from daedal.data import chat
from daedal.data.conversations import PackedTalks, TaskTalks, tokens_of
from daedal.data.rows import ChatSource, conversation, first_prompt, parted, rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

SHAPES = {
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
    "turns": {"turns": [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Yes"}]},
    "speakers": {"turns": [{"speaker": 1, "text": "Hi"}, {"speaker": 2, "text": "Yes"}]},
    "completion": {"prompt": "Hi", "completion": "Yes"},
    "messages of a prompt": {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes"}]},
    "chosen": {"prompt": "Hi", "chosen": "Yes", "rejected": "No"},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                           {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]},
    "the prompt again": {"prompt": "Hi", "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],
                         "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["Hi there, yes and no, tell me a story " * 20]
    return chat.prepared(
        Tokenizer.train(
            texts, 300, (*chat.HOUSE_TOKENS, "<|pad|>"), bos="<|bos|>", eos="<|eos|>", add_bos=True
        )
    )


def written(folder: Path, *lines: object) -> ChatSource:
    (folder / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ChatSource(path=str(folder / "talks.jsonl"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shapes(tmp_path, shape: str, kind: str) -> None:
    source = written(tmp_path, SHAPES[shape])
    if kind == "parquet":
        (tmp_path / "talks.jsonl").unlink()
        pq.write_table(pa.Table.from_pylist([SHAPES[shape]]), tmp_path / "talks.parquet")
        source = ChatSource(path=str(tmp_path))
    [row] = rows(source)
    assert conversation(row, source) == SHAPES["messages"]["messages"]
    assert first_prompt(row) == next(
        turn["content"] for turn in SHAPES["messages"]["messages"] if turn["role"] == "user"
    )


def test_a_prompt_that_is_said_again_stands_once() -> None:
    """With a system's turn in one of the two, and not where an earlier turn only looks alike."""
    system, user, yes = (
        {"role": role, "content": role} for role in ("system", "user", "assistant")
    )
    assert parted([user], [system, user, yes]) == ([system, user], [yes])
    assert parted([system, user], [user, yes]) == ([system, user], [yes])
    assert parted([user], [yes]) == ([user], [yes]) and parted([user], [yes, user, yes]) == (
        [user],
        [yes, user, yes],
    )
    assert parted([user], [{**user, "id": "7"}, yes]) == ([{**user, "id": "7"}], [yes])


def test_parts_that_are_no_text_are_refused(tmp_path) -> None:
    turns = [
        {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]},
        {"role": "assistant", "content": "b"},
    ]
    source = written(tmp_path, {"messages": turns})
    with pytest.raises(DaedalError, match="part of type 'image_url'"):
        conversation(next(rows(source)), source)


def test_every_format_says_the_same(tmp_path) -> None:
    """A parquet file has the keys of all rows in each, null where there are none; fields that
    templates read are passed on."""
    calls = (
        {"name": "weather", "arguments": {"city": "Paris"}},
        {"name": "lamp", "arguments": {"level": 3, "on": False}},
    )
    lines = [
        {"messages": [{"role": "user", "content": "do"}, {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
                      {"role": "assistant", "content": "Done.", "reasoning_content": "so"}]}
        for call in calls
    ]  # fmt: skip
    plain = written(tmp_path, *lines)
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "talks.parquet")
    tables = ChatSource(path=str(tmp_path / "talks.parquet"))
    said = [[conversation(row, source) for row in rows(source)] for source in (plain, tables)]
    assert said[0] == said[1] == [line["messages"] for line in lines]


def test_texts_beside_tables_are_no_conversations(tmp_path) -> None:
    written(tmp_path, SHAPES["messages"])
    for name in ("README.md", "notes.txt", "dataset_infos.json", ".hidden.jsonl"):
        (tmp_path / name).write_text("{")
    assert len(list(rows(ChatSource(path=str(tmp_path))))) == 1


def test_a_limit_is_the_same_for_tasks(tokenizer: Tokenizer) -> None:
    talks = TaskTalks(ChatSource(path="tasks:list", limit=3), tokenizer, 500, 0, Counter())
    assert [talk and talk.ids.tolist() for talk in (talks[k] for k in range(6))][3:] == [
        talks[k].ids.tolist() for k in range(3)
    ]


def test_a_row_may_have_no_prompt() -> None:
    assert (
        first_prompt({"text": "x"}) is None
        and first_prompt({"messages": [{"role": "assistant", "content": "x"}]}) is None
    )


def test_columns_where_limit_and_system(tmp_path) -> None:
    lines = [
        {"question": f"q{i}", "answer": f"a{i}", "split": "train" if i % 2 else "val"}
        for i in range(6)
    ]
    source = written(tmp_path, *lines).model_copy(
        update={
            "columns": {"prompt": "question", "completion": "answer"},
            "where": {"split": "val"},
            "limit": 2,
            "system": "Be kind.",
        }
    )
    found = [conversation(row, source) for row in rows(source)]
    assert [[m["content"] for m in talk] for talk in found] == [
        ["Be kind.", "q0", "a0"],
        ["Be kind.", "q2", "a2"],
    ]


def test_a_row_of_no_known_shape_is_one_sentence(tmp_path) -> None:
    with pytest.raises(DaedalError, match="columns:"):
        PackedTalks(
            [written(tmp_path, {"question": "q", "answer": "a"})], Tokenizer.train(["a"], 300), 1, 8
        )


def test_too_long_is_cut_at_a_turn_never_to_nothing(tokenizer: Tokenizer) -> None:
    turns = [
        {"role": role, "content": f"{role} {i}"} for i in range(4) for role in ("user", "assistant")
    ]
    whole = tokens_of(tokenizer, turns, 10_000, Counter())
    assert whole
    for length in range(1, len(whole) + 1):
        left_out: Counter[str] = Counter()
        cut = tokens_of(tokenizer, turns, length, left_out)
        if cut is None:
            assert left_out.total() == 1 and length < len(whole) // 3
        else:
            assert (
                len(cut) <= length
                and cut.mask.any()
                and cut.mask[-1]
                and (cut.ids == whole.ids[: len(cut)]).all()
            )
            assert tokenizer.token(int(cut.ids[-1])) == "<|end|>"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "Hi"}], "no answer"),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}],
            "an empty answer",
        ),
        ([], "no answer"),
    ],
)
def test_left_out_and_counted(tokenizer: Tokenizer, messages: list, reason: str) -> None:
    left_out: Counter[str] = Counter()
    assert tokens_of(tokenizer, messages, 100, left_out) is None and left_out == {reason: 1}


def test_tools_are_seen_and_calls_are_learned(tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    turns = [
        {"role": "user", "content": "1 and 2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "3."},
    ]
    talk = tokens_of(tokenizer, turns, 1000, Counter(), tools)
    assert talk
    learned = tokenizer.decode(
        [int(i) for i, m in zip(talk.ids, talk.mask, strict=True) if m], skip_special=False
    )
    assert learned == '[{"function": {"name": "add", "arguments": {"a": 1}}}]<|end|>3.<|end|>'


def test_packing_keeps_conversations_whole_and_says_who_spoke(tokenizer: Tokenizer) -> None:
    talks = PackedTalks([ChatSource(path="tasks:question,list", exchanges=2)], tokenizer, 4, 256)
    for batch in islice(talks, 3):
        assert batch["tokens"].shape == (4, 257)
        for tokens, mask, segments in zip(*batch.values(), strict=True):
            assert (segments > 0).float().mean() > 0.6
            for number in range(1, int(segments.max()) + 1):
                ids = tokens[segments == number].tolist()
                text = tokenizer.decode(ids, skip_special=False)
                assert text.startswith("<|bos|><|user|>") and text.endswith("<|end|>")
                said = tokenizer.decode(
                    tokens[(segments == number) & mask].tolist(), skip_special=False
                )
                assert said == "".join(
                    part.partition("<|user|>")[0] for part in text.split("<|assistant|>")[1:]
                )
            assert not mask[segments == 0].any()


def test_position_resumes_and_epochs_are_whole(tmp_path, tokenizer: Tokenizer) -> None:
    source = written(tmp_path, *({"prompt": f"q{i}", "completion": f"a{i}"} for i in range(9)))
    sources = [source, ChatSource(path="tasks:list")]
    one = PackedTalks(sources, tokenizer, 2, 64, seed=1)
    first = list(islice(one, 3))
    state = json.loads(json.dumps(one.state()))
    later = list(islice(one, 4))
    again = list(islice(PackedTalks(sources, tokenizer, 2, 64, seed=1, state=state), 4))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(later, again, strict=True) for key in a)
    assert not torch.equal(first[0]["tokens"], later[0]["tokens"])
    pool = one.pools[0]
    assert len({bytes(pool[k].ids) for k in range(9)}) == 9 and {
        bytes(pool[k].ids) for k in range(9)
    } == {bytes(pool[k].ids) for k in range(9, 18)}


def test_a_source_of_nothing_is_one_sentence(tmp_path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DaedalError, match="no answer within 3 tokens"):
        PackedTalks([written(tmp_path, {"prompt": "Hi", "completion": "Yes"})], tokenizer, 1, 2)


def test_a_context_too_short_for_every_task_is_one_sentence(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daedal.data.conversations.STRANGERS", 50)
    with pytest.raises(DaedalError, match="longer context"):
        PackedTalks([ChatSource(path="tasks:story")], tokenizer, 1, 10).batch()
