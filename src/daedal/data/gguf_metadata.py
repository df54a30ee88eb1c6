"""A tokenizer as the metadata of a GGUF file: the way back of daedal.data.gguf_tokenizer."""

import json
from collections.abc import Iterator
from typing import Any

from daedal.data.gguf_tokenizer import (
    BYTE,
    CONTROL,
    GPT2,
    KEY,
    NORMAL,
    PRE,
    ROLES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WHOLE,
)
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

NEAREST = "dbrx"  # cuts like GPT-4, as most do
PLAIN_NORMALIZERS = {"Sequence", "Replace", "Prepend"}  # of SentencePiece's own


def metadata_of(tokenizer: Tokenizer, size: int) -> tuple[dict[str, Any], str]:
    """The metadata of a tokenizer for a model of `size` embeddings, and what other tools will do
    otherwise than this one ("" if nothing)."""
    state = json.loads(tokenizer.backend.to_str())
    if state["model"]["type"] != "BPE":
        raise DaedalError(
            f"a GGUF file holds BPE tokenizers, and this one is of kind {state['model']['type']}; keep the model as a folder."
        )
    byte_level = "ByteLevel" in {step["type"] for step in steps(state["decoder"], "decoders")}
    found, remark = byte_level_keys(state) if byte_level else (scored_keys(state, size), "")
    kinds = kinds_of(tokenizer, size, byte_level)
    tokens = [tokenizer.token(i) or f"[PAD{i}]" for i in range(size)]
    out = {f"{KEY}tokens": tokens, f"{KEY}token_type": kinds}
    return out | found | framing(tokenizer), remark


def steps(node: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder."""
    return [] if node is None else node.get(inner, [node])


def kinds_of(tokenizer: Tokenizer, size: int, byte_level: bool) -> list[int]:
    added = tokenizer.backend.get_added_tokens_decoder()

    def kind(index: int) -> int:
        text = tokenizer.token(index)
        if text is None:
            return UNUSED
        if index == tokenizer.unk_id and not byte_level:
            return UNKNOWN
        if index in added:
            return CONTROL if added[index].special else USER_DEFINED
        is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        return BYTE if is_byte and not byte_level else NORMAL

    return [kind(index) for index in range(size)]


def framing(tokenizer: Tokenizer) -> dict[str, Any]:
    """Roles of tokens, what stands around a text, and the chat template."""
    ids: dict[str, int | None] = {
        name: tokenizer.token_id(tokenizer.roles[role])
        for name, role in ROLES.items()
        if role in tokenizer.roles
    }
    ids["eos"] = tokenizer.eos_id
    ids |= dict(zip(("eot", "eom"), tokenizer.eos_ids[1:], strict=False))
    bare, framed = tokenizer.encode("a", add_bos=False), tokenizer.encode("a")
    out: dict[str, Any] = {f"{KEY}{name}_token_id": i for name, i in ids.items() if i is not None}
    out[f"{KEY}add_bos_token"] = framed[: len(framed) - len(bare)][:1] == [tokenizer.bos_id]
    out[f"{KEY}add_eos_token"] = framed[-1:] != bare[-1:]
    template = tokenizer.chat_template
    return out | ({"tokenizer.chat_template": template} if template else {})


# A byte-level BPE: tokens, merges, and a name for how text is cut before.


def byte_level_keys(state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Where llama.cpp has no name for how text is cut, the nearest, and the whole tokenizer.json as
    the format's specification allows; then other tools may cut some texts otherwise."""
    merges = [" ".join(pair) for pair in state["model"]["merges"]]
    found = {f"{KEY}model": "gpt2", f"{KEY}merges": merges}
    if name := pre_of(state):
        return found | {f"{KEY}pre": name}, ""
    found |= {f"{KEY}pre": NEAREST, WHOLE: json.dumps(state, ensure_ascii=False)}
    return found, (
        f"llama.cpp has no name for how this tokenizer cuts text; the file says {NEAREST!r}, so llama.cpp cuts some texts otherwise"
    )


def pre_of(state: dict[str, Any]) -> str:
    """llama.cpp's name of a pre-tokenizer, "" if it has none."""
    splits, whole = tuple(splits_of(state)), state["model"].get("ignore_merges", False)
    normal = {step["type"] for step in steps(state["normalizer"], "normalizers")}
    alike = [
        pre for pre in PRE if pre.splits == splits and normal <= {"NFC"} and bool(normal) <= pre.nfc
    ]
    alike.sort(key=lambda pre: (pre.ignore_merges != whole, pre.nfc != bool(normal)))
    return PRE[alike[0]].split()[0] if alike and alike[0].ignore_merges == whole else ""


def splits_of(state: dict[str, Any]) -> Iterator[str]:
    """The expressions that a pre-tokenizer cuts by, one after another."""
    for step in steps(state["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Split":
            yield step["pattern"].get("Regex", "")
        elif step["type"] == "Digits" and step["individual_digits"]:
            yield r"\p{N}"
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            yield from (GPT2,) if step["use_regex"] else ()
        else:
            yield f"a step that llama.cpp does not know: {step['type']}"


# A SentencePiece BPE: tokens and scores.


def scored_keys(state: dict[str, Any], size: int) -> dict[str, Any]:
    """The score of a token is the rank of the first merge that makes it."""
    normal = steps(state["normalizer"], "normalizers")
    if strange := sorted({step["type"] for step in normal} - PLAIN_NORMALIZERS):
        raise DaedalError(
            f"a GGUF file has no words for the normaliser {', '.join(strange)} of this tokenizer; keep the model as a folder."
        )
    model, ranks = state["model"], dict[str, int]()
    for rank, (left, right) in enumerate(model["merges"]):
        ranks.setdefault(left + right, rank)
    scores = [0.0] * size
    for token, index in model["vocab"].items():
        scores[index] = -float(ranks.get(token, 0))
    dummy = any(step["type"] == "Prepend" for step in normal) or any(
        step.get("prepend_scheme", "never") != "never"
        for step in steps(state["pre_tokenizer"], "pretokenizers")
    )
    found = {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": dummy}
    return {f"{KEY}{name}": value for name, value in found.items()}
