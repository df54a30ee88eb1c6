"""Texts as vectors: an encoder of sentences (BERT, RoBERTa, XLM-RoBERTa, MPNet, ModernBERT) and
what a sentence-transformers folder says comes behind it.

    embedder = daedal.load("sentence-transformers/all-MiniLM-L6-v2")
    embedder.embed(["a cat", "a dog"])     # (2, 384) float32; normalised where the folder says so

Legend: N texts, D width.
"""

import io
import json
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints.files import tensors
from daedal.data.tokenizer import Tokenizer
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError, nearest
from daedal.networks import class_name
from daedal.nn.linear import Linear
from daedal.pipelines.medium import SteppedHandle

KINDS = ("Bert", "Roberta", "XLMRoberta", "MPNet", "ModernBert")
TOKENS = 4096  # of a batch: enough for the matrix units, few enough for the cache
# sentence-transformers' flags -> from states (T, D) of one text to its vector (D,)
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooling_mode_cls_token": lambda x: x[0],
    "pooling_mode_mean_tokens": lambda x: x.mean(0),
    "pooling_mode_max_tokens": lambda x: x.amax(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "pooling_mode_weightedmean_tokens": lambda x: weighted(x),
    "pooling_mode_lasttoken": lambda x: x[-1],
}
ACTIVATIONS = {"Tanh": torch.tanh, "Identity": lambda x: x, "ReLU": F.relu, "GELU": F.gelu}


def weighted(x: Tensor) -> Tensor:
    """Later tokens count more (Muennighoff 2022)."""
    weight = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)[:, None]
    return (x * weight).sum(0) / weight.sum()


def holds(path: Path) -> bool:
    """Whether a folder is an encoder of sentences."""
    folder = inner(path)
    if not (folder / "config.json").is_file():
        return False
    return class_name(read(folder / "config.json")).startswith(
        tuple(f"{kind}{end}" for kind in KINDS for end in ("Model", "For"))
    )


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def inner(folder: Path) -> Path:
    """Where the encoder lies: old folders of sentence-transformers have it in `0_Transformer`."""
    return folder / "0_Transformer" if (folder / "0_Transformer").is_dir() else folder


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> "Embedder":
    """The embedder of a folder or Hub name. It computes in fp32 unless told otherwise, as other
    tools do whose vectors it is compared with."""
    where = machine.pick_device(device)
    folder = checkpoints.resolve(name_or_folder)
    network = checkpoints.load(inner(folder), dtype=torch.float32, device=where)
    kind = machine.compute_dtype("fp32" if dtype == "auto" else dtype, where)
    network.compute_dtype = None if kind == torch.float32 else kind
    return Embedder(network, Tokenizer.load(inner(folder)), folder, str(name_or_folder))


class Embedder:
    """Sentences in, vectors out. Of a plain encoder's folder the states are averaged."""

    def __init__(self, network: Any, tokenizer: Tokenizer, folder: Path, name: str) -> None:
        self.network, self.tokenizer, self.folder, self.name = network, tokenizer, folder, name
        modules: Any = read(folder / "modules.json") or []
        self.steps = [step for module in modules for step in self.step(module)]
        if not modules:
            self.steps = [Pooling({"pooling_mode_mean_tokens": True})]
        limits = read(inner(folder) / "sentence_bert_config.json") | read(
            folder / "sentence_bert_config.json"
        )
        self.lane = GeneratorLane()
        self.lowers = bool(limits.get("do_lower_case"))
        self.context = min(
            limits.get("max_seq_length") or network.config.context, network.config.context
        )
        said = read(folder / "config_sentence_transformers.json")
        self.prompts, self.prompt = said.get("prompts") or {}, said.get("default_prompt_name")

    def step(self, module: dict[str, str]) -> list[nn.Module]:
        """What a line of modules.json stands for."""
        kind, place = module["type"].rpartition(".")[2], self.folder / module.get("path", "")
        if kind == "Transformer":
            return []
        if kind == "Pooling":
            return [Pooling(read(place / "config.json"))]
        if kind == "Normalize":
            return [Normalize()]
        if kind == "Dense":
            return [dense_of(place).to(next(self.network.parameters()).device)]
        raise DaedalError(
            f"{self.folder} has a module {kind!r} behind its encoder, which Daedal does not know; it knows Pooling, Dense and Normalize."
        )

    def embed(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Texts -> (N, D) float32, or one text -> (D,). Longer texts are cut at `context` tokens.
        `prompt` names one of the folder's own prompts ("query", "document"), else its default."""
        if isinstance(texts, str):
            return self.embed([texts], prompt, on_progress)[0]
        handle = self.start(texts, prompt)
        for done, total in handle:
            if on_progress:
                on_progress(done, total)
        return handle.results()[0]

    def start(
        self, texts: Sequence[str], prompt: str | None = None, *, client: str = ""
    ) -> "Embedding":
        """The same as a handle that any thread may use: a step is a batch of texts."""
        if strange := [text for text in texts if not isinstance(text, str)]:
            raise DaedalError(f"{strange[0]!r} is no text; give strings.")
        front = self.front(prompt)
        return self.start_rows(self.encode([front + text for text in texts]), client=client)

    def start_rows(self, rows: list[list[int]], *, client: str = "") -> "Embedding":
        """The same of rows of token ids."""
        return Embedding(self.lane.submit(Generation(self.batched(rows), client=client)), rows)

    def batched(self, rows: list[list[int]]) -> Generator[tuple[int, int], None, np.ndarray]:
        """Vectors (N, D) of rows, a batch a step, shortest rows first."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        done, parts = 0, [torch.empty(0, self.network.config.hidden_size)]
        for batch in batches(order, rows):
            with torch.inference_mode():
                parts.append(self.vectors([rows[i] for i in batch]).float().cpu())
            done += len(batch)
            yield done, len(rows)
        found = torch.cat(parts[1:] or parts)
        return found[torch.tensor(order, dtype=torch.long).argsort()].numpy()

    def front(self, prompt: str | None) -> str:
        name = prompt if prompt is not None else self.prompt
        if name is None:
            return ""
        if name not in self.prompts:
            there = ", ".join(self.prompts) or "none"
            raise DaedalError(
                f"{name!r} is not a prompt of {self.name}{nearest(name, list(self.prompts))}; it has {there}."
            )
        return self.prompts[name]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text with the marks around it, cut so that these stay."""
        texts = [text.lower() if self.lowers else text for text in texts]
        rows = self.tokenizer.encode_batch(texts)
        return [
            row if len(row) <= self.context else [*row[: self.context - 1], row[-1]] for row in rows
        ]

    @cached_property
    def table(self) -> Tensor:
        """(V, D) what the network knows of each token by itself, centred: without that all of them
        are near to one another."""
        tables = (each for each in self.network.modules() if isinstance(each, nn.Embedding))
        table = next(tables).weight.detach().float().cpu()
        return table - table.mean(0)

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        """Words -> (N, D) float32 of length one: the mean of their tokens' vectors, without a pass
        through the network."""
        rows = [row[1:-1] or row for row in self.encode(list(words))]
        sizes = torch.tensor([len(row) for row in rows])
        flat = self.table[torch.tensor([i for row in rows for i in row])]
        owner = torch.arange(len(rows)).repeat_interleave(sizes)
        sums = torch.zeros(len(rows), flat.shape[1]).index_add_(0, owner, flat)
        return F.normalize(sums, dim=-1).numpy()

    def vectors(self, rows: list[list[int]]) -> Tensor:
        """Rows in order of their sizes -> (B, D)."""
        device = next(self.network.parameters()).device
        sizes = [len(row) for row in rows]
        flat = torch.tensor([i for row in rows for i in row], device=device)
        x: Any = self.network(flat, sizes).float().split(sizes)
        for step in self.steps:
            x = step(x)
        return x


class DecoderEmbedder(Embedder):
    """The states of a language model as vectors: the mean of the last layer's, normalised. Weaker
    than an encoder that was trained for it, and there wherever a language model is."""

    def __init__(self, network: Any, tokenizer: Tokenizer, name: str) -> None:
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.lane, self.lowers, self.prompts, self.prompt = GeneratorLane(), False, {}, None
        self.context = network.config.max_position_embeddings

    def vectors(self, rows: list[list[int]]) -> Tensor:
        device = self.network.embed_tokens.weight.device
        states = [self.network.hidden(torch.tensor([row], device=device))[0] for row in rows]
        return F.normalize(torch.stack([x.float().mean(0) for x in states]), dim=-1)


class Embedding(SteppedHandle):
    """Vectors under way. `tokens`: how many tokens they are made of."""

    def __init__(self, generation: Generation, rows: list[list[int]]) -> None:
        super().__init__(generation)
        self.tokens = sum(map(len, rows))

    def event(self, state: tuple[int, int]) -> tuple[int, int]:
        return state

    def results(self) -> list[np.ndarray]:
        """One array (N, D) float32."""
        return [self.value()]


def archive(texts: list[str], vectors: np.ndarray) -> bytes:
    """The bytes of an .npz: `texts` (N,), `embeddings` (N, D)."""
    buffer = io.BytesIO()
    np.savez(buffer, texts=np.array(texts), embeddings=vectors)
    return buffer.getvalue()


def batches(order: list[int], rows: list[list[int]]) -> list[list[int]]:
    """Numbers of rows, shortest first, in batches of about TOKENS tokens."""
    out: list[list[int]] = []
    room = 0
    for i in order:
        if room < len(rows[i]) or not out:
            out.append([])
            room = max(TOKENS, len(rows[i]))
        out[-1].append(i)
        room -= len(rows[i])
    return out


class Pooling(nn.Module):
    """States of each text -> vectors (B, D); several ways stand side by side."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        mode = config.get("pooling_mode")  # written by some versions
        asked = {key for key in POOLINGS if config.get(key)} or (
            {key for key in POOLINGS if mode and key.startswith(f"pooling_mode_{mode}")}
        )
        if not asked:
            raise DaedalError(
                f"the folder's pooling ({config}) is none that Daedal knows; it knows {', '.join(POOLINGS)}."
            )
        self.ways = [POOLINGS[key] for key in POOLINGS if key in asked]

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([torch.cat([way(x) for way in self.ways]) for x in states])


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Dense(Linear):
    """A projection and its activation."""

    activation: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def dense_of(folder: Path) -> Dense:
    config = read(folder / "config.json")
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise DaedalError(
            f"{folder} has the activation {name!r}{nearest(name, list(ACTIVATIONS))}; Daedal knows {', '.join(ACTIVATIONS)}."
        )
    layer = Dense(config["in_features"], config["out_features"], config.get("bias", True))
    layer.activation = ACTIVATIONS[name]
    layer.load_state_dict({key.removeprefix("linear."): t for key, t in tensors(folder)})
    return layer.requires_grad_(False)
