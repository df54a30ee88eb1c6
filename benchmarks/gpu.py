"""Every figure of a GPU in one command of at most eight minutes: whoever has one for a quarter of
an hour gets all of them.

    python benchmarks/gpu.py                            # a 0.6B language model, Stable Diffusion
    1.5's U-Net; random weights
    python benchmarks/gpu.py --attention sdpa --graphs off      # decode in one way only
    python benchmarks/gpu.py --tiny                     # the same code on any machine, in seconds;
    its figures say nothing

Decode is measured in every way that is asked for: attention by flex and by sdpa, with CUDA graphs
and without, the usual way first and the others last, as far as the time goes. A part that fails is
named, and the others go on. Shares are of the read bandwidth and matrix rate measured on the same
device in the same run. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from daedal import device as machine
from daedal.engine.engine import Engine
from daedal.engine.graphs import Graphs
from daedal.networks import build, config_from_dict
from daedal.networks.config import parse
from daedal.networks.unet import UNet2DConditionModel
from daedal.processes.sampling import SamplingParams
from daedal.train.objectives import linear_cross_entropy

LANGUAGE = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
UNET = {"cross_attention_dim": 768, "sample_size": 64}
SMALL_LANGUAGE = LANGUAGE | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SMALL_LANGUAGE |= {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512}
SMALL_UNET = UNET | {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 8,
}


ATTENTION, GRAPHS = ("flex", "sdpa"), ("on", "off")  # the usual way first
LIMIT = 420  # seconds after which no further way to decode is begun


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.tiny, self.figures = (
            machine.pick_device(options.device),
            options.tiny,
            dict[str, float](),
        )
        self.dtype = machine.compute_dtype("auto", self.device)
        self.bandwidth = machine.read_bandwidth(self.device)
        self.rate = machine.matrix_peak(self.device, self.dtype)

    def note(self, name: str, value: float, unit: str) -> None:
        self.figures[name] = value
        print(f"{name:<44} {value:>12,.3f} {unit}", flush=True)

    def seconds(self, call: Callable[[], object]) -> float:
        return machine.best_time(call, self.device, repeats=2 if self.tiny else 5)

    def peak(self, name: str) -> None:
        if self.device.type == "cuda":
            self.note(f"{name}: peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
            torch.cuda.reset_peak_memory_stats()

    def machine(self) -> None:
        self.note("read bandwidth", self.bandwidth / 1e9, "GB/s")
        self.note(f"matrices in {self.dtype}", self.rate / 1e12, "TFLOP/s")

    @cached_property
    def reader(self) -> nn.Module:
        """The language model that prefill and decode share."""
        return self.language().eval()

    def language(self) -> nn.Module:
        network = build(config_from_dict(SMALL_LANGUAGE if self.tiny else LANGUAGE)).init_weights(0)
        return network.to(self.device, self.dtype)

    def decode(self, attention: str, graphs: str) -> None:
        """Tokens a second at batch 1 and 64, and the share of the bandwidth that reading the
        weights once a step takes."""
        network = self.reader
        size = sum(
            parameter.numel() * parameter.element_size() for parameter in network.parameters()
        )
        tokens = 8 if self.tiny else 128
        asked = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        for batch in (1, 4) if self.tiny else (1, 64):
            engine = Engine(
                network,
                attention=attention,
                replay=False,
                max_batch=batch,
                max_len=512,
                prefix_caching=False,
            )
            if engine.attention != attention:
                raise RuntimeError(f"attention by {attention} does not run here")
            if graphs == "on":
                engine.replays = Graphs(network, engine.cache)
            name = f"decode, {attention}, graphs {graphs}, batch {batch}"
            prompts = [[5 + i, 6, 7] for i in range(batch)]
            took = self.seconds(lambda e=engine, p=prompts: e.generate(p, asked)) / tokens
            if engine.replays is not None and engine.replays.refused:
                raise RuntimeError("the decode step could not be captured")
            self.note(name, batch / took, "tokens/s")
            self.note(f"{name}: share of bandwidth", size / took / self.bandwidth, "")
        self.peak(f"decode, {attention}, graphs {graphs}")

    def prefill(self) -> None:
        """Tokens a second of reading a prompt, and the share of the matrix rate."""
        network, count = self.reader, 64 if self.tiny else 4096
        tokens = torch.randint(0, 500, (1, count), device=self.device)
        with torch.inference_mode():
            took = self.seconds(lambda: network.hidden(tokens))
        self.note(f"prefill of {count}", count / took, "tokens/s")
        self.note(
            "prefill: share of matrix rate",
            count * network.flops_per_token(count // 2) / took / self.rate,
            "",
        )
        self.peak("prefill")

    def train(self) -> None:
        """Model FLOP utilisation of a training step: forward, backward and AdamW."""
        network, rows, length = (
            self.language().train(),
            2 if self.tiny else 8,
            64 if self.tiny else 1024,
        )
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-4, fused=self.device.type == "cuda"
        )
        tokens = torch.randint(0, 500, (rows, length + 1), device=self.device)

        def step() -> None:
            hidden = network.hidden(tokens[:, :-1])
            (
                linear_cross_entropy(hidden, network.lm_head.weight, tokens[:, 1:])
                / (rows * length)
            ).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        took = self.seconds(step)
        self.note(f"training, {rows} x {length}", rows * length / took, "tokens/s")
        self.note(
            "training: MFU",
            rows * length * network.flops_per_token(length // 2, train=True) / took / self.rate,
            "",
        )
        self.peak("training")

    def picture(self) -> None:
        """A guided step of Stable Diffusion 1.5's U-Net at 512 x 512."""
        config = SMALL_UNET if self.tiny else UNET
        network = (
            UNet2DConditionModel(parse(UNet2DConditionModel.config_class, config))
            .to(self.device, self.dtype)
            .eval()
        )
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.02)
        side = config["sample_size"]
        x = torch.randn(2, 4, side, side, device=self.device, dtype=self.dtype)
        text = torch.randn(2, 77, 768, device=self.device, dtype=self.dtype)
        time_ = torch.full((2,), 500.0, device=self.device)
        with torch.inference_mode():
            kv = network.text_keys(text)
            took = self.seconds(lambda: network(x, time_, text_kv=kv))
        self.note("SD 1.5 guided step, 512 x 512", took * 1e3, "ms")
        self.peak("picture")


def usual_first(attention: list[str], graphs: list[str]) -> list[tuple[str, str]]:
    """The ways to decode, in the order of ATTENTION and GRAPHS."""
    return [(a, g) for a in ATTENTION if a in attention for g in GRAPHS if g in graphs]


def run(bench: Bench, ways: list[tuple[str, str]]) -> list[str]:
    """All parts one after another; returns what failed or was left out, a sentence each."""
    began, failed = time.perf_counter(), list[str]()

    def part(name: str, call: Callable[..., None], *how: str) -> None:
        try:
            call(*how)
        except Exception as error:  # whatever it is, the other figures are still wanted
            failed.append(f"{name} failed: {type(error).__name__}: {str(error)[:300]}")
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()

    for name in ("machine", "train", "picture", "prefill"):
        part(name, getattr(bench, name))
    for attention, graphs in ways:
        name = f"decode by {attention}, graphs {graphs}"
        if time.perf_counter() - began > LIMIT:
            failed.append(f"{name} was left out: {LIMIT} seconds had passed")
        else:
            part(name, bench.decode, attention, graphs)
    bench.note("all of it", time.perf_counter() - began, "s")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=list(ATTENTION))
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument(
        "--tiny", action="store_true", help="Small shapes, to try the code where there is no GPU."
    )
    options = parser.parse_args()
    if machine.pick_device(options.device).type == "cpu" and not options.tiny:
        sys.exit(
            "There is no GPU here; --tiny tries the code, and benchmarks/decode.py has a CPU's figures."
        )
    bench = Bench(options)
    failed = run(bench, usual_first(options.attention, options.graphs))
    for sentence in failed:
        print(sentence, file=sys.stderr)
    found = {"device": str(bench.device), "tiny": bench.tiny, **bench.figures, "failed": failed}
    print(json.dumps(found))  # the last line
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
