"""The tokenizer that a GGUF file's metadata describe, as one of the `tokenizers` library.

`tokenizer.ggml.model` says which kind: "gpt2" is a byte-level BPE, whose pre-tokenizer is only named
(`tokenizer.ggml.pre`), "llama" a SentencePiece BPE by scores. llama.cpp knows the expressions behind
the names, and so does the table here: those of the tokenizer.json that each name stands for. A file
may hold the tokenizer.json itself; then that is it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from daedal.checkpoints.gguf_config import token_id
from daedal.data import sentencepiece
from daedal.errors import DaedalError, nearest

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = ("gpt2", "llama")
ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
KEY = "tokenizer.ggml."
WHOLE = "tokenizer.huggingface.json"

# Expressions that cut text before BPE.

CLITIC = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
HAN = "[一-龥ࠀ-一가-\ud7ff]+"


def words(digits: str, clitic: str = CLITIC) -> str:
    """GPT-4's expression, with digits cut as Llama 3, Qwen 2 and others cut them."""
    return (
        rf"{clitic}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
    )


def cased(digits: str, clitic: str) -> str:
    """GPT-4o's and Tekken's: words are also cut where lower case turns to upper."""
    first = r"[^\r\n\p{L}\p{N}]?"
    letters = f"{first}[{UPPER}]*[{LOWER}]+{clitic}|{first}[{UPPER}]+[{LOWER}]*{clitic}"
    return rf"{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"


@dataclass(frozen=True)
class Pre:
    """A pre-tokenizer: expressions applied one after another; whether a word that is a token is
    not cut; whether text begins with bos where the file does not say; whether the original
    normalises text to NFC."""

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


LLAMA3 = (words(r"\p{N}{1,3}"),)
DIGITS = (r"\p{N}", GPT2)
DEEPSEEK3 = (
    r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|""" + SPACES,
)  # fmt: skip
DEEPSEEK = (
    r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", HAN, r"\p{N}+",
)  # fmt: skip
PRE = {
    Pre((GPT2,)): "gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum granite-docling",
    Pre(DIGITS): "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
    Pre(LLAMA3, ignore_merges=True, add_bos=True): "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    Pre(LLAMA3): "dbrx smaug-bpe glm4 chatglm-bpe",
    Pre((words(r"\p{N}"),), nfc=True): "qwen2 deepseek-r1-qwen megrez",
    Pre((words(r"\p{N}"),)): "stablelm2 hunyuan solar-open grok-2 kormo",
    Pre((cased(r"\p{N}", ""),), ignore_merges=True, add_bos=True): "tekken",
    Pre((cased(r"\p{N}{1,3}", f"{CLITIC}?"),)): "gpt-4o llama4 kanana2 minimax-m2",
    Pre(DEEPSEEK): "deepseek-llm",
    Pre((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, r"\p{N}")): "deepseek-coder",
    Pre(DEEPSEEK3): "deepseek-v3 hunyuan-dense joyai-llm",
    Pre((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")): "falcon",
    Pre((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")): "default",
    Pre((r" ?[^(\s|.,!?…。，、।۔،)]+",)): "poro-chat bloom gpt3-finnish",
    Pre((r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}")): "viking",
}  # fmt: skip
PRE_TOKENIZERS = {name: pre for pre, names in PRE.items() for name in names.split()}


@dataclass(frozen=True)
class Parts:
    """What a `Tokenizer` is made of."""

    backend: tokenizers.Tokenizer
    roles: dict[str, str]
    chat_template: str | None
    add_bos: bool
    add_eos: bool


def read(metadata: dict[str, Any], path: Any) -> Parts:
    """The tokenizer of a file's metadata; `path` names the file in errors."""
    kind, tokens = metadata.get(f"{KEY}model"), metadata.get(f"{KEY}tokens")
    if kind is None or not tokens:
        raise DaedalError(
            f"{path} holds no tokenizer; take a file that has one, as those that llama.cpp writes do."
        )
    if kind not in KINDS:
        raise DaedalError(
            f"{path} has a tokenizer of kind {kind!r}, which Daedal does not read from GGUF{nearest(kind, KINDS)}; it reads {' and '.join(KINDS)}."
        )
    whole = metadata.get(WHOLE)
    pre = pre_tokenizer(metadata, path) if kind == "gpt2" else Pre((), add_bos=True)
    try:
        if whole:
            backend = tokenizers.Tokenizer.from_str(whole)
        else:
            backend = bpe(metadata, pre) if kind == "gpt2" else scored(metadata)
    except Exception as error:  # the Rust side raises bare Exception
        raise DaedalError(
            f"the tokenizer of {path} cannot be read ({error}); download the file again."
        ) from error
    ids = {role: token_id(metadata, name) for name, role in ROLES.items()}
    return Parts(
        backend,
        {role: tokens[i] for role, i in ids.items() if i is not None},
        metadata.get("tokenizer.chat_template"),
        metadata.get(f"{KEY}add_bos_token", pre.add_bos),
        metadata.get(f"{KEY}add_eos_token", False),
    )


def pre_tokenizer(metadata: Mapping[str, Any], path: Any) -> Pre:
    """Files of before April 2024 name none, which llama.cpp takes for "default"."""
    name = metadata.get(f"{KEY}pre", "default")
    if name not in PRE_TOKENIZERS:
        known = sorted(PRE_TOKENIZERS)
        raise DaedalError(
            f"{path} wants the pre-tokenizer {name!r}, which Daedal does not know{nearest(name, known)}; it knows {', '.join(known)}."
        )
    return PRE_TOKENIZERS[name]


def bpe(metadata: Mapping[str, Any], pre: Pre) -> tokenizers.Tokenizer:
    """A byte-level BPE. A merge is two tokens around a space, which either may begin with."""
    tokens = metadata[f"{KEY}tokens"]
    merges = [(pair[: (cut := pair.index(" ", 1))], pair[cut + 1 :])
              for pair in metadata.get(f"{KEY}merges", [])]  # fmt: skip
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(tokenizers.Regex(split), "isolated") for split in pre.splits]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    add(backend, tokens, metadata.get(f"{KEY}token_type") or [])
    return backend


def add(backend: tokenizers.Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Control tokens, which are read where the caller says so, and user-defined ones, which always
    are."""
    of = list(zip(tokens, kinds, strict=False))
    control = [token for token, kind in of if kind in (CONTROL, UNKNOWN)]
    symbols = [token for token, kind in of if kind == USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in symbols])


def scored(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A SentencePiece BPE; its kinds of pieces are numbered as in SentencePiece's own files."""
    tokens = metadata[f"{KEY}tokens"]
    kinds = metadata.get(f"{KEY}token_type") or [NORMAL] * len(tokens)
    scores = metadata.get(f"{KEY}scores") or [0.0] * len(tokens)
    return sentencepiece.build(sentencepiece.Model(
        pieces=list(zip(tokens, map(float, scores), kinds, strict=True)),
        algorithm=sentencepiece.BPE,
        byte_fallback=BYTE in kinds,
        charsmap=bytes(metadata.get(f"{KEY}precompiled_charsmap") or b""),
        add_dummy_prefix=metadata.get(f"{KEY}add_space_prefix", True),
        remove_extra_whitespaces=metadata.get(f"{KEY}remove_extra_whitespaces", False),
    ))  # fmt: skip
