"""Every figure of a GPU in one command of a few minutes: whoever has one for a quarter of an hour
gets all of them.

    python benchmarks/gpu.py                  # a 0.6B language model, Stable Diffusion 1.5's U-Net;
    random weights
    python benchmarks/gpu.py --tiny           # the same code on any machine, in seconds; its
    figures say nothing

Shares are of the read bandwidth and matrix rate measured on the same device in the same run. The
last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import nn

from daedal import device as machine
from daedal.engine.engine import Engine
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

    def language(self) -> nn.Module:
        network = build(config_from_dict(SMALL_LANGUAGE if self.tiny else LANGUAGE)).init_weights(0)
        return network.to(self.device, self.dtype)

    def decode(self) -> None:
        """Tokens a second at batch 1 and 64, and the share of the bandwidth that reading the
        weights once a step takes."""
        network = self.language().eval()
        size = sum(
            parameter.numel() * parameter.element_size() for parameter in network.parameters()
        )
        for batch in (1, 4) if self.tiny else (1, 64):
            engine, tokens = (
                Engine(network, max_batch=batch, max_len=512, prefix_caching=False),
                8 if self.tiny else 128,
            )
            prompts = [[5 + i, 6, 7] for i in range(batch)]
            asked = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            took = self.seconds(lambda e=engine, p=prompts, a=asked: e.generate(p, a)) / tokens
            self.note(f"decode, batch {batch}", batch / took, "tokens/s")
            self.note(
                f"decode, batch {batch}: share of bandwidth", size / took / self.bandwidth, ""
            )
        self.peak("decode")

    def prefill(self) -> None:
        """Tokens a second of reading a prompt, and the share of the matrix rate."""
        network, count = self.language().eval(), 64 if self.tiny else 4096
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--tiny", action="store_true", help="Small shapes, to try the code where there is no GPU."
    )
    bench, began = Bench(parser.parse_args()), time.perf_counter()
    for part in (bench.machine, bench.decode, bench.prefill, bench.train, bench.picture):
        part()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    bench.note("all of it", time.perf_counter() - began, "s")
    print(json.dumps({"device": str(bench.device), "tiny": bench.tiny, **bench.figures}))


if __name__ == "__main__":
    main()
