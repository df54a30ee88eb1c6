"""Textual inversion (Gal et al. 2023): a few learned vectors that stand for a word in a prompt.

    embedding = read_embedding("cat.safetensors")
    tokenizers = add_embedding(embedding, parts, {"text_encoder": tokenizer})     #
    parts["text_encoder"] has new rows
    tokenizers["text_encoder"].encode("a photo of <cat>")                         # its token is as
    many ids as there are vectors

Legend: N vectors, D width of a text tower."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, normalizers
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from daedal.checkpoints import files
from daedal.errors import DaedalError

if TYPE_CHECKING:
    from daedal.data.tokenizer import Tokenizer

ADDED = "textual_inversion"  # key of tokenizer_config.json: token -> its ids
# in a tower's config: pool at the highest id, which the end of text is no more once there are new
# tokens
UNMENDED_EOS = 2


@dataclass(frozen=True)
class Embedding:
    """`vectors` has one (N, D) for each text tower that the embedding is for, by its width D."""

    token: str
    vectors: dict[int, Tensor]


def read_embedding(
    path: str | Path, token: str | None = None, allow_pickle: bool = False
) -> Embedding:
    """The embedding of a file: {token: vectors}, AUTOMATIC1111's string_to_param or emb_params,
    SDXL's clip_l and clip_g. `token` is what it is called in prompts (None: as the file says, or
    the file's name). Pickled files are refused unless asked for, and then read as tensors only."""
    path = Path(path)
    if not path.is_file():
        raise DaedalError(
            f"{path} is not a file; give a textual-inversion embedding (.safetensors, .pt or .bin)."
        )
    state = read(path, allow_pickle)
    name: str | None = state.pop("name", None) if isinstance(state.get("name"), str) else None
    state = dict(state["string_to_param"].items()) if "string_to_param" in state else state
    tensors = {key: tensor.detach() for key, tensor in state.items() if isinstance(tensor, Tensor)}
    if len(tensors) == 1:
        name = name or next((key for key in tensors if key not in ("*", "emb_params")), None)
    vectors = [tensor[None] if tensor.dim() == 1 else tensor for tensor in tensors.values()]
    if (
        not vectors
        or any(tensor.dim() != 2 for tensor in vectors)
        or len({len(tensor) for tensor in vectors}) != 1
    ):
        shapes = (
            ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in list(tensors.items())[:6])
            or "no tensors"
        )
        raise DaedalError(
            f"{path} holds {shapes}, not the vectors of one token; it is no textual-inversion embedding."
        )
    return Embedding(token or name or path.stem, {tensor.shape[1]: tensor for tensor in vectors})


def save_embedding(embedding: Embedding, path: str | Path) -> None:
    """Write {token: vectors}, or for SDXL's two towers clip_l and clip_g with the token in the
    file's metadata."""
    vectors = {
        width: tensor.detach().float().cpu().contiguous()
        for width, tensor in sorted(embedding.vectors.items())
    }
    names = [embedding.token] if len(vectors) == 1 else ["clip_l", "clip_g"]
    # one key: of two the order would vary
    save_file(dict(zip(names, vectors.values(), strict=True)), path, {"token": embedding.token})


def read(path: Path, allow_pickle: bool) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        # in which the first files kept their vectors
        with torch.serialization.safe_globals([nn.ParameterDict]):
            return dict(files.read_pickle(path, allow_pickle))
    tensors, metadata = files.read(path)
    return {**tensors, **({"name": metadata["token"]} if metadata.get("token") else {})}


def add_embedding(
    embedding: Embedding, parts: Mapping[str, Any], tokenizers: Mapping[str, "Tokenizer"]
) -> dict[str, "Tokenizer"]:
    """Give every CLIP text tower in `parts` the rows of `embedding`, and return tokenizers that
    know its token in place of those given under the same names. An embedding for other towers, or a
    token that is there already, is an error, and nothing is changed."""
    towers = {role: part for role, part in parts.items() if hasattr(part, "text_model")}
    widths = {role: tower.config.hidden_size for role, tower in towers.items()}
    if sorted(widths.values()) != sorted(embedding.vectors):
        own, there = listed(embedding.vectors), listed(widths.values())
        raise DaedalError(
            f"the embedding {embedding.token!r} is for text towers of width {own}, and this model has {there}; take one made for it."
        )
    for role in towers:
        if embedding.token in tokenizers[role].config.get(ADDED, {}):
            raise DaedalError(
                f"the token {embedding.token!r} has been added already; read the embedding with another token=."
            )
    extended = dict(tokenizers)
    for role, tower in towers.items():
        vectors = embedding.vectors[widths[role]]
        extended[role], ids = with_token(tokenizers[role], embedding.token, len(vectors))
        add_rows(tower, ids, vectors, extended[role].eos_id)
    return extended


def with_token(tokenizer: "Tokenizer", token: str, count: int) -> tuple["Tokenizer", list[int]]:
    """A tokenizer that encodes `token` as `count` new ids, and the ids. The token is matched as it
    is written, in any case where the tokenizer lower-cases, and where it begins or ends with a
    letter only as a whole word."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    first = tokenizer.vocab_size
    # no text has these; the normalizer writes them for the token
    pieces = [f"\ue000{first + i}\ue001" for i in range(count)]
    backend.add_tokens([AddedToken(piece, normalized=True, special=False) for piece in pieces])
    lowers = backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a"
    pattern = (
        ("(?i)" if lowers else "")
        + (r"(?<!\w)" if re.match(r"\w", token) else "")
        + re.escape(token)
        + (r"(?!\w)" if re.search(r"\w$", token) else "")
    )
    written = normalizers.Replace(Regex(pattern), "".join(pieces))
    backend.normalizer = normalizers.Sequence(
        [written, backend.normalizer] if backend.normalizer else [written]
    )
    ids = [i for piece in pieces if (i := backend.token_to_id(piece)) is not None]
    config = tokenizer.config | {ADDED: tokenizer.config.get(ADDED, {}) | {token: ids}}
    template, kind = tokenizer.chat_template, type(tokenizer)
    return kind(
        backend,
        roles=tokenizer.roles,
        chat_template=template,
        eos_ids=tokenizer.eos_ids,
        config=config,
    ), ids


@torch.no_grad()
def add_rows(tower: Any, ids: list[int], vectors: Tensor, eos: int | None) -> None:
    """Put `vectors` at the rows `ids` of a tower's token embedding, which grows where it must."""
    layer = tower.text_model.embeddings.token_embedding
    old = layer.weight
    weight = torch.zeros(
        max(len(old), ids[-1] + 1), old.shape[1], dtype=old.dtype, device=old.device
    )
    weight[: len(old)] = old
    weight[ids] = vectors.to(weight)
    layer.weight = nn.Parameter(weight, requires_grad=old.requires_grad)
    layer.num_embeddings = len(weight)
    end = eos if tower.text_model.eos == UNMENDED_EOS and eos is not None else tower.text_model.eos
    tower.text_model.eos = end
    tower.config = replace(tower.config, vocab_size=len(weight), eos_token_id=end)


def listed(widths: Any) -> str:
    return " and ".join(map(str, sorted(widths))) or "none"
