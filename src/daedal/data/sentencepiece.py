"""SentencePiece `tokenizer.model` files (Kudo & Richardson 2018), read without the sentencepiece
package.

The file is one protobuf message: pieces with scores, and how text is normalised before it is cut.
`read(path)` parses the few fields that matter; `build(model)` makes an equal pipeline of the
`tokenizers` library, whose ids are the ids of the original. Both algorithms are covered: BPE (the
best-scored pair merges first) and unigram (the best-scored path of pieces wins), each with byte
fallback."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from daedal.checkpoints.protobuf import fields
from daedal.errors import DaedalError

SPACE = "▁"  # U+2581, how a space is written inside a piece
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


@dataclass
class Model:
    """The fields of a SentencePiece ModelProto that decide ids, with the defaults of its schema."""

    # (text, score, kind), the id is the index
    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1

    def named(self, kind: int) -> list[str]:
        return [text for text, _, k in self.pieces if k == kind]

    def piece(self, index: int) -> str | None:
        """The text of piece `index`, None where the model has no such token (-1)."""
        return self.pieces[index][0] if 0 <= index < len(self.pieces) else None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == 1:
            text = value.decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", value)[0]
        elif number == 3:
            kind = value
    return text, score, kind


TRAINER = {
    3: ("algorithm", int),
    35: ("byte_fallback", bool),
    41: ("bos_id", _signed),
    42: ("eos_id", _signed),
    43: ("pad_id", _signed),
}
NORMALIZER = {
    2: ("charsmap", bytes),
    3: ("add_dummy_prefix", bool),
    4: ("remove_extra_whitespaces", bool),
}


def read(path: str | Path) -> Model:
    """Parse a `tokenizer.model` file; DaedalError when it is not one."""
    model = Model()
    try:
        for number, value in fields(Path(path).read_bytes()):
            if number == 1:
                model.pieces.append(_piece(value))
            for sub, content in fields(value) if number in (2, 3) else ():
                name, convert = (TRAINER if number == 2 else NORMALIZER).get(sub, (None, None))
                if name:
                    setattr(model, name, convert(content))
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise DaedalError(
            f"{path} is not a whole SentencePiece model; download it again."
        ) from error
    if not model.pieces or model.algorithm not in (UNIGRAM, BPE):
        raise DaedalError(
            f"{path} holds no BPE or unigram SentencePiece model (algorithm {model.algorithm}, {len(model.pieces)} pieces)."
        )
    return model


def merges(model: Model) -> list[tuple[str, str]]:
    """The merge list of a BPE model: every way to build a piece from two pieces, best-scored piece
    first.

    SentencePiece takes the leftmost of equal pairs. Two ways to build one piece can overlap (`aba`
    from `ab a` or `a ba`): the way that can stand on the left of the other goes first, which is the
    same choice."""
    rank = {text: i for i, (text, _, kind) in enumerate(model.pieces) if kind == NORMAL}
    found = []
    for text, index in rank.items():
        ways = [i for i in range(1, len(text)) if text[:i] in rank and text[i:] in rank]
        ways.sort(key=lambda i: (min(i, len(text) - i), text[i:] != text[: len(text) - i], -i))
        score = model.pieces[index][1]
        found += [((-score, index, order), (text[:i], text[i:])) for order, i in enumerate(ways)]
    return [pair for _, pair in sorted(found)]


def _normalizer(model: Model, prefix: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = (
        [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    )
    if model.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
            normalizers.Replace(tokenizers.Regex("^ | $"), ""),
        ]
    if prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(model: Model) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(
        [*steps, decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else steps
    )


def build(model: Model) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` that cuts text as the SentencePiece model does."""
    unknown = next((i for i, piece in enumerate(model.pieces) if piece[2] == UNKNOWN), 0)
    if model.algorithm == BPE:
        vocabulary = {text: i for i, (text, _, _) in enumerate(model.pieces)}
        core = models.BPE(
            vocabulary,
            merges(model),
            unk_token=model.pieces[unknown][0],
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    else:
        core = models.Unigram(
            [piece[:2] for piece in model.pieces], unk_id=unknown, byte_fallback=model.byte_fallback
        )
    tokenizer = tokenizers.Tokenizer(core)
    # The dummy space stands once, before the whole text. A pre-tokenizer knows where the text
    # starts but will not double a space that is
    # there; a normalizer doubles it but runs again after each user-defined symbol. So: by whether
    # there are such symbols.
    symbols = model.named(USER_DEFINED)
    tokenizer.normalizer = _normalizer(model, prefix=model.add_dummy_prefix and not symbols)
    if model.add_dummy_prefix and symbols:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            SPACE, prepend_scheme="first", split=False
        )
    tokenizer.decoder = _decoder(model)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for text in model.named(UNKNOWN) + model.named(CONTROL)]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=True, special=False) for text in symbols])
    return tokenizer
