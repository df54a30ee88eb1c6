"""The open models of clips against diffusers, on weights drawn at random.

    python benchmarks/video.py                       # a step of Wan 1.3B cut to four layers, and its memory
    python benchmarks/video.py --whole FOLDER        # a clip of the whole Wan 1.3B in 12 GB; writes 14 GB to FOLDER
    python benchmarks/video.py --encoding            # what writing the file adds to a clip

A step is one of 17 frames of 256 x 256 with guidance, in bf16: both are timed in pairs, one after the other
in turn, in one process; peak memory is that of a process each. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import daedal
from daedal import checkpoints
from daedal.checkpoints.files import publish
from daedal.checkpoints.folder import config_of, disk_name, stem_of
from daedal.engine.store import STORE
from daedal.media import video
from daedal.networks import build, component
from daedal.networks.config import parse

BIT = torch.bfloat16
SHAPE: dict[str, Any] = dict(num_attention_heads=12, ffn_dim=8960, num_layers=4)
LATENT, TEXT, WIDTH = (1, 16, 5, 32, 32), 512, 4096
UMT5: dict[str, Any] = dict(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
)  # fmt: skip
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0,
}  # fmt: skip


def peak() -> int:
    """Most bytes that this process has held, of mapped files too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


# ---- a step --------------------------------------------------------------------------------------


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, and the states of a prompt and of a negative one."""
    g = torch.Generator().manual_seed(0)
    x, words = torch.randn(LATENT, generator=g), torch.randn(2, 1, TEXT, WIDTH, generator=g)
    return x.to(BIT), *words.to(BIT)


def ours(folder: Path) -> Callable[[], Tensor]:
    network = checkpoints.load(folder, dtype=BIT)
    x, words, negative = inputs()
    tokens = network.text_tokens(torch.cat([words, negative]))  # once a clip

    def step() -> Tensor:
        return network(torch.cat([x, x]), torch.full((2,), 500.0), tokens=tokens)

    return step


def diffusers(folder: Path) -> Callable[[], Tensor]:
    import diffusers

    network = diffusers.WanTransformer3DModel.from_pretrained(folder, torch_dtype=BIT)
    x, *words = inputs()
    time = torch.full((1,), 500.0)

    def step() -> Tensor:
        return torch.cat([network(x, time, each, return_dict=False)[0] for each in words])

    return step


SIDES = {"ours": ours, "diffusers": diffusers}


@torch.no_grad()
def compare(folder: Path, rounds: int) -> dict[str, float]:
    steps = {name: side(folder) for name, side in SIDES.items()}
    made = [step().float() for step in steps.values()]
    apart = float((made[0] - made[1]).abs().max() / made[1].abs().max())
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in list(steps)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - began)
    pairs = [theirs / mine for mine, theirs in zip(*times.values(), strict=True)]
    found = {f"{name} s": statistics.median(each) for name, each in times.items()}
    found |= {"times as fast": statistics.median(pairs), "apart": apart}
    for name in SIDES:
        line = [sys.executable, __file__, "--peak", name, "--folder", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        found[f"{name} peak GB"] = json.loads(done.splitlines()[-1]) / 1e9
    return found


@torch.no_grad()
def measure_peak(name: str, folder: Path) -> None:
    """Print the bytes that loading and two steps take over an idle interpreter with its imports."""
    before = peak()
    step = SIDES[name](folder)
    step(), step()
    print(json.dumps(peak() - before))


# ---- a whole model -------------------------------------------------------------------------------


def drawn(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(disk name, tensor), made as they are asked for: the same million random numbers over again, as
    billions would take minutes to draw."""
    some = (0.02 * torch.randn(2**20)).to(BIT)
    for name, empty in network.state_dict().items():
        count = empty.numel()
        flat = (
            torch.ones(count, dtype=BIT)
            if empty.dim() < 2
            else some.repeat(-(-count // len(some)))[:count]
        )
        yield disk_name(network, name), flat.view(empty.shape)


def write(folder: Path, name: str, **shape: Any) -> None:
    """A network of that class and shape, random."""
    with torch.device("meta"):
        network = build(parse(component(name).config_class, shape))
    raw = config_of(network)
    publish(drawn(network), raw, folder, 1_000_000_000, stem_of(raw))


def write_whole(folder: Path, layers: int) -> None:
    """A folder of Wan 2.1's 1.3B, with the house's tokenizer."""
    write(folder / "transformer", "WanTransformer3DModel", **SHAPE | dict(num_layers=30))
    write(folder / "vae", "AutoencoderKLWan")
    write(folder / "text_encoder", "UMT5EncoderModel", **UMT5 | dict(num_layers=layers))
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    house = checkpoints.resolve("house/text")
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "tokenizer" / name).write_bytes((house / name).read_bytes())
    index = {
        "_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))


def whole(folder: Path, layers: int) -> dict[str, float]:
    """A clip of 17 frames of 256 pixels in a step, where models may take DAEDAL_MEMORY, 12 GB."""
    if not (folder / "model_index.json").exists():
        write_whole(folder, layers)
    os.environ.setdefault("DAEDAL_MEMORY", "12")
    began = time.perf_counter()
    pipeline = daedal.load(str(folder), dtype="bf16")
    size = dict(size="256x256", seconds=17 / 16, fps=16)
    clip = pipeline("a cat walks", steps=1, guidance_scale=1, seed=1, **size)
    assert clip.frames.shape == (17, 256, 256, 3)
    found = {f"{Path(key[1]).name} GB": size / 1e9 for key, size, _ in STORE.models()}
    return {"peak GB": peak() / 1e9, "s": time.perf_counter() - began} | found


# ---- files ---------------------------------------------------------------------------------------


def encoding() -> dict[str, float]:
    """Seconds that writing mp4 takes, of a clip of 81 frames of 832 x 480 that moves."""
    down, right = np.mgrid[:480, :832]
    frames = [
        np.stack([(down + 3 * i) % 256, (right + 2 * i) % 256, down // 2], -1).astype(np.uint8)
        for i in range(81)
    ]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        video.save_clip(np.stack(frames), Path(folder) / "a.mp4", 16)
        return {"81 frames of 832x480, s": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", type=Path, metavar="FOLDER")
    parser.add_argument("--text-layers", type=int, default=24, help="of the whole's text encoder")
    parser.add_argument("--encoding", action="store_true")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        return measure_peak(asked.peak, asked.folder)
    if asked.whole:
        found = whole(asked.whole, asked.text_layers)
    elif asked.encoding:
        found = encoding()
    else:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "transformer"
            write(folder, "WanTransformer3DModel", **SHAPE)
            found = compare(folder, asked.rounds)
    for name, value in found.items():
        print(f"{name:30} {value:10.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
