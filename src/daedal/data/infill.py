"""Filling in the middle (Bavarian et al. 2022): prompts that name what stands before a gap and what
behind it, in the words of each model family.

    filled = prompt_of(tokenizer, before="def add(a, b):\\n    return ", after="\\n")
    filled.ids, filled.stops

A family is told by the tokens of its tokenizer, never by a model's name. Legend: P what stands
before, S what stands behind."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

SNOWMAN = "\u2603"  # before a text of which a tokenizer would write the first word as a new one


@dataclass(frozen=True)
class Format:
    """The tokens around P and S; `suffix_first` puts S in front, so that what fills the gap goes on
    from P itself, which a small model learns sooner. `ends` are further tokens at which it is over,
    `mark` one that a tokenizer of this form has besides."""

    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False
    ends: tuple[str, ...] = ()
    repository: str = ""  # begins a repository's name
    file: str = ""  # begins a file's path
    mark: str = ""


FORMATS = (
    Format(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", suffix_first=True, mark="<|fim_spm|>"
    ),
    Format(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ends=("<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>", "<|im_end|>", "<eos>", "<|end_of_text|>"),
        repository="<|repo_name|>", file="<|file_sep|>",
    ),
    Format(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>",
        ends=("<file_sep>", "<|endoftext|>"), repository="<repo_name>", file="<file_sep>",
    ),
    Format("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<|endoftext|>",)),
    Format("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ends=("<｜end▁of▁sentence｜>",)),
    Format("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),
    Format("[PREFIX]", "[SUFFIX]", "", suffix_first=True),
    Format("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", ends=("<[end▁of▁sentence]>",)),
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """Token ids, and the texts at which the filling is over."""

    ids: list[int]
    stops: tuple[str, ...]


def format_of(tokenizer: Tokenizer) -> Format | None:
    """The format of a tokenizer that has one's tokens."""
    for form in FORMATS:
        names = filter(None, (form.prefix, form.suffix, form.middle, form.mark))
        if all(tokenizer.token_id(name) is not None for name in names):
            return form
    return None


def prompt_of(
    tokenizer: Tokenizer,
    before: str,
    after: str,
    files: Sequence[tuple[str, str]] = (),
    path: str = "",
) -> Prompt:
    """The prompt of a gap. `files` are (path, content) of others of the same repository, which stand
    in front where the family has tokens for them. DaedalError for a tokenizer without a format."""
    form = format_of(tokenizer)
    if form is None:
        raise DaedalError(
            "this model has no tokens for filling a gap; leave out what stands behind it, or use a code model such as the coder."
        )

    def named(name: str) -> list[int]:
        index = tokenizer.token_id(name) if name else None
        return [] if index is None else [index]

    front = named_files(tokenizer, form, files, path)
    prefix = [*named(form.prefix), *plain(tokenizer, before)]
    suffix = [*named(form.suffix), *plain(tokenizer, after)]
    bos = [] if tokenizer.bos_id is None or not adds_bos(tokenizer) else [tokenizer.bos_id]
    if form.suffix_first and form.middle:  # the paper's second form: the marks in one order always
        parts = [*named(form.prefix), *suffix, *named(form.middle), *prefix[1:]]
    elif form.suffix_first:
        parts = [*suffix, *prefix]
    else:
        parts = [*prefix, *suffix, *named(form.middle)]
    known = (form.prefix, form.suffix, form.middle, *form.ends)
    stops = tuple(name for name in known if name and tokenizer.token_id(name) is not None)
    return Prompt([*bos, *front, *parts], stops)


def named_files(
    tokenizer: Tokenizer, form: Format, files: Sequence[tuple[str, str]], path: str
) -> list[int]:
    """Other files in front of the gap, and the path of the file that has it."""
    mark = tokenizer.token_id(form.file) if form.file else None
    if mark is None or not files:
        return []
    ids: list[int] = []
    name = tokenizer.token_id(form.repository)
    if name is not None:
        ids += [name, *plain(tokenizer, "repository\n")]
    for other, content in files:
        ids += [mark, *plain(tokenizer, f"{other}\n{content}\n")]
    return [*ids, mark, *plain(tokenizer, f"{path}\n")]


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in the middle of another: no frame, and no space in front of it."""
    if not text:
        return []
    first = tokenizer.encode(SNOWMAN, add_bos=False)
    whole = tokenizer.encode(SNOWMAN + text, add_bos=False)
    if whole[: len(first)] == first:
        return whole[len(first) :]
    return tokenizer.encode(text, add_bos=False)  # what follows melts into the mark


def adds_bos(tokenizer: Tokenizer) -> bool:
    return tokenizer.encode("a")[:1] == [tokenizer.bos_id]


def transformed(tokenizer: Tokenizer, text: str, draw: random.Random) -> list[int]:
    """A document for training: cut at two characters, its middle at the end (Bavarian et al. 2022).
    Half of them have P in front (PSM), half S (SPM, in that paper's second form), so that the model
    learns both to read what stands behind and to go on from what stands before; all have S in front
    where the tokenizer's own format does."""
    form = format_of(tokenizer)
    if form is None or not form.middle:
        raise DaedalError(
            "fim needs a tokenizer with tokens for it; give tokenizer.special_tokens <|fim_prefix|>, <|fim_suffix|> and <|fim_middle|>."
        )
    first, second = sorted(draw.choices(range(len(text) + 1), k=2))
    p, m, s = (plain(tokenizer, part) for part in (text[:first], text[first:second], text[second:]))
    prefix, suffix, middle = (
        tokenizer.token_id(name) for name in (form.prefix, form.suffix, form.middle)
    )
    assert prefix is not None and suffix is not None and middle is not None
    if not form.suffix_first and draw.random() < 0.5:
        return [prefix, *p, suffix, *s, middle, *m]
    return [prefix, suffix, *s, middle, *p, *m]
