"""Completing code at a cursor: the prompt of the gap, healing of the token that the cursor cuts, and
what is left of the model's text once what repeats the surroundings is taken off."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daedal.data import infill
from daedal.errors import DaedalError
from daedal.pipelines.text import TextPipeline

BUDGET = 1500  # tokens of the prompt, where the context has room for them
FRAME = 16  # tokens at most around them
SHARE = 0.7  # of them before the cursor
NEIGHBOURS = 600  # tokens of other files, where a family has a place for them
JUMP = 16  # lines that the beginning of a prompt moves by
CLOSERS = ")]}"
CUT = re.compile(r"[\w \t]")


@dataclass(frozen=True)
class Gap:
    """A place in a file: what stands before it and behind it."""

    before: str
    after: str = ""
    path: str = ""
    files: tuple[tuple[str, str], ...] = field(default=())  # (path, content) of others

    @classmethod
    def at(cls, path: Path, line: int | None = None, column: int | None = None) -> "Gap":
        """The gap in a file at the end of a line (1 is the first), or at a column of it; at the
        file's end without a line."""
        text = source(path)
        if line is None:
            return cls(text, "", path.name, neighbours(path))
        lines = text.splitlines(keepends=True)
        if not 1 <= line <= max(len(lines), 1):
            raise DaedalError(f"{path} has {len(lines)} lines and no line {line}.")
        here = lines[line - 1] if lines else ""
        bare = here.rstrip("\r\n")
        if column is not None and not 0 <= column <= len(bare):
            raise DaedalError(
                f"line {line} of {path} has {len(bare)} characters and no column {column}."
            )
        cut = len(bare) if column is None else column
        before = "".join(lines[: line - 1]) + here[:cut]
        return cls(before, here[cut:] + "".join(lines[line:]), path.name, neighbours(path))


def source(path: Path) -> str:
    """The text of a source file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DaedalError(
            f"{path} cannot be read ({error.strerror}); give a file that is there."
        ) from None
    if b"\0" in data[:8192]:
        raise DaedalError(f"{path} is not text; give a source file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DaedalError(f"{path} is not UTF-8 (byte {error.start}); convert it first.") from None


def neighbours(path: Path, most: int = 4) -> tuple[tuple[str, str], ...]:
    """Files beside a file that share most names with it, the most alike last, nearest the gap."""
    own = set(re.findall(r"[A-Za-z_]\w{3,}", source(path)))
    rows = []
    for other in sorted(path.parent.glob(f"*{path.suffix}"))[:200]:
        if other == path or not other.is_file() or other.stat().st_size > 100_000:
            continue
        try:
            text = source(other)
        except DaedalError:
            continue
        names = set(re.findall(r"[A-Za-z_]\w{3,}", text))
        rows.append((len(own & names) / (len(names) ** 0.5 or 1), other.name, text))
    return tuple((name, text) for _, name, text in sorted(rows)[-most:])


@dataclass(frozen=True)
class Completion:
    """What belongs at a cursor. `remark` says what was not done."""

    text: str
    finish_reason: str
    remark: str = ""


def complete(
    pipeline: TextPipeline,
    gap: Gap,
    max_tokens: int = 128,
    unwanted: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Completion:
    """The completion of a gap. A model without tokens for it goes on from what stands before, which
    is remarked. It stops at the next token once it is `unwanted`."""
    if gap.after and not gap.after.startswith(("\n", "\r")):
        settings["stop"] = ("\n",)  # in the middle of a line, what belongs there ends with it
    found = infilled(pipeline, gap, max_tokens, unwanted, **settings)
    return replace(found, text=trimmed(found.text, gap.before, gap.after))


def infilled(
    pipeline: TextPipeline,
    gap: Gap,
    max_tokens: int = 128,
    unwanted: Callable[[], bool] = lambda: False,
    stop: tuple[str, ...] = (),
    **settings: Any,
) -> Completion:
    """What the model itself puts in a gap, to the end that it gives it."""
    words = pipeline.tokenizer
    form = infill.format_of(words)
    front, healed = heal(words, gap.before)
    if healed:
        settings["regex"] = re.escape(healed) + r"(?s:.*)"
    budget = max(min(BUDGET, pipeline.engine.max_len - max_tokens - FRAME), 1)
    remark = ""
    if form is None and gap.after.strip():
        remark = f"{pipeline.name} has no tokens for filling a gap; it went on from what stands before it."
    if form is None:
        ids = words.encode(tail(words, front, budget))
    else:
        before = tail(words, front, int(budget * SHARE))
        after = head(words, gap.after, budget - int(budget * SHARE))
        files = fitted(words, gap.files, NEIGHBOURS) if form.file and budget == BUDGET else ()
        prompt = infill.prompt_of(words, before, after, files, gap.path)
        ids, stop = prompt.ids, (*prompt.stops, *stop)
    given = {"temperature": 0.0, "stop": stop, "raw": True, "max_tokens": max_tokens, **settings}
    handle = pipeline.start(ids, **given)
    for _ in handle:
        if unwanted():
            handle.cancel()
            break
    made = handle.result()
    return Completion(made.text.removeprefix(healed), made.finish_reason, remark)


def heal(words: Any, before: str) -> tuple[str, str]:
    """(what is left, what was cut off): the last token, where the cursor stands inside a word or
    behind a space, since its longer form may be one token that would else never come."""
    if not before or not CUT.match(before[-1]):
        return before, ""
    ids = words.encode(before[-200:], add_bos=False)
    last = words.decode(ids[-1:])
    if len(ids) < 2 or not before.endswith(last) or not last:
        return before, ""
    return before[: -len(last)], last


def tail(words: Any, text: str, tokens: int) -> str:
    """The last lines of a text, at most so many tokens. Its beginning moves by many lines at a time,
    so that a file that grows line by line keeps its beginning, and with it what is cached of it."""
    lines = text.splitlines(keepends=True)
    kept = len(fitting(words, lines[::-1], tokens))
    start = -(-(len(lines) - kept) // JUMP) * JUMP if kept < len(lines) else 0
    return "".join(lines[min(start, max(len(lines) - 1, 0)) :])


def head(words: Any, text: str, tokens: int) -> str:
    """The first lines of a text, at most so many tokens."""
    return "".join(fitting(words, text.splitlines(keepends=True), tokens))


def fitting(words: Any, lines: list[str], tokens: int) -> list[str]:
    """The first of these lines, one at least, that are so many tokens together."""
    kept: list[str] = []
    for line, size in zip(lines, map(len, words.encode_batch(lines)) if lines else [], strict=True):
        if size > tokens and kept:
            break
        tokens -= size
        kept.append(line)
    return kept


def fitted(
    words: Any, files: Sequence[tuple[str, str]], tokens: int
) -> tuple[tuple[str, str], ...]:
    """The beginnings of files, within a budget that they share."""
    each = tokens // max(len(files), 1)
    return tuple((path, head(words, text, each)) for path, text in files)


# ---- what is left --------------------------------------------------------------------------------


def trimmed(text: str, before: str, after: str) -> str:
    """A completion without what already stands behind the cursor, and not beyond its block."""
    text = in_block(text, before) if after.strip() else text
    text = without_suffix(text, after)
    return text.rstrip() if after.startswith("\n") or not after else text


def in_block(text: str, before: str) -> str:
    """Lines up to the first that is indented less than the line of the cursor."""
    line = before.rpartition("\n")[2]
    depth = len(line) - len(line.lstrip())
    lines = text.split("\n")
    for i, each in enumerate(lines[1:], 1):
        if (
            each.strip()
            and len(each) - len(each.lstrip()) < depth
            and each.strip()[0] not in CLOSERS
        ):
            return "\n".join(lines[:i])
    return text


def without_suffix(text: str, after: str) -> str:
    """Take off the longest end of the text that stands behind the cursor already: whole lines, or
    what closes brackets on the cursor's own."""
    rest = after.lstrip("\n")
    if not rest:
        return text
    first = rest.split("\n", 1)[0]
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if i and first.strip() and line.rstrip() == first.rstrip() and len(first.strip()) > 1:
            return "\n".join(lines[:i])
    same = after.split("\n", 1)[0]
    for size in range(min(len(text), len(same)), 0, -1):
        if text.endswith(same[:size]) and not same[:size].isspace():
            return text[:-size]
    return text
