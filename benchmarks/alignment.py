"""What alignment did: policies against the model they started from, on the same held-out tasks, by
the programs that check them.

    python benchmarks/alignment.py runs/sft/model
    dpo=runs/dpo-0/model,runs/dpo-1/model,runs/dpo-2/model grpo=... python benchmarks/alignment.py
    --kinds arithmetic --temperature 0 runs/sft/model grpo=runs/sums-0/model

For each name: the mean gold reward (0 to 1), the gain over the start with two standard errors, one
of tasks (paired: every model answers the same ones) and one of seeds, the share of tasks with
nothing wrong, answer length, and KL(policy || start) in nats a completion, estimated on the
policy's own answers. The last line is JSON.
"""

import argparse
import json
import random
import statistics
import sys

import torch

from daedal import checkpoints
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.networks.decoder import Decoder
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.rollout import complete, padded, scored, seed_of
from daedal.worlds import instructions

ROWS = 32  # scored at once


def measure(folder: str, start: Decoder, tasks: list, params: SamplingParams) -> dict:
    network = assistant.network_of(folder).eval().requires_grad_(False)
    tokenizer = chat.prepared(Tokenizer.load(checkpoints.resolve(folder)))
    prompts = [chat.encode(tokenizer, task.messages) for task in tasks]
    requests = complete(
        network, tokenizer, prompts, params, [seed_of(0, i) for i in range(len(tasks))], 1
    )
    earned = torch.tensor(
        [task.check(request.text.strip()) for task, request in zip(tasks, requests, strict=True)]
    )
    tokens, mask = padded(requests)
    batch, plain = {"tokens": tokens, "mask": mask}, SamplingParams(temperature=1.0)
    away = scored(network, batch, plain, ROWS) - scored(start, batch, plain, ROWS)
    kinds = sorted({task.kind for task in tasks})
    return {
        "earned": earned, "kl": away.sum(1).mean().item(), "length": statistics.fmean(len(r.output) for r in requests),
        "kinds": {kind: earned[[task.kind == kind for task in tasks]].mean().item() for kind in kinds},
    }  # fmt: skip


def summary(runs: list[dict], base: dict) -> dict:
    """Means over seeds, and the gain with both its errors."""
    earned = torch.stack([run["earned"] for run in runs])  # (seeds, tasks)
    gain = earned - base["earned"]
    n = gain.shape[1]
    return {
        "seeds": len(runs), "reward": earned.mean().item(), "gain": gain.mean().item(), "error_tasks": gain.mean(0).std().item() / n**0.5,
        "error_seeds": gain.mean(1).std().item() / len(runs) ** 0.5 if len(runs) > 1 else None, "all_met": (earned == 1).float().mean().item(),
        "kl": statistics.fmean(run["kl"] for run in runs), "length": statistics.fmean(run["length"] for run in runs),
        "kinds": {kind: statistics.fmean(run["kinds"][kind] for run in runs) for kind in base["kinds"]},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", help="the folder all started from")
    parser.add_argument("policies", nargs="*", help="NAME=FOLDER[,FOLDER ...], one folder a seed")
    parser.add_argument("--kinds", default=",".join(instructions.KINDS))
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=96)
    a = parser.parse_args()
    kinds = a.kinds.split(",")
    tasks = [
        instructions.task(random.Random(f"alignment/{i}"), [kinds[i % len(kinds)]], held_out=True)
        for i in range(a.tasks)
    ]
    params = SamplingParams(temperature=a.temperature, max_tokens=a.max_tokens)
    start = assistant.network_of(a.start).eval().requires_grad_(False)
    base = measure(a.start, start, tasks, params)
    found = {"start": summary([base], base)}
    for policy in a.policies:
        name, _, folders = policy.partition("=")
        found[name] = summary(
            [measure(folder, start, tasks, params) for folder in folders.split(",")], base
        )
    head = f"{'':14}{'seeds':>6}{'reward':>8}{'gain':>8}{'+- tasks':>10}{'+- seeds':>10}{'all met':>9}{'KL':>7}{'length':>8}"
    print(head, *(line(name, row) for name, row in found.items()), sep="\n")
    print(
        "by kind:",
        *(
            f"  {name:14}"
            + "  ".join(f"{kind} {value:.2f}" for kind, value in row["kinds"].items())
            for name, row in found.items()
        ),
        sep="\n",
    )
    json.dump({"tasks": a.tasks, "temperature": a.temperature} | found, sys.stdout)
    print()


def line(name: str, row: dict) -> str:
    seeds = f"{row['error_seeds']:10.4f}" if row["error_seeds"] is not None else f"{'':10}"
    return f"{name:14}{row['seeds']:6}{row['reward']:8.3f}{row['gain']:+8.3f}{row['error_tasks']:10.4f}{seeds}{row['all_met']:9.3f}{row['kl']:7.2f}{row['length']:8.1f}"


if __name__ == "__main__":
    main()
