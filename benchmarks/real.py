"""Published weights: Daedal against llama.cpp and sentence-transformers, each pair on the same file.

    python benchmarks/real.py                    # everything; 1.5 GB come through the catalogue first
    python benchmarks/real.py --quick            # the two small models, once: see that it runs
    python benchmarks/real.py --parts speed      # speed, perplexity, start, quantise or sentences

The models are `coder`, `gemma-270m` and `minilm` of `daedal models available`; what lies in
DAEDAL_CACHE is not brought again. Speeds are medians over rounds in which both sides take turns, so
that drift of the machine hits both alike. Texts are the first pages of docs/log.md, which grows at
its end only and is younger than the models. A peer that is not installed leaves its cells empty
('daedal[bench]' and sentence-transformers bring them). The last line is JSON.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import daedal
from daedal.checkpoints import catalogue
from daedal.nn import kernels
from daedal.nn.cache import KVCache
from daedal.nn.replay import DecodeReplay

TEXT = Path(__file__).parents[1] / "docs" / "log.md"
WINDOW, PROMPT, BEFORE, DECODED = 1024, 512, 16, 32  # tokens
LANGUAGE = ("gemma-270m", "coder")
RATIOS = {"speed": 1.3, "prefill": 1.2, "sentences": 1.5}


@dataclass
class Row:
    """A line of the table: what was measured, and of whom. `faster` says that less is better."""

    what: str
    ours: float
    theirs: float | None
    unit: str
    asked: str = ""
    faster: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, or what share of theirs it is where neither is speed."""
        if not self.theirs:
            return None
        return self.theirs / self.ours if self.faster else self.ours / self.theirs


def table(rows: Iterable[Row]) -> str:
    lines = ["| what | daedal | peer | ratio | asked |", "|---|---|---|---|---|"]
    for row in rows:
        theirs = "" if row.theirs is None else written(row.theirs, row.unit)
        ratio = "" if row.ratio is None else ratio_of(row)
        ours = written(row.ours, row.unit)
        lines.append(f"| {row.what} | {ours} | {theirs} | {ratio} | {row.asked} |")
    return "\n".join(lines)


def ratio_of(row: Row) -> str:
    assert row.ratio is not None
    return f"{row.ratio - 1:+.2%}" if row.unit == "" else f"{row.ratio:.2f}x"


def written(value: float, unit: str) -> str:
    """A figure with its unit; one without is a perplexity."""
    digits = 3 if unit == "" else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}".rstrip()


# ---- texts ---------------------------------------------------------------------------------------


def windows(ids: list[int], count: int, bos: int | None) -> list[list[int]]:
    """The first `count` windows of WINDOW tokens, each with a bos (or the first token) in front."""
    first, size = (ids[0] if bos is None else bos), WINDOW - 1
    found = [[first, *ids[at : at + size]] for at in range(0, count * size, size)]
    return [row for row in found if len(row) == WINDOW]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Runs of words of mixed length, as sentences have it: the median is 16, one in ten has 45."""
    words, rng = TEXT.read_text(encoding="utf-8").split(), random.Random(seed)
    sizes = [min(200, 1 + round(rng.lognormvariate(2.75, 0.8))) for _ in range(count)]
    starts = [rng.randrange(len(words) - 200) for _ in sizes]
    return [" ".join(words[at : at + size]) for at, size in zip(starts, sizes, strict=True)]


def perplexity(logits: Callable[[list[int]], Tensor], rows: list[list[int]]) -> float:
    """Of the tokens behind the first of each row; `logits` gives (T, V) of a row."""
    total = sum(
        F.cross_entropy(logits(row)[:-1], torch.tensor(row[1:]), reduction="sum").item()
        for row in rows
    )
    return float(np.exp(total / sum(len(row) - 1 for row in rows)))


# ---- the two sides -------------------------------------------------------------------------------


class Ours:
    """A text model as `daedal.load` gives it."""

    def __init__(self, name: str, dtype: str = "auto") -> None:
        pipeline = daedal.load(name, dtype=dtype)
        self.network, self.tokenizer = pipeline.network, pipeline.tokenizer
        self.cache = KVCache(self.network.config, 1, WINDOW)
        self.step = DecodeReplay(self.network, self.cache, 1)

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """(T, V) fp32."""
        hidden = self.network.hidden(torch.tensor([ids]))[0]
        return torch.cat([self.network.head(part).float() for part in hidden.split(128)])

    @torch.inference_mode()
    def prefill(self, ids: list[int]) -> Tensor:
        """The logits behind the last token, (V,)."""
        self.cache.lengths = [0]
        step = self.cache.step([(0, len(ids))])
        return self.network.head(self.network.hidden(torch.tensor([ids]), cache=step)[:, -1:])

    def decode(self, ids: list[int]) -> None:
        for token in ids:
            self.step([token], [0])


class Theirs:
    """llama.cpp on a GGUF file, all logits kept where `whole`, keys and values in fp32 where
    `exact`."""

    def __init__(self, path: Path, whole: bool = False, exact: bool = False) -> None:
        import llama_cpp

        threads = torch.get_num_threads()
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=WINDOW, n_batch=WINDOW if whole else PROMPT, n_threads=threads,
            n_threads_batch=threads, logits_all=whole, verbose=False, **(dict(type_k=0, type_v=0) if exact else {}),
        )  # fmt: skip

    def logits(self, ids: list[int]) -> Tensor:
        self.prefill(ids)
        return torch.from_numpy(np.array(self.llama.scores[: len(ids)]))

    def prefill(self, ids: list[int]) -> None:
        self.llama.reset()
        self.llama.eval(ids)

    def decode(self, ids: list[int]) -> None:
        for token in ids:
            self.llama.eval([token])


def installed(name: str) -> bool:
    return find_spec(name) is not None


def clock(call: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Seconds of each call, which take turns; the first round warms up and does not count."""
    taken = [{name: call() for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: statistics.median(turn[name] for turn in taken[1:]) for name in calls}


# ---- the parts -----------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> list[Row]:
    return [row for name in options.models for row in speed_of(name, options.rounds)]


def speed_of(name: str, rounds: int) -> list[Row]:
    """Tokens a second at batch 1 behind a short prompt, and of a prompt (last logits only)."""
    systems: dict[str, Any] = {"ours": Ours(name)}
    if installed("llama_cpp"):
        systems["theirs"] = Theirs(place(name))
    rng = random.Random(0)
    ids = [rng.randrange(1000, 30000) for _ in range(PROMPT)]

    def decode(system: Any) -> float:
        system.prefill(ids[:BEFORE])
        return clock(system.decode, ids[:DECODED])

    calls: dict[str, Callable[[], float]] = {}
    for side, system in systems.items():
        calls[f"decode {side}"] = lambda system=system: decode(system)
        calls[f"prefill {side}"] = lambda system=system: clock(system.prefill, ids)
    took = medians(calls, rounds)

    def row(kind: str, what: str, tokens: int, asked: float) -> Row:
        ours, theirs = (took.get(f"{kind} {side}") for side in ("ours", "theirs"))
        assert ours is not None
        peer = tokens / theirs if theirs else None
        return Row(f"{name}: {what}", tokens / ours, peer, "tok/s", f"{asked}x")

    return [
        row("decode", "decode, batch 1", DECODED, RATIOS["speed"]),
        row("prefill", f"prefill of {PROMPT} tokens", PROMPT, RATIOS["prefill"]),
    ]


def perplexities(options: argparse.Namespace) -> list[Row]:
    return [perplexity_of(name, place(name), options.windows) for name in options.models]


def perplexity_of(name: str, file: Path, count: int) -> Row:
    ours = Ours(str(file))
    rows = rows_of(ours, count)
    theirs = Theirs(file, whole=True) if installed("llama_cpp") else None
    return Row(
        f"{name}: perplexity of {len(rows) * (WINDOW - 1):,} tokens",
        perplexity(ours.logits, rows),
        theirs and perplexity(theirs.logits, rows),
        "",
        "within 0.5 %",
    )


def rows_of(side: Ours, count: int) -> list[list[int]]:
    tokenizer = side.tokenizer
    ids = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_bos=False)
    return windows(ids, count, tokenizer.bos_id)


def start(options: argparse.Namespace) -> list[Row]:
    """A whole process from a warm disk; the first one warms it."""
    name = options.models[-1]
    words = ["def fib(n):", "--model", name, "--max-tokens", "2", "--raw", "--quiet"]
    took = [run(words).seconds for _ in range(min(3, options.rounds) + 1)]
    what = f"{name}: `daedal PROMPT --max-tokens 2`, whole process"
    return [Row(what, statistics.median(took[1:]), None, "s", "2 s")]


@dataclass
class Ran:
    seconds: float
    peak: int  # bytes, pages of mapped files included


def run(arguments: list[str]) -> Ran:
    """A command of daedal's in a process of its own."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "daedal", *arguments],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"DAEDAL_HISTORY": "0"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"daedal {' '.join(arguments)} ended with {child.returncode}.")
    return Ran(time.perf_counter() - begun, usage.ru_maxrss * 1024)


def quantise(options: argparse.Namespace) -> list[Row]:
    return [row for name in options.models for row in quantise_one(name, options.windows)]


def quantise_one(name: str, count: int) -> list[Row]:
    """The file as a folder of bf16, and that packed again to 4 bits: what it costs and loses."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, four = f"{scratch}/whole", f"{scratch}/four"
        run(["convert", str(place(name)), whole])
        ran = run(["quantize", whole, four, "--bits", "4"])
        size = sum(file.stat().st_size for file in Path(four).glob("*.safetensors"))
        side = Ours(whole)
        rows = rows_of(side, count)
        loaded = perplexity(side.logits, rows)
        packed = perplexity(Ours(four).logits, rows)
    asked = {"coder": ("30 s", "4 GB", "1,120 MB", "+1.5 %")}.get(name, ("", "", "", "+4 %"))
    label = f"{name}: `daedal quantize --bits 4`"
    return [
        Row(f"{label}, time", ran.seconds, None, "s", asked[0], faster=True),
        Row(f"{label}, peak memory", ran.peak / 1e9, None, "GB", asked[1], faster=True),
        Row(f"{label}, weights on disk", size / 1e6, None, "MB", asked[2], faster=True),
        Row(f"{label}, perplexity (peer: as loaded, bf16)", packed, loaded, "", asked[3]),
    ]


def embeddings(options: argparse.Namespace) -> list[Row]:
    """Of `options.sentences` texts; both sides in fp32, and both in bf16."""
    texts = sentences(options.sentences)
    return [embedding_of(dtype, texts, options.rounds) for dtype in ("fp32", "bf16")]


def embedding_of(dtype: str, texts: list[str], rounds: int) -> Row:
    embedder = daedal.load(str(place("minilm")), dtype=dtype)
    calls = {"ours": lambda: clock(embedder.embed, texts)}
    if installed("sentence_transformers"):
        other = sentence_transformer(dtype)
        calls["theirs"] = lambda: clock(other.encode, texts)
    took = medians(calls, rounds)
    what = f"minilm: {len(texts):,} sentences, {dtype}"
    asked = f"{RATIOS['sentences']}x" if dtype == "fp32" else ""
    return Row(what, took["ours"], took.get("theirs"), "s", asked, faster=True)


def sentence_transformer(dtype: str) -> Any:
    from sentence_transformers import SentenceTransformer

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return SentenceTransformer(str(place("minilm")), device="cpu").to(kind)


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "speed": speed,
    "perplexity": perplexities,
    "start": start,
    "quantise": quantise,
    "sentences": embeddings,
}


def place(name: str) -> Path:
    """Where a model of the catalogue lies; it is brought first if it is not here."""
    return catalogue.pull(name)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Small models, one round.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=LANGUAGE, default=None)
    parser.add_argument("--rounds", type=int, default=None, help="5, or 1 with --quick.")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(words)
    options.models = options.models or (LANGUAGE[:1] if options.quick else LANGUAGE)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.windows = 1 if options.quick else 9
    options.sentences = 100 if options.quick else 1000
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    kernels.build()
    rows: list[Row] = []
    for part in options.parts:
        rows += PARTS[part](options)
        print(f"{part} measured", file=sys.stderr)
    print(f"{torch.get_num_threads()} threads, kernels {kernels.status().split(' ')[0]}\n")
    print(table(rows))
    print("\n" + json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows]))


if __name__ == "__main__":
    main()
