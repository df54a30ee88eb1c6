"""Text: `load` a model by name, call it or stream it.

pipeline = load("house/text")
print(pipeline("Once upon a time", seed=1, max_tokens=100))
for piece in pipeline.stream("One day"):
    print(piece.text, end="", flush=True)
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Sequence
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
from daedal.errors import DaedalError, TooLong
from daedal.files import private_file
from daedal.networks.decoder import Decoder
from daedal.nn import kernels
from daedal.nn.lora import merge_lora
from daedal.nn.quantized import QuantLinear, quantize_
from daedal.pipelines import remote
from daedal.pipelines.medium import Handle, Pipeline
from daedal.pipelines.text_params import TEXT, TextParams
from daedal.pipelines.text_result import Piece, Text
from daedal.processes.text_mark import KEY_FILE, GreenList, new_key
from daedal.settings import read

# of a generation_config.json
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
Prompt = str | Sequence[dict[str, Any]] | Sequence[int]
MADE = ("grammar", "mark")  # fields of the parameters that are made from settings
UNMARKED = "a text that a schema or an expression holds has too little choice for a watermark, and carries none."
BITS = {8: 8, 4: 4, 16: 16, "8": 8, "4": 4, "16": 16, "int8": 8, "int4": 4, "bf16": 16}


class TextPipeline(Pipeline):
    """A network and its tokenizer behind one call. Settings are those of `TextParams`; a prompt is
    text, chat messages or token ids.

    A model with a chat template answers a text; `raw=True` has it continue the text instead, as
    every other model does."""

    medium = TEXT

    def __init__(
        self,
        network: Decoder,
        tokenizer: Tokenizer,
        name: str = "model",
        folder: Path | None = None,
        loading: dict[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.loading = loading or {}
        self.defaults = generation_defaults(folder) if folder else {}
        self.serving: dict[str, Any] = {}  # arguments of the engine
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def start(
        self, prompt: Prompt, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Stream":
        params = self.params(settings)
        if isinstance(prompt, str) and not params.raw and not self.tokenizer.chat_template:
            params = dataclasses.replace(params, raw=True)
        ids = self.encode(prompt, params.raw)
        return Stream(self, prompt, ids, self.fitted(ids, params), client, priority)

    @property
    def chats(self) -> bool:
        """Whether the model answers messages, and does not only continue texts."""
        return bool(self.tokenizer.chat_template)

    @property
    def engine(self) -> Engine:
        """One engine for all calls, made by the first. A chat does not read its beginning again,
        and a text comes out the same to the bit whatever was asked before it."""
        with self._lock:
            if self._engine is None:
                asked = {"exact_prefixes": True} | self.serving
                self._engine = Engine(self.network, self.tokenizer, **asked)
                RUNTIME.add(self._engine)
        return self._engine

    @property
    def working_bytes(self) -> int:
        """What it takes beside its weights: keys and values."""
        return 0 if self._engine is None else self._engine.cache_bytes

    def encode(self, prompt: Prompt, raw: bool = True) -> list[int]:
        """Token ids of a prompt. A plain text gets the bos token where the model has one, or unless
        `raw` the model's chat template."""
        if isinstance(prompt, str) and not raw:
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, str):
            if self.tokenizer.bos_id is None and not prompt:
                raise DaedalError(
                    "the prompt is empty and this model has no bos token to start from; give at least one word."
                )
            ids = self.tokenizer.encode(prompt)
            # a frame may end in eos, a prompt must not
            return ids[:-1] if len(ids) > 1 and ids[-1] in self.tokenizer.eos_ids else ids
        ids = [item for item in prompt if isinstance(item, int)]
        if not ids:
            return chat.encode(
                self.tokenizer, [item for item in prompt if not isinstance(item, int)]
            )
        if bad := [i for i in ids if not 0 <= i < self.network.config.vocab_size]:
            raise DaedalError(
                f"token id {bad[0]} is outside the vocabulary of {self.network.config.vocab_size}."
            )
        return ids

    def params(self, settings: dict[str, Any]) -> TextParams:
        """The settings with what was left out filled in: from the model's generation_config.json,
        else the medium's defaults."""
        given = {
            **self.defaults,
            **{key: value for key, value in settings.items() if value is not None},
        }
        if isinstance(given.get("schema"), str | Path):
            given["schema"] = read_schema(Path(given["schema"]))
        params = read(TextParams, given, "text generation")
        grammar = self.grammar(params)
        mark = marked(params.watermark_strength) if params.watermark and not grammar else None
        return dataclasses.replace(params, grammar=grammar, mark=mark).seeded()  # type: ignore[return-value]

    def grammar(self, params: TextParams) -> Any:
        from daedal.processes.grammar import Grammar  # its library takes a quarter of a second

        if params.schema is not None:
            return Grammar.json(self.tokenizer, params.schema)
        return None if params.regex is None else Grammar.regex(self.tokenizer, params.regex)

    def fitted(self, ids: list[int], params: TextParams) -> TextParams:
        """`max_tokens` cut to what the context leaves; a prompt that leaves nothing is an error."""
        context = self.engine.max_len
        if len(ids) >= context:
            raise TooLong(
                f"the prompt is {len(ids)} tokens long, and {self.name} has a context of {context}; shorten it."
            )
        return dataclasses.replace(params, max_tokens=min(params.max_tokens, context - len(ids)))

    def runtime(self) -> dict[str, Any]:
        weight = self.network.embed_tokens.weight
        bits = {m.bits for m in self.network.modules() if isinstance(m, QuantLinear)}
        own = {"kernels": kernels.available(), "loading": self.loading}
        return machine.runtime_of(weight, bits) | own

    def reproduce(self, recipe: dict[str, Any], amount: int | None = None) -> Text:
        stream = self.start(recipe["prompt"], **recipe["settings"])
        sample = stream.samples[recipe["sample"]]
        while not sample.finished and (amount is None or len(sample.output) < amount):
            stream.advance()
        stream.cancel()
        return stream.result(recipe["sample"])


class Stream(Handle):
    """Continuations under way."""

    def __init__(
        self,
        pipeline: TextPipeline,
        prompt: Prompt,
        ids: list[int],
        params: TextParams,
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt, self.params = pipeline, prompt, params
        wanted = dataclasses.replace(params, logprobs=params.logprobs or 0)
        self.samples = pipeline.engine.submit(ids, wanted, client=client, priority=priority).samples
        self.shown = [0] * len(self.samples)
        self.front = prompt if isinstance(prompt, str) and params.raw else ""
        if params.watermark and params.mark is None:
            self.remarks = (UNMARKED,)

    @property
    def done(self) -> bool:
        return all(sample.finished for sample in self.samples)

    @property
    def made(self) -> int:
        """Tokens so far, over all samples."""
        return sum(len(sample.stream) for sample in self.samples)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        RUNTIME.wait(ready)

    def abandon(self) -> None:
        for sample in self.samples:
            self.pipeline.engine.cancel(sample)

    def events(self) -> Iterator[Piece]:
        total = len(self.samples) * self.params.max_tokens
        for index, sample in enumerate(self.samples):
            while self.shown[index] < len(sample.stream):
                token = sample.stream[self.shown[index]]
                self.shown[index] += 1
                score, so_far = token.logprob or 0.0, sum(self.shown)
                yield Piece(token.id, token.text, score, index, so_far, total)
            if sample.error:
                raise sample.error

    def results(self) -> list[Text]:
        return [self.result(index) for index in range(len(self.samples))]

    def result(self, index: int = 0) -> Text:
        """A sample at its end, what there is of one that was cancelled; one that failed raises what it
        failed with."""
        self.wait()
        sample = self.samples[index]
        if sample.error:
            raise sample.error
        logprobs = tuple(token.logprob or 0.0 for token in sample.stream)
        reason = sample.finished or "cancelled"
        whole = (sample.text, tuple(sample.output), logprobs)
        return Text(self.recipe(index), reason, *whole, joules=sample.joules)

    def recipe(self, index: int = 0) -> dict[str, Any]:
        """What makes a sample again; known before its end."""
        settings = {key: value for key, value in vars(self.params).items() if key not in MADE}
        for key in ("adapter", "schema", "regex", "logprobs"):
            if settings[key] is None:
                del settings[key]
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        return self.pipeline.recipe(prompt, settings) | {"sample": index}


def marked(strength: float) -> GreenList:
    """The watermark of this installation, whose key is made the first time."""
    return GreenList(private_file(KEY_FILE, new_key), strength)


def generation_defaults(folder: Path) -> dict[str, Any]:
    """The settings that a model's makers recommend in its generation_config.json. Where they
    recommend any way to draw, what they leave out of it has no effect, as in the tools that they
    measured it with."""
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {name: config[name] for name in DRAWING if config.get(name) is not None}
    if config.get("do_sample") is False:
        found = {"temperature": 0.0}
    neutral = {"temperature": 1.0, "top_p": 1.0} if found else {}
    longest = {"max_tokens": config["max_new_tokens"]} if config.get("max_new_tokens") else {}
    return neutral | found | longest


def read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DaedalError(f"the schema {path} cannot be read: {error}.") from None


def holds(place: Path) -> bool:
    """Whether a folder holds a language model."""
    return (place / "config.json").exists() or (place / "adapter_config.json").exists()


def load(
    name_or_folder: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    adapter: str | Path | None = None,
    quantize: int | str | None = None,
    **serving: Any,
) -> Any:
    """A pipeline for a house model, folder or Hub name, "BASE:ADAPTER" or an adapter's folder,
    which names its base; an adapter is merged in, or stays beside packed weights. `dtype` auto
    keeps what is on disk (on a CPU half-precision weights run with fp32 activations in our kernels,
    which decode faster than bf16 activations do, also where there are bf16 units); `quantize` packs
    the weights to 8 or 4 bits, or 16 for bf16, on the way in. `serving` are the rest of
    `TextLoading`: draft, prompt_lookup, cache, attention, cache_gb, context, adapters. A model of a server
    ("openai:NAME@ADDRESS") is a daedal.pipelines.remote.RemotePipeline."""
    if remote.is_remote(name_or_folder):
        return remote.load(str(name_or_folder))
    name = f"{name_or_folder}:{adapter}" if adapter else str(name_or_folder)
    base, adapter = parted(name)
    folder = checkpoints.resolve(base)
    where = machine.pick_device(device)
    wanted = None if dtype == "auto" else machine.compute_dtype(dtype, where)
    if quantize is not None and quantize not in BITS:
        raise DaedalError(f"quantize={quantize!r} is not one of 8, 4 or 16.")
    network = checkpoints.load(folder, dtype=wanted, device=where, kind=Decoder)
    packed = {m.bits for m in network.modules() if isinstance(m, QuantLinear)}
    if adapter:
        load_adapter(network, adapter)
        if not packed:
            merge_lora(network)
    half = network.embed_tokens.weight.dtype in (torch.bfloat16, torch.float16)
    if quantize is not None and packed and BITS[quantize] not in packed:
        raise DaedalError(
            f"{name} is packed to {min(packed)} bits already; leave quantize out, or start from its full-precision folder."
        )
    if quantize is not None and not packed:
        quantize_(network, BITS[quantize])
    elif where.type == "cpu" and half and wanted is None and not packed:
        quantize_(network, 16)
    words = adapter if adapter and (adapter / "tokenizer.json").exists() else folder
    loading = {"device": where.type, "dtype": dtype, "quantize": quantize, **serving}
    if "draft" in serving:
        loading["draft"] = str(serving["draft"])
    tokenizer, folder = Tokenizer.load(words, folder), Path(adapter or folder)
    pipeline = TextPipeline(network.eval(), tokenizer, name, folder, loading)
    pipeline.serving = serving_options(serving, device, dtype, quantize)
    return pipeline


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    return remote.load(f"openai:{model}@{server}/v1")


def serving_options(
    given: dict[str, Any], device: str, dtype: str, quantize: int | str | None
) -> dict[str, Any]:
    """Settings of `TextLoading` that are the engine's, as its arguments."""
    given = {key: value for key, value in given.items() if value is not None}
    if "draft" in given:
        given["draft"] = load(given["draft"], device, dtype, quantize=quantize).network
    if "cache_gb" in given:
        given["memory_budget"] = int(given.pop("cache_gb") * 1e9)
    if "context" in given:
        given["max_len"] = given.pop("context")
    return given
