"""Text: `load` a model by name, call it or stream it.

pipeline = load("house/text")
print(pipeline("Once upon a time", seed=1, max_tokens=100))
for piece in pipeline.stream("One day"):
    print(piece.text, end="", flush=True)
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError, nearest
from daedal.networks.decoder import Decoder
from daedal.nn import kernels
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

    def __call__(self, prompt: Prompt, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any) -> Text | list[Text]:
        """The continuation of a prompt (text, chat messages or token ids); a list of them when n > 1."""
        results = list(self.results(prompt, on_progress=on_progress, **settings))
        return results if settings.get("n", 1) > 1 else results[0]

    def results(self, prompt: Prompt, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any) -> Iterator[Text]:
        ids, params = self.encode(prompt), self.params(settings)
        params = self.fitted(ids, params)
        for index in range(params.n):
            one = params.sample_of(index)
            stream, pieces = Stream(self, ids, one), []
            for piece in stream:
                pieces.append(piece)
                if on_progress:
                    on_progress(len(pieces), one.max_tokens)
            yield self.result(prompt, settings, one, pieces, stream.finish_reason)

    def stream(self, prompt: Prompt, **settings: Any) -> "Stream":
        """The pieces of one continuation as they are made; closing the iterator stops the work."""
        ids = self.encode(prompt)
        return self.start(ids, self.fitted(ids, self.params(settings)).sample_of(0))

    def start(self, ids: list[int], params: SamplingParams) -> "Stream":
        """`stream` for a prompt that is encoded and settings that are complete."""
        return Stream(self, ids, params)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a plain text gets the bos token where the model has one."""
        if isinstance(prompt, str):
            if self.tokenizer.bos_id is None and not prompt:
                raise DaedalError("the prompt is empty and this model has no bos token to start from; give at least one word.")
            # The tokenizer's own frame may end with eos, which a prompt must not.
            framed = self.tokenizer.encode(prompt)
            starts = framed[:1] == [self.tokenizer.bos_id] or (self.folder is not None and str(self.name).startswith("house/"))
            return self.tokenizer.encode(prompt, add_bos=starts and self.tokenizer.bos_id is not None)
        prompt = list(prompt)
        if prompt and isinstance(prompt[0], int):
            if bad := [i for i in prompt if not 0 <= i < self.network.config.vocab_size]:
                raise DaedalError(f"token id {bad[0]} is outside the vocabulary of {self.network.config.vocab_size}.")
            return prompt
        return chat.encode(self.tokenizer, prompt)

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

    def result(self, prompt: Prompt, settings: dict[str, Any], params: SamplingParams, pieces: list[Piece], reason: str) -> Text:
        recipe = {
            "model": self.name, "digest": digest(self.folder) if self.folder else None, "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "settings": {**settings, "n": 1, "seed": params.seed}, "runtime": runtime(self.network),
        }  # fmt: skip
        return Text("".join(p.text for p in pieces), tuple(p.token for p in pieces), tuple(p.logprob for p in pieces), reason, recipe)


class Stream:
    """An iterator of `Piece`; afterwards `finish_reason` says why it ended."""

    def __init__(self, pipeline: TextPipeline, ids: list[int], params: SamplingParams) -> None:
        self.pipeline, self.ids, self.params = pipeline, ids, params
        self.finish_reason = "cancelled"
        self.pieces = self.run()

    def __iter__(self) -> Iterator[Piece]:
        return self.pieces

    def __next__(self) -> Piece:
        return next(self.pieces)

    def run(self) -> Iterator[Piece]:
        from daedal.data.detokenizer import Detokenizer
        from daedal.processes.autoregression import StopStrings, stream

        tokenizer, ends = self.pipeline.tokenizer, set(self.pipeline.tokenizer.eos_ids)
        words, held = Detokenizer(tokenizer, self.ids), StopStrings(self.params.stop)
        drawn = stream(self.pipeline.network, self.ids, self.params, eos_ids=ends, cached=True)
        for count, (token, logprob) in enumerate(drawn, 1):
            text = held.push(words.push(token))
            ended = token in ends and not self.params.ignore_eos
            last = held.stopped or ended or count == self.params.max_tokens
            if last:
                self.finish_reason = "stop" if held.stopped or ended else "length"
                text += "" if held.stopped else held.push(words.flush()) + held.flush()
            yield Piece(token, text, logprob)
            if last:
                return


def reproduce(pipeline: TextPipeline, prompt: Prompt, settings: dict[str, Any], characters: int | None = None) -> Text:
    """A logged generation again; one that was cancelled ends after `characters`."""
    ids = pipeline.encode(prompt)
    params = pipeline.fitted(ids, pipeline.params(settings))
    stream, pieces = pipeline.start(ids, params), []
    for piece in stream:
        pieces.append(piece)
        if characters is not None and sum(len(p.text) for p in pieces) >= characters:
            break
    return pipeline.result(prompt, settings, params, pieces, stream.finish_reason)


def runtime(network: Decoder) -> dict[str, Any]:
    """What the last bits of a result may depend on, beside the weights."""
    weight = network.embed_tokens.weight
    bits = {m.bits for m in network.modules() if isinstance(m, QuantLinear | QuantEmbedding)}
    return {"device": weight.device.type, "dtype": str(weight.dtype).removeprefix("torch."), "bits": sorted(bits), "kernels": kernels.available()}


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto", quantize: int | str | None = None) -> TextPipeline:
    """A pipeline for a house model, folder or Hub name. `dtype` auto keeps what is on disk (half-precision weights run with fp32
    activations on a CPU without bf16 units); `quantize` packs the weights to 8 or 4 bits, or 16 for bf16, on the way in."""
    folder = checkpoints.resolve(name_or_folder)
    where = machine.pick_device(device)
    wanted = None if dtype == "auto" else machine.compute_dtype(dtype, where)
    if quantize is not None and quantize not in BITS:
        raise DaedalError(f"quantize={quantize!r} is not one of 8, 4 or 16.")
    network = checkpoints.load(folder, dtype=wanted, device=where)
    packed = any(isinstance(m, QuantLinear) for m in network.modules())
    half = network.embed_tokens.weight.dtype in (torch.bfloat16, torch.float16)
    if quantize is not None and not packed:
        quantize_(network, BITS[quantize])
    elif where.type == "cpu" and half and wanted is None and not packed and not machine.has_bf16_units(where):
        quantize_(network, 16)
    return TextPipeline(network.eval(), Tokenizer.load(folder), str(name_or_folder), Path(folder))
