"""A voice by Bark (Suno 2023): text to tokens of what is said, these to two codebooks in windows that
slide, these to all eight, and EnCodec. A speaker is a piece of speech as such tokens, before which
nothing else is said; a folder holds some (speaker_embeddings, or .npz files).

Legend: S semantic tokens, T frames, K codebooks."""

import json
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.data.phonemes.reader import Sentence
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError, nearest
from daedal.networks.bark import BarkModel
from daedal.networks.decoder import Decoder
from daedal.networks.encodec import Codes
from daedal.nn.cache import KVCache
from daedal.systems.musicgen import drawn
from daedal.systems.voice import Manner, Said

PROMPTS = {"semantic_prompt": 1, "coarse_prompt": 2, "fine_prompt": 2}  # and their axes
INDEX, SUFFIX = "speaker_embeddings_path.json", "_semantic_prompt.npy"
PACE = 32  # tokens between two looks whether the work is still wanted
# what the published models' generation_config.json says, which is nowhere else
NUMBERS: dict[str, dict[str, Any]] = {
    "semantic_config": {
        "text_encoding_offset": 10048, "text_pad_token": 129595, "semantic_infer_token": 129599, "semantic_vocab_size": 10000,
        "eos_token_id": 10000, "max_input_semantic_length": 256, "semantic_rate_hz": 49.9, "max_new_tokens": 768, "min_eos_p": None,
        "do_sample": True, "temperature": 0.7, "top_k": 50,
    },
    "coarse_acoustics_config": {
        "coarse_semantic_pad_token": 12048, "coarse_infer_token": 12050, "coarse_rate_hz": 75, "n_coarse_codebooks": 2,
        "max_coarse_input_length": 256, "max_coarse_history": 630, "sliding_window_len": 60, "do_sample": True, "temperature": 0.7, "top_k": 50,
    },
    "fine_acoustics_config": {
        "max_fine_history_length": 512, "max_fine_input_length": 1024, "n_fine_codebooks": 8, "temperature": 0.5,
    },
}  # fmt: skip
Ticks = Generator[None, None, Tensor]


@dataclass(frozen=True)
class Prompt:
    """A speaker: semantic (S,), coarse (2, T) and fine (K, T) codes."""

    semantic: Tensor
    coarse: Tensor
    fine: Tensor


def holds(folder: Path) -> bool:
    """Whether a folder is a Bark."""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("model_type") == "bark"


class BarkVoice:
    """The same as a `Voice`, but that words' times are not known and its speed is its own."""

    def __init__(
        self,
        bark: BarkModel,
        tokenizer: Tokenizer,
        numbers: dict[str, dict[str, Any]],
        presets: dict[str, dict[str, Path]],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.bark, self.tokenizer, self.dtype, self.presets = bark, tokenizer, dtype, presets
        self.semantic, self.coarse, self.fine = (numbers[part] for part in NUMBERS)
        self.speakers = {name: i for i, name in enumerate(presets)}
        for part in (bark.semantic, bark.coarse_acoustics, bark.fine_acoustics):
            part.to(dtype)

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> "BarkVoice":
        bark = checkpoints.load(folder, torch.float32, device, kind=BarkModel)
        return cls(bark, Tokenizer.load(folder), numbers_of(folder), presets_of(folder), dtype)

    @property
    def rate(self) -> int:
        return self.bark.codec_model.config.sampling_rate

    @property
    def device(self) -> torch.device:
        return self.bark.fine_acoustics.norm.weight.device

    def speaker(self, name: str | None) -> int | None:
        """The number of a speaker's name, or of an .npz file."""
        if name is None:
            return None
        if name not in self.speakers and name.endswith(".npz") and Path(name).is_file():
            self.presets[name] = {"": Path(name)}
            self.speakers[name] = len(self.speakers)
        if name not in self.speakers:
            known = list(self.speakers)
            there = f"it has {', '.join(known[:12])}" if known else "it has none"
            raise DaedalError(
                f"speaker {name!r} is not one of this voice's{nearest(name, known)}: {there}; an .npz file of one may be given too."
            )
        return self.speakers[name]

    def prompt(self, speaker: int | None) -> Prompt | None:
        """The tokens of a speaker."""
        if speaker is None:
            return None
        name = list(self.presets)[speaker]
        arrays = read_preset(name, self.presets[name])
        return Prompt(*(torch.from_numpy(a.astype(np.int64)).to(self.device) for a in arrays))

    def said(self, sentence: Sentence, manner: Manner, seed: int = 0) -> Said:
        """A sentence on its way."""
        if manner.speed != 1 or manner.pitch:
            name, value = ("speed", manner.speed) if manner.speed != 1 else ("pitch", manner.pitch)
            raise DaedalError(
                f"{name}={value:g} does not apply to Bark, which speaks as its speaker does; leave it out, or take another speaker."
            )
        return Said((), 0.0, self.blocks(sentence.text, manner, seed))

    @torch.inference_mode()
    def blocks(self, text: str, manner: Manner, seed: int) -> Iterator[np.ndarray]:
        """The samples at the end, and before them nothing, now and then, so that the work can be
        stopped."""
        noise = torch.Generator().manual_seed(seed)
        steps = self.spoken(text, self.prompt(manner.speaker), manner.noise, noise)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                samples = (end.value * manner.energy).clamp(-1, 1)
                yield samples.float().cpu().numpy()
                return
            yield np.zeros(0, np.float32)

    def spoken(
        self, text: str, prompt: Prompt | None, temperature: float | None, noise: torch.Generator
    ) -> Ticks:
        """The samples (N,) of a text. `temperature` None is the model's own, 0 takes the likeliest."""
        semantic = yield from self.meant(text, prompt, temperature, noise)
        coarse = yield from self.sounding(semantic, prompt, temperature, noise)
        codes = yield from self.refined(coarse, prompt, temperature, noise)
        codec = self.bark.codec_model
        length = codes.shape[-1] * codec.config.hop
        return codec.decode(Codes((codes,), (None,), length))[0, 0]

    def meant(
        self, text: str, prompt: Prompt | None, temperature: float | None, noise: torch.Generator
    ) -> Ticks:
        """Semantic tokens (S,). Text and speaker are read side by side, their embeddings added."""
        n, gpt = self.semantic, self.bark.semantic
        length, end = n["max_input_semantic_length"], n["eos_token_id"]
        ids = self.tokenizer.encode(text, add_bos=False)[:length]
        words = torch.tensor([i + n["text_encoding_offset"] for i in ids]).to(self.device)
        before = words.new_zeros(0) if prompt is None else prompt.semantic[-length:]
        words = F.pad(words, (0, length - len(words)), value=n["text_pad_token"])
        before = F.pad(before, (0, length - len(before)), value=end)
        embed = gpt.embed_tokens
        begin = embed(words.new_tensor([n["semantic_infer_token"]]))
        read = torch.cat([embed(words) + embed(before), begin])[None]
        allowed = torch.zeros(gpt.lm_head.out_features, dtype=torch.bool, device=self.device)
        allowed[: n["semantic_vocab_size"]] = allowed[end] = True

        def masked(logits: Tensor, index: int) -> Tensor:
            logits = logits.masked_fill(~allowed, -math.inf)
            over = n["min_eos_p"] and float(logits.softmax(-1)[end]) > n["min_eos_p"]
            return logits.masked_fill(torch.arange(len(logits)) != end, -math.inf) if over else logits  # fmt: skip

        most = min(n["max_new_tokens"], gpt.config.max_position_embeddings - length)
        options = sampling(n, temperature)
        return (yield from drawn_on(gpt, read, most, masked, *options, noise, end=end))

    def sounding(
        self,
        semantic: Tensor,
        prompt: Prompt | None,
        temperature: float | None,
        noise: torch.Generator,
    ) -> Ticks:
        """Codes of the coarse books in turn (T * 2,), counted from the semantic vocabulary's end.
        Each window reads the semantic tokens about it and the codes before it."""
        n, vocab = self.coarse, self.semantic["semantic_vocab_size"]
        books, size = n["n_coarse_codebooks"], self.bark.codec_model.config.codebook_size
        ratio = n["coarse_rate_hz"] / self.semantic["semantic_rate_hz"] * books
        most = math.floor(n["max_coarse_history"] / ratio)
        wanted = math.floor(len(semantic) * ratio / books) * books
        before, made = self.history(prompt, ratio, most)
        tokens, given = torch.cat([before, semantic]), len(made)

        def masked(logits: Tensor, index: int) -> Tensor:
            first = vocab + size * (index % 2)
            last = vocab + size if index % 2 == 0 else len(logits)
            kept = torch.full_like(logits, -math.inf)
            kept[first:last] = logits[first:last]
            return kept

        while (done := len(made) - given) < wanted:
            at = len(before) + round(done / ratio)
            seen = tokens[max(0, at - most) :][: n["max_coarse_input_length"]]
            missing = n["max_coarse_input_length"] - len(seen)
            seen = F.pad(seen, (0, missing), value=n["coarse_semantic_pad_token"])
            begin = seen.new_tensor([n["coarse_infer_token"]])
            read = torch.cat([seen, begin, made[-n["max_coarse_history"] :]])
            window = min(n["sliding_window_len"], wanted - done)
            gpt, options = self.bark.coarse_acoustics, sampling(n, temperature)
            embedded = gpt.embed_tokens(read)[None]
            more = yield from drawn_on(gpt, embedded, window, masked, *options, noise)
            made = torch.cat([made, more])
        return made[given:]

    def history(self, prompt: Prompt | None, ratio: float, most: int) -> tuple[Tensor, Tensor]:
        """The end of a speaker's semantic tokens and of the coarse codes that belong to them."""
        if prompt is None:
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            return none, none
        size = self.bark.codec_model.config.codebook_size
        offsets = torch.arange(len(prompt.coarse), device=self.device)[:, None] * size
        flat = (prompt.coarse + offsets).T.flatten() + self.semantic["semantic_vocab_size"]
        spoken = len(prompt.semantic)
        kept = min(most, spoken - spoken % 2, math.floor(len(flat) / ratio))
        semantic, coarse = prompt.semantic[spoken - kept :], flat[len(flat) - round(kept * ratio) :]
        return semantic, coarse[:-2]  # the codec is a frame ahead of what is meant

    def refined(
        self,
        coarse: Tensor,
        prompt: Prompt | None,
        temperature: float | None,
        noise: torch.Generator,
    ) -> Ticks:
        """All codes (1, K, T), in windows that overlap by half."""
        n, fine = self.fine, self.bark.fine_acoustics
        books, size = self.coarse["n_coarse_codebooks"], self.bark.codec_model.config.codebook_size
        room, step, K = n["max_fine_input_length"], n["max_fine_history_length"], n["n_fine_codebooks"]  # fmt: skip
        codes = (coarse.view(-1, books) - self.semantic["semantic_vocab_size"]) % size
        codes = F.pad(codes, (0, K - books), value=size)
        length, before = len(codes), 0
        if prompt is not None:
            codes = torch.cat([prompt.fine.T[-step:], codes])
            before = len(codes) - length
        codes = F.pad(codes, (0, 0, 0, max(0, room - len(codes))), value=size)
        warmth = n["temperature"] if temperature is None else temperature
        # 1 and 0 both take the likeliest, as the published code does
        warmth = 0.0 if warmth in (None, 1.0) else warmth
        for i in range(1 + max(0, math.ceil((length - (room - before)) / step))):
            start = min(i * step, len(codes) - room)
            fill = min(before + i * step, len(codes) - step) - start
            window = codes[None, start : start + room]
            for book in range(books, K):
                logits = fine(window, book)[:, fill:, :size].float()
                window[..., fill:, book] = drawn(logits, warmth, 0, noise)
                yield
        return codes[before : before + length].T[None]


def sampling(numbers: dict[str, Any], temperature: float | None) -> tuple[float, int]:
    """Temperature (0: the likeliest) and top_k."""
    own = (numbers["temperature"] or 1.0) if numbers["do_sample"] else 0.0
    return own if temperature is None else temperature, numbers["top_k"] or 0


def drawn_on(
    gpt: Decoder,
    read: Tensor,
    most: int,
    masked: Any,
    temperature: float,
    top_k: int,
    noise: torch.Generator,
    end: int | None = None,
) -> Ticks:
    """Tokens (n,) that go on from embeddings (1, T, D): at most so many, and none from `end` on.
    `masked(logits (V,), index)` forbids some."""
    found: list[int] = []
    cache = KVCache(gpt.config, 1, read.shape[1] + most, read.dtype, read.device)
    while True:
        step = cache.step([(0, read.shape[1])])
        states = gpt.states(read, step.positions, step)
        step.commit()
        logits = masked(gpt.head(states[0, -1]).float(), len(found))
        token = drawn(logits[None, None], temperature, top_k, noise)[0, 0]
        if int(token) == end:
            break
        found.append(int(token))
        if len(found) == most:
            break
        read = gpt.embed_tokens(token[None, None])
        if len(found) % PACE == 0:
            yield
    return torch.tensor(found, dtype=torch.long, device=read.device)


def numbers_of(folder: Path) -> dict[str, dict[str, Any]]:
    """NUMBERS with what a folder's generation_config.json says."""
    file = folder / "generation_config.json"
    told = json.loads(file.read_text()) if file.is_file() else {}
    own = {part: told.get(part) or {} for part in NUMBERS}
    return {
        part: numbers | {key: value for key, value in own[part].items() if value is not None}
        for part, numbers in NUMBERS.items()
    }


def presets_of(folder: Path) -> dict[str, dict[str, Path]]:
    """The speakers of a folder: name -> which file holds each of the three prompts."""
    found: dict[str, dict[str, Path]] = {}
    index = folder / INDEX
    listed = json.loads(index.read_text()) if index.is_file() else {}
    for name, files in listed.items():
        if isinstance(files, dict):
            found[name] = {kind: folder / files[kind] for kind in PROMPTS if kind in files}
    for place in (folder / "speaker_embeddings", folder):
        for file in sorted(place.rglob(f"*{SUFFIX}")):
            name = str(file.relative_to(place)).removesuffix(SUFFIX)
            others = {kind: file.with_name(f"{Path(name).name}_{kind}.npy") for kind in PROMPTS}
            if place.name == "speaker_embeddings" or not name.startswith("speaker_embeddings"):
                found.setdefault(name, others)
        for file in sorted(place.rglob("*.npz")):
            name = str(file.relative_to(place)).removesuffix(".npz")
            if not name.startswith("speaker_embeddings"):
                found.setdefault(name, {"": file})
    return {
        name: files for name, files in found.items() if all(f.is_file() for f in files.values())
    }


def read_preset(name: str, files: dict[str, Path]) -> list[np.ndarray]:
    """The three prompts of a speaker; an error where one is missing or of another shape."""
    try:
        if "" in files:
            with np.load(files[""]) as whole:
                held = {kind: whole[kind] for kind in PROMPTS if kind in whole}
        else:
            held = {kind: np.load(file) for kind, file in files.items()}
    except (OSError, ValueError) as error:
        raise DaedalError(
            f"the speaker {name} cannot be read ({error}); download it again."
        ) from None
    for kind, axes in PROMPTS.items():
        if kind not in held or held[kind].ndim != axes:
            raise DaedalError(
                f"the speaker {name} has no {kind} of {axes} axes; give a speaker's file as Bark writes it."
            )
    return [held[kind] for kind in PROMPTS]
