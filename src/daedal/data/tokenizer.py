"""Text to token ids and back: one class over the `tokenizers` library, whichever of the ecosystem's
files a folder holds.

`Tokenizer.load` reads tokenizer.json, GPT-2's vocab.json + merges.txt, and SentencePiece's
tokenizer.model, or a GGUF file's metadata, and honours tokenizer_config.json, special_tokens_map.json, chat_template.jinja and
generation_config.json. `Tokenizer.train` makes a byte-level BPE. `Tokenizer.save` writes a folder
that transformers' AutoTokenizer opens with the same ids.

Text is never trusted: `<|im_end|>` in a text is encoded as the characters it is made of, unless the
caller says `special=True`."""

import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from daedal.checkpoints import gguf_file, gguf_folder
from daedal.data import gguf_tokenizer
from daedal.errors import DaedalError

# One alternative a line, first match wins: an English clitic; a word with the one sign or space
# before it; digits in groups of two (fewer
# bits per byte than three in small models); a run of punctuation with the line ends after it; line
# ends; spaces but the last; spaces.
SPLIT = "|".join((
    r"['\u2019](?i:ll|re|ve|[dmst])(?!\p{L})",
    r"[^\p{L}\p{N}\r\n]?[\p{L}\p{M}]+",
    r"\p{N}{1,2}",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
))  # fmt: skip
LINE_START = re.compile(r"(?<=\n)(?=\S)")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")  # of an added token
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")

HALVES = re.compile("[\ud800-\udfff]")  # lone surrogates


class Tokenizer:
    """A `tokenizers.Tokenizer` with the roles of its special tokens and its chat template.

    Attributes: `backend` the tokenizers object, `roles` maps
    bos_token/eos_token/unk_token/pad_token to text, `eos_ids` every id that ends a text (a chat
    model has several), `chat_template` Jinja source or None."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        roles: Mapping[str, str | None] | None = None,
        chat_template: str | None = None,
        eos_ids: Sequence[int] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        # states of somebody's training call, which a tokenizer.json carries on
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.config = dict(config or {})  # what tokenizer_config.json said, written back by save()
        self.chat_template = chat_template
        self.roles = {role: text for role, text in (roles or {}).items() if text}
        missing = [text for text in self.roles.values() if backend.token_to_id(text) is None]
        backend.add_special_tokens([AddedToken(text, normalized=False) for text in missing])
        own = [i for i in (self._id("eos_token"),) if i is not None]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys([*own, *eos_ids]))
        self._lock = threading.Lock()
        # what other modules make of this tokenizer once and keep with it
        self.derived: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process."""
        return {k: value for k, value in vars(self).items() if k not in ("_lock", "derived")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), derived={})

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, base: Path | None = None) -> "Tokenizer":
        """Read a tokenizer from a folder, or from one file (tokenizer.json, tokenizer.model,
        vocab.json). What ends a text stands in generation_config.json, else in config.json, of that
        folder, else of the `base` folder whose model it is for."""
        path = gguf_folder.folder_of(path)
        folder = path if path.is_dir() else path.parent
        if gguf_folder.holds(folder) and not (folder / "tokenizer.json").exists():
            cls._of_gguf(folder)._keep(folder)
        config = _read_json(folder / "tokenizer_config.json")
        backend, roles = _read_backend(path)
        for role, value in {**_read_json(folder / "special_tokens_map.json"), **config}.items():
            if role in ROLES and value:
                roles[role] = value["content"] if isinstance(value, dict) else value
        listed = config.get("added_tokens_decoder", {})
        for token in (listed[index] for index in sorted(listed, key=int)):
            if backend.token_to_id(token["content"]) is None:
                flags = {flag: token[flag] for flag in FLAGS if flag in token}
                backend.add_tokens([AddedToken(token["content"], **flags)])
        names = ("generation_config.json", "config.json")
        files = [place / name for place in (folder, base) if place for name in names]
        found = (_read_json(file).get("eos_token_id") for file in files)
        ends = next((ends for ends in found if ends is not None), [])
        ends, template = ends if isinstance(ends, list) else [ends], _read_template(folder, config)
        tokenizer = cls(backend, roles=roles, chat_template=template, eos_ids=ends, config=config)
        if config.get("add_bos_token") is not None or config.get("add_eos_token") is not None:
            tokenizer._frame(bool(config.get("add_bos_token")), bool(config.get("add_eos_token")))
        return tokenizer

    @classmethod
    def _of_gguf(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of an opened GGUF file's metadata."""
        source = gguf_folder.source_of(folder)
        parts = gguf_tokenizer.read(gguf_file.read(source).metadata, source)
        tokenizer = cls(parts.backend, roles=parts.roles, chat_template=parts.chat_template)
        tokenizer._frame(parts.add_bos, parts.add_eos)
        return tokenizer

    def _keep(self, folder: Path) -> None:
        """Save into a folder that others may read meanwhile; tokenizer.json comes last."""
        partial = folder / f".{secrets.token_hex(4)}.partial"
        self.save(partial)
        for name in ("tokenizer_config.json", "tokenizer.json"):
            os.replace(partial / name, folder / name)
        partial.rmdir()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer opens with the same
        ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        dropped = (*ROLES, "chat_template", "auto_map", "added_tokens_decoder", "backend")
        config = {k: v for k, v in self.config.items() if k not in dropped} | self.roles
        if self.chat_template:
            config["chat_template"] = self.chat_template
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["clean_up_tokenization_spaces"] = False
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        add_bos: bool = False,
        chat_template: str | None = None,
    ) -> "Tokenizer":
        """Byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2) of `vocab_size` ids, special
        tokens included and first.

        Lossless: no normalisation, every byte has an id. The same texts give the same merges. `eos`
        and `bos` default to the first special token."""
        if vocab_size < 256 + len(special_tokens):
            raise DaedalError(
                f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special tokens need their own ids."
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
        backend.decoder = decoders.ByteLevel()
        special = [AddedToken(text, normalized=False, special=True) for text in special_tokens]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((part for text in texts for part in _parts(text)), trainer)
        first = special_tokens[0] if special_tokens else None
        roles = {"bos_token": bos or first, "eos_token": eos or first, "pad_token": pad}
        tokenizer = cls(backend, roles=roles, chat_template=chat_template)
        tokenizer._frame(add_bos, False)
        return tokenizer

    def _frame(self, add_bos: bool, add_eos: bool) -> None:
        """Say what stands around every encoded text, in the tokenizers pipeline and in the config
        both, so that other tools agree."""
        bos = self.roles.get("bos_token") if add_bos else None
        eos = self.roles.get("eos_token") if add_eos else None
        around = filter(None, dict.fromkeys([bos, eos]))
        used = [(text, self.backend.token_to_id(text)) for text in around]
        single = [f"{bos}:0"] * bool(bos) + ["$A:0"] + [f"{eos}:0"] * bool(eos)
        pair = single + [f"{bos}:1"] * bool(bos) + ["$B:1"] + [f"{eos}:1"] * bool(eos)
        self.backend.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=used
        )
        self.config |= {"add_bos_token": bool(bos), "add_eos_token": bool(eos)}

    # -- text to ids -------------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]:
        """Ids of a text. `special=True` reads control tokens written in it (a rendered chat
        template, never a user's words).

        `add_bos`: None frames the text as the tokenizer's own files say, True puts one bos in
        front, False adds nothing."""
        return self.encode_batch([text], special=special, add_bos=add_bos)[0]

    def encode_batch(
        self, texts: Sequence[str], *, special: bool = False, add_bos: bool | None = None
    ) -> list[list[int]]:
        """`encode` of many texts, in parallel on all cores."""
        with self._lock:  # the flag is a property of the shared backend
            backend = self.backend if special or self._splits_specials else self._plain
            backend.encode_special_tokens = not special
            made = backend.encode_batch_fast(
                [whole(text) for text in texts], add_special_tokens=add_bos is None
            )
        rows = [row.ids for row in made]
        bos = self.bos_id
        if not add_bos:
            return rows
        if bos is None:
            raise DaedalError("This tokenizer has no bos_token; encode with add_bos=False.")
        return [[bos, *row] for row in rows]

    def encode_trusted(self, text: str, guard: str) -> tuple[list[int], list[int]]:
        """Ids of a text whose control tokens are read, nothing added, and where each id begins. A
        control token with a `guard` inside is characters as any other; guards do not count."""
        text = whole(text)
        backend, places = self.backend, range(len(text) + 1)
        if guard in text:
            backend, text, places = self._marked, *self._mark(text, guard)
        with self._lock:
            backend.encode_special_tokens = False
            row = backend.encode(text, add_special_tokens=False)
        return row.ids, [places[start] for start, _ in row.offsets]

    def _mark(self, text: str, guard: str) -> tuple[str, list[int]]:
        """The text without guards, its control tokens as `_marked` has them, and for each character
        its place in the text without guards."""
        marks = {token: _mark_of(i) for i, token in enumerate(self.special_tokens)}
        out, places, at = "", [], 0
        for run in re.split(f"({self.special_pattern.pattern})", text):
            run = run.replace(guard, "") if run not in marks else run
            out += marks.get(run, run)
            places += range(at, at + len(marks.get(run, run)))
            at += len(run)
        return out, [*places, at]

    @cached_property
    def _splits_specials(self) -> bool:
        """Whether the backend itself keeps control tokens out of plain text. BPE does, when no
        merge builds one from characters."""
        if not isinstance(self.backend.model, models.BPE):
            return False
        self.backend.encode_special_tokens = True
        rows = self.backend.encode_batch_fast(list(self.special_tokens), add_special_tokens=False)
        pairs = zip(self.special_tokens.values(), rows, strict=True)
        return not any(index in row.ids for index, row in pairs)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer without special tokens: a unigram or word model would find `</s>` in a
        text by itself, as a word of its list."""
        return self._renamed(keep=False)

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        """The same tokenizer whose control tokens are spelled as marks that no text has."""
        return self._renamed(keep=True)

    def _renamed(self, keep: bool) -> tokenizers.Tokenizer:
        state = json.loads(self.backend.to_str())
        marks = {text: _mark_of(i) for i, text in enumerate(self.special_tokens)}
        state["added_tokens"] = [
            {**token, "content": marks.get(token["content"], token["content"])}
            for token in state["added_tokens"]
            if keep or not token["special"]
        ]
        vocabulary = state["model"]["vocab"]
        if (unknown := state["model"].get("unk_token")) in marks:
            state["model"]["unk_token"] = marks[unknown]
        if merges := state["model"].get("merges"):  # those that build one are no more
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
            state["model"]["merges"] = [
                pair for pair in pairs if not marks.keys() & {*pair, "".join(pair)}
            ]
        by_name = isinstance(vocabulary, dict)
        pairs = [(marks.get(t, t), n) for t, n in (vocabulary.items() if by_name else vocabulary)]
        state["model"]["vocab"] = dict(pairs) if by_name else pairs
        return tokenizers.Tokenizer.from_str(json.dumps(state))

    # -- ids to text -------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of a whole id sequence; bytes that are no UTF-8 become U+FFFD."""
        from daedal.data.detokenizer import Detokenizer

        stream = Detokenizer(self, skip_special=skip_special)
        return "".join([stream.push(i) for i in ids]) + stream.flush()

    # -- what there is -----------------------------------------------------------------------------

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens, text to id."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches any control token, longest first; matches nothing when there are none."""
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def token(self, index: int) -> str | None:
        """The token as its file writes it (`Ġthe`, `▁the`, `<0x0A>`); None for an id that is not
        used."""
        return self.backend.id_to_token(index)

    def token_id(self, text: str) -> int | None:
        """Id of the token written `text`, None when there is no such token."""
        return self.backend.token_to_id(text)

    def _id(self, role: str) -> int | None:
        return self.backend.token_to_id(self.roles[role]) if role in self.roles else None

    @property
    def bos_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self.eos_ids[0] if self.eos_ids else None

    @property
    def unk_id(self) -> int | None:
        """The id of what has none, in vocabularies without bytes."""
        return self._id("unk_token")

    @property
    def pad_id(self) -> int:
        """The padding id; masked everywhere, so without one any id serves: eos, else 0."""
        pad = self._id("pad_token")
        return pad if pad is not None else (self.eos_id or 0)


def whole(text: str) -> str:
    """A text without halves of characters, which JSON and broken files can hold and no tokenizer
    takes: U+FFFD, a character for each."""
    return text if text.isascii() else HALVES.sub("\ufffd", text)


def _mark_of(number: int) -> str:
    """A noncharacter and one for private use: no text has them."""
    return f"\U0010fffe{chr(0x100000 + number)}"


def _parts(text: str, size: int = 1 << 16) -> list[str]:
    """A long text in parts for all cores. The cuts are where a line starts with a word or sign,
    which SPLIT cuts too, so nothing changes."""
    cuts = [0]
    while cuts[-1] + size < len(text) and (found := LINE_START.search(text, cuts[-1] + size)):
        cuts.append(found.start())
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DaedalError(f"{path} is not valid JSON ({error}); download it again.") from error


def _read_template(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja wins over tokenizer_config.json, where a list of named templates means
    its `default`."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    apart = _read_json(folder / "chat_template.json")
    template = config.get("chat_template") or apart.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in reversed(template)}
        return named.get("default")
    return template


def _read_backend(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The backend of a folder or file, and the roles that the file itself knows."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json") if path.is_dir() else (path.name,)
    folder = path if path.is_dir() else path.parent
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DaedalError(
            f"No tokenizer in {path}: it needs tokenizer.json, tokenizer.model, or vocab.json with merges.txt."
        )
    if found.suffix == ".model":
        return _from_sentencepiece(found)
    try:
        if found.name == "vocab.json":
            return _from_gpt2(found)
        return tokenizers.Tokenizer.from_file(str(found)), {}
    except DaedalError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise DaedalError(
            f"{found} is not a tokenizer that can be read ({error}); download it again."
        ) from error


def _from_sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    from daedal.data import sentencepiece

    model = sentencepiece.read(path)
    ids = {"bos_token": model.bos_id, "eos_token": model.eos_id, "pad_token": model.pad_id}
    roles = {role: text for role, index in ids.items() if (text := model.piece(index))}
    return sentencepiece.build(model), roles


def _from_gpt2(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise DaedalError(f"{path} has no merges.txt beside it; copy both files of the tokenizer.")
    vocab, pairs = models.BPE.read_file(str(path), str(merges))
    if any(piece.endswith("</w>") for piece in vocab):
        return _clip(vocab, pairs)
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    end = "<|endoftext|>"
    known = backend.token_to_id(end) is not None
    return backend, {"bos_token": end, "eos_token": end} if known else {}


def _clip(
    vocab: dict[str, int], merges: list[tuple[str, str]]
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """CLIP's BPE (Radford et al. 2021): lower case, spaces dropped, the end of a word marked, every
    text framed."""
    first, end = "<|startoftext|>", "<|endoftext|>"
    options = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": False}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=end, **options))
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    steps = [normalizers.NFC(), spaces, normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(steps)
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(words), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        (end, vocab[end]), (first, vocab[first]), False, False
    )
    return backend, {"bos_token": first, "eos_token": end, "unk_token": end, "pad_token": end}
