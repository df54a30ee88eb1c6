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


Step = Callable[[], torch.Tensor]


def systems(layers: int) -> tuple[dict[str, Step], Step]:
    """A step of both in bf16, and ours in fp32, of the same weights on the same input."""
    config = StableAudioDiTConfig(num_layers=layers)
    exact = StableAudioDiTModel(config).eval()
    for parameter in exact.parameters():
        torch.nn.init.normal_(parameter, std=0.025 if parameter.dim() > 1 else 1.0)
    network = StableAudioDiTModel(config).to(torch.bfloat16).eval()
    network.load_state_dict(exact.state_dict())
    peer = diffusers.StableAudioDiTModel(num_layers=layers).to(torch.bfloat16).eval()
    peer.load_state_dict(exact.state_dict())
    shapes = ((2, 64, FRAMES), (2, TEXT, 768), (2, 1536))
    whole = [torch.randn(shape) for shape in shapes]
    x, text, times = (each.bfloat16() for each in whole)
    keys, time = network.text_keys(text), torch.full((2,), 0.5)  # keys once a prompt
    rope = get_1d_rotary_pos_embed(32, FRAMES + 1, use_real=True, repeat_interleave_real=False)
    told = dict(encoder_hidden_states=text, global_hidden_states=times[:, None])
    steps: dict[str, Step] = {
        "daedal": lambda: network(x, time, keys, times),
        "diffusers": lambda: peer(x, time[:1], **told, rotary_embedding=rope).sample,
    }
    return steps, lambda: exact(whole[0], time, exact.text_keys(whole[1]), whole[2])


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
    steps, exact = systems(asked.layers)
    times: dict[str, list[float]] = {name: [] for name in steps}
    wanted = exact()
    errors = {name: float((run() - wanted).norm() / wanted.norm()) for name, run in steps.items()}
    for _ in range(asked.rounds):
        for name, run in steps.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    found = {name: statistics.median(each) for name, each in times.items()}
    for name, seconds in found.items():
        what = f"{1000 * seconds:8.1f} ms a step of {asked.layers} layers"
        print(f"{name:<10} {what}, error against fp32 {errors[name]:.4f}")
    ratio = found["diffusers"] / found["daedal"]
    print(f"{ratio:.2f}x")
    print(json.dumps({"seconds": found, "ratio": ratio, "errors": errors}))


if __name__ == "__main__":
    main()
