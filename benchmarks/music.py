"""MusicGen small's shape, random weights: columns a second of Daedal (8-bit weights) against
transformers in bf16, at batch 1, plain and with guidance (two rows).

    python benchmarks/music.py                # pip install 'daedal[bench]' brings the peer
    python benchmarks/music.py --columns 20   # a quick look

A column is one token of each of the four codebooks, fifty of which are a second of sound. The systems
take turns; medians over the rounds. The last line is JSON."""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from daedal.networks import build, config_from_dict
from daedal.nn import kernels
from daedal.nn.quantized import quantize_
from daedal.systems.musicgen import MusicGen, composed

DECODER = dict(model_type="musicgen_decoder", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, ffn_dim=4096)  # fmt: skip
TEXT = dict(model_type="t5", d_model=768, d_kv=64, d_ff=3072, num_layers=1, num_heads=12)
CODEC = dict(model_type="encodec", num_filters=8, sampling_rate=32000, upsampling_ratios=[8, 5, 4, 4], codebook_size=2048, target_bandwidths=[2.2], use_causal_conv=False)  # fmt: skip
PROMPT = 16


def ours(raw: dict) -> Callable[[int, float], float]:
    network = build(config_from_dict(raw))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    quantize_(network.lm.eval(), 8)
    music = MusicGen(network, None)  # type: ignore[arg-type]

    def run(columns: int, scale: float) -> float:
        states = torch.randn(1, PROMPT, 1024) * 0.1
        empty = torch.zeros(1, 4, 0, dtype=torch.long)
        steps = composed(music, states, empty, columns, scale, 1.0, 250, torch.Generator())
        next(steps)  # the prompt is read, and what is made once is made
        began, count = time.perf_counter(), sum(1 for _ in steps)
        return count / (time.perf_counter() - began)

    return run


def theirs(raw: dict) -> Callable[[int, float], float]:
    model = transformers.MusicgenForConditionalGeneration(transformers.MusicgenConfig(**raw))
    model = model.eval().to(torch.bfloat16)

    times: list[float] = []
    model.decoder.register_forward_hook(lambda *_: times.append(time.perf_counter()))

    @torch.inference_mode()
    def run(columns: int, scale: float) -> float:
        times.clear()
        prompt = torch.randint(2, 32000, (1, PROMPT))
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=250,
            guidance_scale=scale,
            num_return_sequences=1,
            max_length=columns + 4,
            pad_token_id=2048,
            decoder_start_token_id=2048,
            bos_token_id=2048,
            eos_token_id=None,
        )
        return (len(times) - 1) / (times[-1] - times[0])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kernels.build()
    raw = {
        "model_type": "musicgen",
        "text_encoder": TEXT,
        "audio_encoder": CODEC,
        "decoder": DECODER,
    }
    systems = {
        "daedal": ours({"architectures": ["MusicgenForConditionalGeneration"], **raw}),
        "transformers bf16": theirs(raw),
    }
    rates: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        for name, run in systems.items():
            for scale in (1.0, 3.0):
                rates.setdefault(f"{name}, guidance {scale:g}", []).append(
                    run(asked.columns, scale)
                )
    found = {name: statistics.median(each) for name, each in rates.items()}
    for name, rate in found.items():
        print(f"{name:<34} {rate:6.1f} columns a second")
    ratios = {
        f"guidance {s:g}": found[f"daedal, guidance {s:g}"]
        / found[f"transformers bf16, guidance {s:g}"]
        for s in (1.0, 3.0)
    }
    print("   ".join(f"{name} {value:.2f}x" for name, value in ratios.items()))
    print(json.dumps({"columns": found, "ratios": ratios}))


if __name__ == "__main__":
    main()
