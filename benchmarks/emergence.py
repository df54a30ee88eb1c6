"""Accuracy on word problems against scale, with and without a scratchpad: a ladder of decoders
trained here, each on the same problems twice, once with the steps written out ("5 + 4 = 9. 9 - 2 =
7. The answer is 7.") and once with the answer alone.

    python benchmarks/emergence.py --out runs/emergence                  # trains the ladder; a run
    that is there is read, not made again
    python benchmarks/emergence.py --out runs/emergence --plot docs/images/emergence.png

The share of fresh problems solved greedily, over all and by their number of steps, with 95 %
intervals; and apart the share of problems that begin with a number no training problem began with.
The last line is JSON.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from daedal import checkpoints
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.evals.measured import share
from daedal.media import images, plots
from daedal.networks import llama
from daedal.processes.sampling import SamplingParams
from daedal.train import assistant
from daedal.train.tasks import check, run
from daedal.worlds import arithmetic

SPECIALS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LADDER = {"16 x 1": (16, 1), "32 x 2": (32, 2), "64 x 2": (64, 2), "96 x 3": (96, 3)}


def problems(count: int, which: str) -> Iterator[tuple[str, str, int]]:
    """(problem, worked answer, steps), of which "training", "fresh" or "unseen" ones."""
    for i in range(count):
        task = arithmetic.task(random.Random(f"emergence/{which}/{i}"), held_out=which == "unseen")
        yield task.prompt, task.answer, task.answer.count("=")


def prepare(out: Path, count: int) -> Tokenizer:
    """The two files of conversations, and the tokenizer that every rung shares."""
    made = list(problems(count, "training"))
    for name in ("steps", "direct"):
        rows = (
            {
                "prompt": prompt,
                "completion": answer if name == "steps" else answer[answer.index("The answer") :],
            }
            for prompt, answer, _ in made
        )
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Tokenizer.train(
        [f"{p}\n{a}" for p, a, _ in made[:3000]],
        400,
        SPECIALS,
        bos="<|bos|>",
        eos="<|eos|>",
        pad="<|pad|>",
        add_bos=True,
    )


def beginning(folder: Path, tokenizer: Tokenizer, width: int, depth: int) -> None:
    """A rung that knows nothing yet."""
    if (folder / "config.json").exists():
        return
    heads = max(1, width // 32)
    config = llama.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=depth, num_attention_heads=heads,
        num_key_value_heads=heads, head_dim=width // heads, model_type="llama", max_position_embeddings=192, tie_word_embeddings=True, eos_token_id=tokenizer.eos_ids,
    )  # fmt: skip
    checkpoints.save(llama.build(config).init_weights(0), folder)
    tokenizer.save(folder)


def solved(folder: Path, count: int) -> dict:
    """Shares of problems with the right result."""
    network = assistant.network_of(folder).eval()
    tokenizer, params = (
        chat.prepared(Tokenizer.load(folder)),
        SamplingParams(temperature=0, max_tokens=60),
    )

    def right(asked: list[tuple[str, str, int]]) -> list[bool]:
        texts = assistant.answers(
            network,
            tokenizer,
            [[{"role": "user", "content": prompt}] for prompt, _, _ in asked],
            params,
            64,
        )
        return [
            arithmetic.result_of(text[0]) == arithmetic.result_of(answer)
            for text, (_, answer, _) in zip(texts, asked, strict=True)
        ]

    fresh, unseen = (list(problems(count, which)) for which in ("fresh", "unseen"))
    hits = right(fresh)
    parts = {
        str(steps): [hit for hit, (_, _, n) in zip(hits, fresh, strict=True) if n == steps]
        for steps in arithmetic.STEPS
    }
    found = {
        name: share(sum(some), len(some))
        for name, some in {"all": hits, "unseen": right(unseen), **parts}.items()
    }
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        **{key: [m.value, m.low, m.high] for key, m in found.items()},
    }


def rung(a: argparse.Namespace, tokenizer: Tokenizer, name: str, kind: str) -> dict:
    """Train one, if it is not there, and measure it."""
    out = a.out / f"{name.replace(' ', '')}-{kind}"
    if (out / "found.json").exists():
        return json.loads((out / "found.json").read_text())
    start = a.out / f"{name.replace(' ', '')}-start"
    beginning(start, tokenizer, *LADDER[name])
    recipe = check({
        "task": "sft", "start": str(start), "out": str(out), "steps": a.steps, "rows": 24, "micro_rows": 24, "context": 128, "evaluate_tasks": 0,
        "evaluate_every": 10**6, "sample_every": 10**6, "checkpoint_every": 500, "data": {"train": [{"path": str(a.out / f"{kind}.jsonl")}]},
        "optimizer": {"name": "muon", "matrix_lr": 0.02, "adam_lr": 0.006 * (64 / LADDER[name][0]) ** 0.5, "warmup": 30, "decay": 0.5},
    }, "benchmark")  # fmt: skip
    found = solved(run(recipe), a.problems)
    (out / "found.json").write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/emergence"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    tokenizer = prepare(a.out, 30_000)
    found = {
        kind: {name: rung(a, tokenizer, name, kind) for name in LADDER}
        for kind in ("direct", "steps")
    }
    print(
        f"{'width x depth':14}{'parameters':>12}{'answer alone':>22}{'with steps':>22}{'of three steps: alone':>24}{'with':>8}{'unseen first number: with':>28}"
    )
    for name in LADDER:
        alone, steps = (found[kind][name] for kind in ("direct", "steps"))
        print(
            f"{name:14}{steps['parameters']:12,}{shown(alone['all']):>22}{shown(steps['all']):>22}{alone['3'][0]:24.2f}{steps['3'][0]:8.2f}{steps['unseen'][0]:28.2f}"
        )
    if a.plot:
        points = {
            label: [(row["parameters"] / 1000, tuple(row["all"])) for row in found[kind].values()]
            for kind, label in (("direct", "answer alone"), ("steps", "with a scratchpad"))
        }
        images.save_image(
            plots.lines(points, "Word problems solved, by size", "thousand parameters", 1.0), a.plot
        )
    json.dump(found, sys.stdout)
    print()


def shown(interval: list[float]) -> str:
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
