"""Training against peers, same shape, same data, in one process: tokens a second, then wall time to
the baseline's final validation loss.

    python benchmarks/training.py                                  # both tables
    python benchmarks/training.py --part speed --depth 6 --width 384
    python benchmarks/training.py --part loss --data FILE.parquet

Peers: a plain nanoGPT-style loop (GPT-2 block, AdamW, cosine, fp32, whole logits), and the
transformers Trainer in bf16 (extra: bench). The last line is JSON.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal import device as machine
from daedal.data.documents import Source
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.networks import build, config_from_dict
from daedal.train.objectives import linear_cross_entropy
from daedal.train.optim import build_optimizers
from daedal.train.recipe.base import ModelRecipe, OptimizerRecipe


class PlainGPT(nn.Module):
    """The baseline: GPT-2's block written plainly, learned positions, tied head, whole logits."""

    def __init__(self, vocab: int, width: int, depth: int, context: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "ln1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width),
                "ln2": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width),
            })
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(
                    p,
                    std=0.02
                    / (
                        math.sqrt(2 * depth) if name.endswith(("proj.weight", "down.weight")) else 1
                    ),
                )

    def forward(self, tokens: Tensor) -> Tensor:
        B, T = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(T))
        for b in self.blocks:
            q, k, v = (
                t.view(B, T, self.heads, -1).transpose(1, 2)
                for t in b["qkv"](b["ln1"](x)).chunk(3, -1)
            )
            x = x + b["proj"](
                F.scaled_dot_product_attention(q, k, v, is_causal=True)
                .transpose(1, 2)
                .reshape(B, T, -1)
            )
            x = x + b["down"](F.gelu(b["up"](b["ln2"](x))))
        return self.head(self.norm(x))


class Plain:
    """nanoGPT-style training: AdamW with weight decay 0.1, clip 1, warm-up and cosine."""

    name = "nanoGPT-style fp32 AdamW"

    def __init__(self, vocab: int, width: int, depth: int, context: int, lr: float = 1e-3) -> None:
        self.net, self.lr = PlainGPT(vocab, width, depth, context), lr
        decay = [p for p in self.net.parameters() if p.dim() == 2]
        rest = [p for p in self.net.parameters() if p.dim() != 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))

    def step(self, rows: Tensor, factor: float = 1.0) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        loss = self.loss(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def loss(self, rows: Tensor) -> Tensor:
        return F.cross_entropy(self.net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    @staticmethod
    def schedule(step: int, steps: int) -> float:
        warmup = max(1, steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


class Daedal:
    """Our trainer's step: Llama block, chunked cross-entropy, Muon + AdamW, the device's compute
    dtype."""

    def __init__(self, vocab: int, width: int, depth: int, context: int) -> None:
        device = torch.device("cpu")
        self.dtype = machine.compute_dtype("auto", device)
        self.name = f"daedal {str(self.dtype).removeprefix('torch.')} Muon"
        recipe = ModelRecipe(
            depth=depth,
            context=context,
            options={"hidden_size": width, "tie_word_embeddings": True},
        )
        self.net = build(config_from_dict(recipe.config(vocab, 0, 1))).init_weights(0).train()
        self.net.compute_dtype = None if self.dtype == torch.float32 else self.dtype
        o = OptimizerRecipe(warmup=20)
        self.recipe, self.optimizers = o, build_optimizers(o, self.net, width, self.dtype)
        self.peaks = [[g["lr"] for g in opt.param_groups] for opt in self.optimizers]

    def step(self, rows: Tensor, factor: float = 1.0) -> float:
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        loss = self.loss(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def loss(self, rows: Tensor) -> Tensor:
        return (
            linear_cross_entropy(
                self.net.hidden(rows[:, :-1]), self.net.lm_head.weight, rows[:, 1:]
            )
            / rows[:, 1:].numel()
        )

    def schedule(self, step: int, steps: int) -> float:
        return self.recipe.factor(step, steps)


class TransformersTrainer:
    """The transformers Trainer in bf16 on a Llama of the same shape: seconds of each optimizer
    step."""

    name = "transformers Trainer bf16"

    def __init__(self, vocab: int, width: int, depth: int, context: int) -> None:
        import transformers

        self.transformers = transformers
        recipe = ModelRecipe(
            depth=depth,
            context=context,
            options={"hidden_size": width, "tie_word_embeddings": True},
        )
        raw = recipe.config(vocab, 0, 1) | {"pad_token_id": 0}
        self.net = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{k: v for k, v in raw.items() if k != "model_type"})
        )

    def seconds(self, rows: list[Tensor], bf16: bool = True) -> list[float]:
        times: list[float] = []

        class Clock(self.transformers.TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                self.at = time.perf_counter()

            def on_step_end(self, *args, **kwargs):
                times.append(time.perf_counter() - self.at)

        with tempfile.TemporaryDirectory() as folder:
            arguments = self.transformers.TrainingArguments(
                folder, max_steps=len(rows), per_device_train_batch_size=len(rows[0]), bf16=bf16, use_cpu=True, save_strategy="no", report_to=[],
                logging_steps=1000, disable_tqdm=True,
            )  # fmt: skip
            data = [{"input_ids": row[:-1], "labels": row[:-1]} for batch in rows for row in batch]
            self.transformers.Trainer(
                self.net, arguments, train_dataset=data, callbacks=[Clock()]
            ).train()
        return times


def speed(args: argparse.Namespace) -> dict[str, float]:
    """Median tokens a second of interleaved steps."""
    shape = (args.vocab, args.width, args.depth, args.context)
    rows = torch.randint(0, args.vocab, (args.rows, args.context + 1))
    ours = Daedal(*shape)
    runners, times = [ours, Plain(*shape)], {}
    for _ in range(args.steps + 1):
        for runner in runners:
            start = time.perf_counter()
            runner.step(rows)
            times.setdefault(runner.name, []).append(time.perf_counter() - start)
    try:
        times[TransformersTrainer.name] = TransformersTrainer(*shape).seconds(
            [rows] * (args.steps + 1)
        )
    except ImportError:
        print('transformers Trainer: not installed; pip install "daedal[bench]"', file=sys.stderr)
    tokens = args.rows * args.context
    rates = {name: tokens / statistics.median(seconds[1:]) for name, seconds in times.items()}
    peak = machine.matrix_peak(torch.device("cpu"), ours.dtype)
    flops = ours.net.flops_per_token(args.context // 2, train=True)
    print(
        f"\n{'':<28}{'tok/s':>10}{'daedal /':>10}   ({ours.net.parameter_count():,} parameters, {args.rows} x {args.context} tokens a step)"
    )
    for name, rate in rates.items():
        print(f"{name:<28}{rate:>10,.0f}{rates[ours.name] / rate:>10.2f}")
    print(
        f"daedal: {rates[ours.name] * flops / 1e9:.0f} GFLOP/s, MFU {rates[ours.name] * flops / peak:.0%} of the measured peak of {peak / 1e9:.0f}"
    )
    return rates


def time_to_loss(args: argparse.Namespace) -> dict[str, float]:
    """Train the baseline for `steps`; then ours with a schedule of ever fewer steps, in wall time,
    to the same validation loss."""
    source = Source(path=args.data)
    from daedal.data.documents import documents

    texts = list(islice(documents([source]), 4000))
    tokenizer = Tokenizer.train(
        texts, args.vocab, ("<|bos|>", "<|eos|>"), bos="<|bos|>", eos="<|eos|>"
    )

    def batches(seed: int):
        return iter(PackedRows([source], tokenizer, args.rows, args.context, seed))

    shape = (tokenizer.vocab_size, args.width, args.depth, args.context)
    held = [next(batches(991)) for _ in range(4)]

    def run(runner, steps: int) -> tuple[float, float]:
        feed, began, evaluating = batches(0), time.perf_counter(), 0.0
        for step in range(steps):
            runner.step(next(feed), runner.schedule(step, steps))
        took = time.perf_counter() - began - evaluating
        with torch.no_grad():
            return took, statistics.mean(runner.loss(rows).item() for rows in held)

    torch.manual_seed(0)
    base_time, base_loss = run(Plain(*shape), args.loss_steps)
    print(
        f"{Plain.name}: {args.loss_steps} steps, {base_time:.1f} s, validation loss {base_loss:.4f}"
    )
    result = {}
    for share in (0.25, 0.375, 0.5, 0.75, 1.0):
        took, loss = run(Daedal(*shape), max(20, int(args.loss_steps * share)))
        print(
            f"daedal: {int(args.loss_steps * share)} steps, {took:.1f} s ({took / base_time:.2f} of the baseline's time), validation loss {loss:.4f}"
        )
        result = {
            "baseline_seconds": base_time,
            "baseline_loss": base_loss,
            "daedal_seconds": took,
            "daedal_loss": loss,
            "time_ratio": took / base_time,
        }
        if loss <= base_loss:
            break
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("speed", "loss", "both"), default="both")
    for name, value in (
        ("vocab", 8192),
        ("width", 256),
        ("depth", 6),
        ("context", 256),
        ("rows", 8),
        ("steps", 5),
        ("loss-steps", 300),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", default="tales:20000", help="training text for the second table")
    args = parser.parse_args()
    out = {}
    if args.part in ("speed", "both"):
        out["tokens_per_second"] = speed(args)
    if args.part in ("loss", "both"):
        out["time_to_loss"] = time_to_loss(args)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
