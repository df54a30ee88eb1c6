"""Text: `load` a model by name, call it or stream it.

pipeline = load("house/text")
print(pipeline("Once upon a time", seed=1, max_tokens=100))
for piece in pipeline.stream("One day"):
    print(piece.text, end="", flush=True)
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints.adapter import load_adapter, parted
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.engine.runtime import RUNTIME
from daedal.errors import DaedalError, nearest
from daedal.networks.decoder import Decoder
from daedal.nn import kernels
from daedal.nn.lora import merge_lora
from daedal.nn.quantized import QuantEmbedding, QuantLinear, quantize_
from daedal.pipelines.digest import digest
from daedal.processes.sampling import SamplingParams

Prompt = str | Sequence[dict[str, Any]] | Sequence[int]
BITS = {8: 8, 4: 4, 16: 16, "8": 8, "4": 4, "16": 16, "int8": 8, "int4": 4, "bf16": 16}


@dataclass(frozen=True)
class Piece:
    """One token of a stream: its id, the text that became final with it (may be empty), and its log-probability."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Text:
    """One finished text and all that is needed to make it again."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str  # "stop": the model or a stop string ended it; "length": max_tokens did; "cancelled"
    recipe: dict[str, Any]  # model, digest, prompt, settings with the seed

    def __str__(self) -> str:
        return self.text

    @property
    def logged(self) -> str:
        """What the history keeps of it."""
        return self.text

    @property
    def amount(self) -> int:
        return len(self.tokens)

    def _repr_markdown_(self) -> str:
        r = self.recipe
        prompt = r["prompt"] if isinstance(r["prompt"], str) else ""
        return f"**{prompt}**{self.text}\n\n<small>{r['model']}, seed {r['settings']['seed']}</small>"

    def save(self, path: str | Path) -> Path:
        """Write the text, prompt first, as UTF-8."""
        prompt = self.recipe["prompt"]
        Path(path).write_text((prompt if isinstance(prompt, str) else "") + self.text, encoding="utf-8")
        return Path(path)


class TextPipeline:
    """A network and its tokenizer behind one call. Settings are those of `SamplingParams`, plus `schema=` or `regex=` to constrain."""

    def __init__(self, network: Decoder, tokenizer: Tokenizer, name: str = "model", folder: Path | None = None) -> None:
        self.network, self.tokenizer, self.name, self.folder = network, tokenizer, name, folder
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __call__(self, prompt: Prompt, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any) -> Text | list[Text]:
        """The continuation of a prompt (text, chat messages or token ids); a list of them when n > 1."""
        results = self.results(prompt, on_progress=on_progress, **settings)
        return results if settings.get("n", 1) > 1 else results[0]

    def results(self, prompt: Prompt, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any) -> list[Text]:
        """All n continuations, made side by side."""
        stream = self.start(prompt, **settings)
        while not stream.done:
            stream.advance()
            if on_progress:
                on_progress(stream.made, stream.params.n * stream.params.max_tokens)
        return [stream.result(index) for index in range(stream.params.n)]

    def stream(self, prompt: Prompt, **settings: Any) -> "Stream":
        """The pieces of one continuation as they are made; closing the iterator stops the work."""
        return self.start(prompt, **{**settings, "n": 1})

    def start(self, prompt: Prompt, *, client: str = "", priority: int = 0, **settings: Any) -> "Stream":
        """Queue a prompt and return its stream. Clients share the model evenly; a higher `priority` is served first."""
        ids = self.encode(prompt)
        return Stream(self, prompt, ids, self.fitted(ids, self.params(settings)), settings, client, priority)

    @property
    def engine(self) -> Engine:
        """One engine for all calls, made by the first. Its prefix cache is off: a text must come out the same whatever was asked before it."""
        with self._lock:
            if self._engine is None:
                self._engine = Engine(self.network, self.tokenizer, prefix_caching=False)
                RUNTIME.add(self._engine)
        return self._engine

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a plain text gets the bos token where the model has one."""
        if isinstance(prompt, str):
            if self.tokenizer.bos_id is None and not prompt:
                raise DaedalError("the prompt is empty and this model has no bos token to start from; give at least one word.")
            ids = self.tokenizer.encode(prompt)
            return ids[:-1] if len(ids) > 1 and ids[-1] in self.tokenizer.eos_ids else ids  # a frame may end in eos, a prompt must not
        ids = [item for item in prompt if isinstance(item, int)]
        if not ids:
            return chat.encode(self.tokenizer, [item for item in prompt if not isinstance(item, int)])
        if bad := [i for i in ids if not 0 <= i < self.network.config.vocab_size]:
            raise DaedalError(f"token id {bad[0]} is outside the vocabulary of {self.network.config.vocab_size}.")
        return ids

    def params(self, settings: dict[str, Any]) -> SamplingParams:
        from daedal.processes.grammar import Grammar

        settings = dict(settings)
        schema, regex = settings.pop("schema", None), settings.pop("regex", None)
        known = [field.name for field in dataclasses.fields(SamplingParams)]
        for name in settings:
            if name not in known:
                raise DaedalError(f"{name!r} is not a setting of text generation{nearest(name, known)}; settings: {', '.join(known)}, schema, regex.")
        if schema is not None:
            settings["grammar"] = Grammar.json(self.tokenizer, schema)
        if regex is not None:
            settings["grammar"] = Grammar.regex(self.tokenizer, regex)
        return SamplingParams(**settings).seeded()

    def fitted(self, ids: list[int], params: SamplingParams) -> SamplingParams:
        """`max_tokens` cut to what the context leaves; a prompt that leaves nothing is an error."""
        context = self.network.config.max_position_embeddings
        if len(ids) >= context:
            raise DaedalError(f"the prompt is {len(ids)} tokens long, and {self.name} has a context of {context}; shorten it.")
        return dataclasses.replace(params, max_tokens=min(params.max_tokens, context - len(ids)))


class Stream:
    """Continuations under way: an iterator over the pieces of the first; `result(i)` is what there is of sample i. Any thread may use it."""

    def __init__(
        self, pipeline: TextPipeline, prompt: Prompt, ids: list[int], params: SamplingParams, settings: dict[str, Any], client: str, priority: int
    ) -> None:
        self.pipeline, self.prompt, self.params, self.settings = pipeline, prompt, params, settings
        wanted = dataclasses.replace(params, logprobs=params.logprobs or 0)
        self.samples = pipeline.engine.submit(ids, wanted, client=client, priority=priority).samples
        self.shown = 0

    @property
    def done(self) -> bool:
        return all(sample.finished for sample in self.samples)

    @property
    def made(self) -> int:
        """Tokens so far, over all samples."""
        return sum(len(sample.output) for sample in self.samples)

    def advance(self) -> None:
        """Wait until there are more tokens, or the end. A Ctrl-C within it cancels the samples and is passed on."""
        made = self.made
        try:
            RUNTIME.wait(lambda: self.made > made or self.done)
        except BaseException:
            self.abandon()
            raise

    def cancel(self) -> None:
        """Stop the work and wait until it has stopped, which is before its next step; `result` gives what there is."""
        self.abandon()
        RUNTIME.wait(lambda: self.done)

    def abandon(self) -> None:
        """Have the work stopped before its next step, without waiting."""
        for sample in self.samples:
            self.pipeline.engine.cancel(sample)

    def __iter__(self) -> Iterator[Piece]:
        first = self.samples[0]
        try:
            while True:
                while self.shown < len(first.stream):
                    token = first.stream[self.shown]
                    self.shown += 1
                    yield Piece(token.id, token.text, token.logprob or 0.0)
                if first.error:
                    raise first.error
                if self.done:
                    return
                self.advance()
        finally:
            if not self.done:
                self.abandon()

    def result(self, index: int = 0) -> Text:
        """What there is of a sample; one that failed raises what it failed with."""
        sample, p = self.samples[index], self.pipeline
        if sample.error:
            raise sample.error
        recipe = {
            "model": p.name,
            "digest": digest(p.folder) if p.folder else None,
            "prompt": self.prompt if isinstance(self.prompt, str) else list(self.prompt),
            "settings": {**self.settings, "seed": self.params.seed},
            "sample": index,
            "runtime": runtime(p.network),
        }
        logprobs = tuple(token.logprob or 0.0 for token in sample.stream)
        return Text(sample.text, tuple(sample.output), logprobs, sample.finished or "cancelled", recipe)


def reproduce(pipeline: TextPipeline, recipe: dict[str, Any], tokens: int | None = None) -> Text:
    """A text again from its recipe; one that was cancelled ends after `tokens`."""
    stream = pipeline.start(recipe["prompt"], **recipe["settings"])
    sample = stream.samples[recipe["sample"]]
    while not sample.finished and (tokens is None or len(sample.output) < tokens):
        stream.advance()
    stream.cancel()
    return stream.result(recipe["sample"])


def runtime(network: Decoder) -> dict[str, Any]:
    """What the last bits of a result may depend on, beside the weights."""
    weight = network.embed_tokens.weight
    bits = {m.bits for m in network.modules() if isinstance(m, QuantLinear | QuantEmbedding)}
    return {
        "device": weight.device.type,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "bits": sorted(bits),
        "threads": torch.get_num_threads(),
        "kernels": kernels.available(),
    }


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto", quantize: int | str | None = None) -> TextPipeline:
    """A pipeline for a house model, folder or Hub name, "BASE:ADAPTER" or an adapter's folder, which names its base; an adapter is merged in, or
    stays beside packed weights. `dtype` auto keeps what is on disk (half-precision weights run with fp32 activations on a CPU without bf16
    units); `quantize` packs the weights to 8 or 4 bits, or 16 for bf16, on the way in."""
    base, adapter = parted(name_or_folder)
    folder = checkpoints.resolve(base)
    where = machine.pick_device(device)
    wanted = None if dtype == "auto" else machine.compute_dtype(dtype, where)
    if quantize is not None and quantize not in BITS:
        raise DaedalError(f"quantize={quantize!r} is not one of 8, 4 or 16.")
    network = checkpoints.load(folder, dtype=wanted, device=where, kind=Decoder)
    packed = any(isinstance(m, QuantLinear) for m in network.modules())
    if adapter:
        load_adapter(network, adapter)
        if not packed:
            merge_lora(network)
    half = network.embed_tokens.weight.dtype in (torch.bfloat16, torch.float16)
    if quantize is not None and not packed:
        quantize_(network, BITS[quantize])
    elif where.type == "cpu" and half and wanted is None and not packed and not machine.has_bf16_units(where):
        quantize_(network, 16)
    words = adapter if adapter and (adapter / "tokenizer.json").exists() else folder
    return TextPipeline(network.eval(), Tokenizer.load(words), str(name_or_folder), Path(adapter or folder))
