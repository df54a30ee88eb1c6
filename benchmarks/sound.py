"""Stable Audio Open's shape, random weights: a step of the transformer, with guidance (two rows of
1024 frames), of Daedal against diffusers, both in bf16.

    python benchmarks/sound.py                 # pip install 'daedal[bench]' brings the peer
    python benchmarks/sound.py --layers 24     # the whole network: 4 GB for the two

All layers are alike, so a step of few stands for a step of all. The systems take turns; medians over
the rounds. The last line is JSON."""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed

from daedal.networks.stable_audio import StableAudioDiTConfig, StableAudioDiTModel

TEXT, FRAMES = 130, 1024


def inputs() -> tuple[torch.Tensor, ...]:
    shapes = ((2, 64, FRAMES), (2, TEXT, 768), (2, 1536))
    return tuple(torch.randn(shape, dtype=torch.bfloat16) for shape in shapes)


def ours(layers: int) -> Callable[[], object]:
    network = StableAudioDiTModel(StableAudioDiTConfig(num_layers=layers)).to(torch.bfloat16).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x, text, times = inputs()
    keys = network.text_keys(text)  # once a prompt
    return lambda: network(x, torch.full((2,), 0.5), keys, times)


def theirs(layers: int) -> Callable[[], object]:
    network = diffusers.StableAudioDiTModel(num_layers=layers).to(torch.bfloat16).eval()
    x, text, times = inputs()
    rope = get_1d_rotary_pos_embed(32, FRAMES + 1, use_real=True, repeat_interleave_real=False)
    return lambda: network(
        x,
        torch.full((1,), 0.5),
        encoder_hidden_states=text,
        global_hidden_states=times[:, None],
        rotary_embedding=rope,
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    systems = {"daedal": ours(asked.layers), "diffusers": theirs(asked.layers)}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for run in systems.values():
        run()
    for _ in range(asked.rounds):
        for name, run in systems.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    found = {name: statistics.median(each) for name, each in times.items()}
    for name, seconds in found.items():
        print(f"{name:<10} {1000 * seconds:8.1f} ms a step of {asked.layers} layers")
    ratio = found["diffusers"] / found["daedal"]
    print(f"{ratio:.2f}x")
    print(json.dumps({"seconds": found, "ratio": ratio}))


if __name__ == "__main__":
    main()
