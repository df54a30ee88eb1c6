"""A window of half a minute through Whisper base's shape, random weights: Daedal against
faster-whisper's engine (CTranslate2, int8), in turn.

    python benchmarks/hear.py               # pip install 'daedal[bench]' brings the peer
    python benchmarks/hear.py --beams 1     # greedy

Each round encodes a window and decodes as many tokens as a window may have, once by each; the end's
token is forbidden to both, so that the work is the same. Medians over the rounds; a ratio above 1
means that Daedal is the faster. The last line is JSON."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models

from daedal.nn import kernels
from daedal.systems.hearing import searched
from daedal.systems.languages import LANGUAGES
from daedal.systems.whisper import Whisper, log_mel

BASE = dict(
    vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
    encoder_ffn_dim=2048, decoder_ffn_dim=2048, pad_token_id=50257, bos_token_id=50257, eos_token_id=50257, decoder_start_token_id=50258,
    suppress_tokens=None, begin_suppress_tokens=[220, 50257],
)  # fmt: skip


def made(folder: Path) -> Path:
    """A folder of the shape with random weights and Whisper's special tokens."""
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**BASE))
    g = model.generation_config
    g.alignment_heads, g.lang_to_id = [[5, 0]], {"<|en|>": 50259}
    model.save_pretrained(folder)
    tail = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    codes = list(LANGUAGES)[:99]
    special = [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *codes, *tail)]
    words = {f"w{i}": i for i in range(50257)} | {t: 50257 + i for i, t in enumerate(special)}
    words |= {f"<|{i / 50:.2f}|>": 50364 + i for i in range(1501)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def finished(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def ours(folder: Path, sound: np.ndarray, beams: int) -> Callable[[], tuple[float, float, int]]:
    whisper = Whisper.load(folder, torch.device("cpu"))
    t = whisper.tokens
    whisper.tokens = replace(t, suppressed=(*t.suppressed, t.end))
    prompt = [t.start, t.languages["en"], t.transcribe, t.no_clock]

    @torch.inference_mode()
    def run() -> tuple[float, float, int]:
        began = time.perf_counter()
        states = whisper.encode(sound)
        encoded = time.perf_counter()
        heard = finished(searched(whisper, states, prompt, beams, False))
        return encoded - began, time.perf_counter() - encoded, len(heard.tokens)

    return run


def theirs(
    folder: Path, sound: np.ndarray, beams: int, threads: int
) -> Callable[[], tuple[float, float, int]]:
    engine = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type="int8", intra_threads=threads
    )
    prompt = [50258, 50259, 50359, 50363]

    def run() -> tuple[float, float, int]:
        began = time.perf_counter()
        mel = log_mel(sound, 80, 3000).astype(np.float32)[None]
        states = engine.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True)
        encoded = time.perf_counter()
        found = engine.generate(
            states, [prompt], beam_size=beams, suppress_tokens=[-1, 50257], max_length=448
        )
        return encoded - began, time.perf_counter() - encoded, len(found[0].sequences_ids[0])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kernels.build()
    sound = np.random.default_rng(0).normal(0, 0.1, 480_000).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        folder = made(Path(place) / "hf")
        TransformersConverter(str(folder)).convert(str(Path(place) / "ct2"), quantization="int8")
        systems = {
            "daedal": ours(folder, sound, asked.beams),
            "faster-whisper int8": theirs(Path(place) / "ct2", sound, asked.beams, asked.threads),
        }
        times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in systems}
        for _ in range(asked.rounds + 1):
            for name, run in systems.items():
                times[name].append(run())
    rows = {}
    for name, found in times.items():
        encode, decode, tokens = (statistics.median(each) for each in zip(*found[1:], strict=True))
        rows[name] = {
            "encode": encode,
            "decode": decode,
            "tokens": tokens,
            "per_token": decode / tokens,
        }
        print(
            f"{name:<22} encode {encode:6.3f} s   decode {decode:6.3f} s   {tokens:.0f} tokens   {1000 * decode / tokens:5.1f} ms each"
        )
    a, b = rows["daedal"], rows["faster-whisper int8"]
    whole = {name: row["encode"] + 100 * row["per_token"] for name, row in rows.items()}
    ratios = {
        "encode": b["encode"] / a["encode"],
        "decode": b["per_token"] / a["per_token"],
        "window of 100 tokens": whole["faster-whisper int8"] / whole["daedal"],
    }
    print("   ".join(f"{name} {value:.2f}x" for name, value in ratios.items()))
    print(json.dumps({"beams": asked.beams, "rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
