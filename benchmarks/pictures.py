"""A denoising step of Stable Diffusion 1.5's shape, and its autoencoder, against diffusers, with
the same random weights in one process, and the house's pictures.

    python benchmarks/pictures.py                       # 256 px, classifier-free guidance (batch
    2), fp32 and bf16
    python benchmarks/pictures.py --part decode         # latents to a picture, fp32
    python benchmarks/pictures.py --part house          # seconds a picture from a warm process

Rounds are interleaved and the medians compared. Diffusers runs as its users run it (fp32), and in
bf16 with channels_last memory. Ours computes the keys and values of the prompt once, not in every
step. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from daedal import device

SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD_VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4, "layers_per_block": 2,
}  # fmt: skip


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, one after another in every round."""
    times = [[timed(call) for call in calls.values()] for _ in range(rounds)]
    return dict(zip(calls, map(statistics.median, zip(*times, strict=True)), strict=True))


@torch.no_grad()
def step(options: argparse.Namespace) -> dict[str, float]:
    import diffusers

    from daedal.networks.config import parse
    from daedal.networks.unet import UNet2DConditionModel
    from daedal.nn.quick import quicken

    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**SD15).eval()
    with torch.device("meta"):
        ours = UNet2DConditionModel(parse(UNet2DConditionModel.config_class, SD15)).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)  # one copy of the weights
    quicken(ours)
    side = options.size // 8
    x, text, at = (
        torch.randn(2, 4, side, side),
        torch.randn(2, 77, 768),
        torch.tensor([500.0, 500.0]),
    )
    off = (ours(x, at, text_kv=ours.text_keys(text)) - theirs(x, at, text).sample).abs().max()
    print(f"largest difference of the two outputs {off:.1e}")
    kv = ours.text_keys(text)
    found = interleaved(
        {
            "diffusers fp32": lambda: theirs(x, at, text),
            "daedal fp32": lambda: ours(x, at, text_kv=kv),
        },
        options.rounds,
    )
    if options.bf16:
        theirs.to(torch.bfloat16).to(memory_format=torch.channels_last)
        ours.load_state_dict(theirs.state_dict(), assign=True)
        half, words = x.bfloat16().to(memory_format=torch.channels_last), text.bfloat16()
        kv = ours.text_keys(words)
        calls = {
            "diffusers bf16 channels_last": lambda: theirs(half, at, words),
            "daedal bf16": lambda: ours(half, at, text_kv=kv),
        }
        found |= interleaved(calls, options.rounds)
    return found


@torch.no_grad()
def decode(options: argparse.Namespace) -> dict[str, float]:
    import diffusers

    from daedal.networks.autoencoder import AutoencoderKL
    from daedal.networks.config import parse
    from daedal.nn.quick import quicken

    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**SD_VAE).eval()
    ours = AutoencoderKL(parse(AutoencoderKL.config_class, SD_VAE)).eval()
    ours.load_state_dict(theirs.state_dict())
    quicken(ours)
    z = torch.randn(1, 4, options.size // 8, options.size // 8)
    calls = {
        "diffusers fp32": lambda: theirs.decode(z).sample,
        "daedal fp32": lambda: ours.decode(ours.scaled(z)),
    }
    one, other = (call() for call in calls.values())
    print(f"largest difference of the two pictures {(one - other).abs().max():.1e}")
    return interleaved(calls, options.rounds)


def house(options: argparse.Namespace) -> dict[str, float]:
    from daedal.pipelines.image import load

    pipeline = load(options.model)
    pipeline("a red circle", seed=0)  # warm
    values = [
        timed(lambda: pipeline("a blue star above a green square", seed=1))
        for _ in range(options.rounds)
    ]
    return {
        f"{options.model}, {pipeline.painter.defaults['steps']} steps": statistics.median(values)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["step", "decode", "house"], default="step")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=device.has_bf16_units(torch.device("cpu")),
    )
    parser.add_argument("--model", default="house/image")
    options = parser.parse_args()
    seconds = {"step": step, "decode": decode, "house": house}[options.part](options)
    base = seconds.get("diffusers fp32")
    for name, value in seconds.items():
        print(f"{name:<32}{value:8.3f} s" + (f"{base / value:8.2f}x" if base else ""))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
