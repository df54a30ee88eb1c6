"""A step of GRPO against TRL's: the same model, prompts, completions a prompt, tokens, one gradient
step a rollout, no divergence term.

    python benchmarks/rl.py --model runs/sft/model                   # needs trl
    python benchmarks/rl.py --model runs/sft/model --only daedal

Seconds of a whole step (draw, reward, learn), by the wall and by the process's own CPU clock, which
others on the machine do not disturb; the median of the steps after the first. The last line is
JSON.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer
from daedal.train import rl
from daedal.train.tasks import check
from daedal.train.trainer import Trainer
from daedal.worlds import arithmetic


def vowels(text: str) -> float:
    return sum(c in "aeiou" for c in text) / (1 + len(text))


class Clock:
    """Seconds between calls, by the wall and by the CPU clock of this process."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def __call__(self, *args: Any, **options: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def medians(self) -> dict[str, float]:
        steps = [
            (b[0] - a[0], b[1] - a[1]) for a, b in zip(self.marks, self.marks[1:], strict=False)
        ][1:]
        wall, cpu = (statistics.median(some) for some in zip(*steps, strict=True))
        return {"wall_s": wall, "cpu_s": cpu}


def daedal(folder: Path, a: argparse.Namespace) -> dict[str, float]:
    rows = a.questions * a.group
    with tempfile.TemporaryDirectory() as out:
        recipe = check({
            "task": "rl", "method": "dapo", "start": str(folder), "out": out, "steps": a.steps + 2, "data": {"train": [{"path": "tasks:arithmetic"}]},
            "rollout": {"questions": a.questions, "group": a.group}, "answer_tokens": a.tokens, "rows": rows, "micro_rows": a.micro_rows,
            "kl_stop": None, "evaluate_every": 10**6, "sample_every": 10**6, "checkpoint_every": 10**6, "evaluate_tasks": 1,
            "device": "cpu", "optimizer": {"adam_lr": 1e-5},
        }, "benchmark")  # fmt: skip
        clock = Clock()
        run_step = Trainer.one_step

        def timed(self: Any, batch: Any) -> Any:
            done = run_step(self, batch)
            clock()
            return done

        Trainer.one_step = timed  # type: ignore[method-assign]
        try:
            rl.RL(recipe, lambda prompt, completion: vowels(completion)).run()
        finally:
            Trainer.one_step = run_step  # type: ignore[method-assign]
        drawn = [
            json.loads(line)["length"]
            for line in (Path(out) / "metrics.jsonl").read_text().splitlines()
        ]
    return clock.medians() | {"mean_length": statistics.fmean(drawn)}


def trl(folder: Path, a: argparse.Namespace) -> dict[str, float]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock, lengths, rows = Clock(), list[int](), a.questions * a.group

    class Marks(TrainerCallback):  # type: ignore[misc]
        on_step_end = staticmethod(clock)

    def reward(completions: Any, completion_ids: Any, **rest: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [vowels(completion[0]["content"]) for completion in completions]

    asked = [
        [{"role": "user", "content": arithmetic.task(random.Random(i)).prompt}]
        for i in range(a.questions * (a.steps + 2))
    ]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, per_device_train_batch_size=a.micro_rows, gradient_accumulation_steps=rows // a.micro_rows, num_generations=a.group,
            max_completion_length=a.tokens, max_steps=a.steps + 2, learning_rate=1e-5, beta=0.0, loss_type="dapo", temperature=1.0, use_cpu=True,
            bf16=False, report_to=[], save_strategy="no", logging_steps=10**6, disable_tqdm=True, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=str(folder),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": asked}),
            callbacks=[Marks()],
        )
        trainer.train()
    return clock.medians() | {"mean_length": statistics.fmean(lengths)}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--questions", type=int, default=16)
    p.add_argument("--group", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--micro-rows", type=int, default=32)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--only", choices=["daedal", "trl"])
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    result: dict[str, Any] = vars(a) | {"torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(
            checkpoints.load(checkpoints.resolve(a.model), dtype=torch.float32), folder
        )
        chat.prepared(Tokenizer.load(checkpoints.resolve(a.model))).save(folder)
        for name, measure in (("daedal", daedal), ("trl", trl)):
            if a.only in (None, name):
                result[name] = measure(Path(folder), a)
                print(
                    name,
                    {key: round(value, 2) for key, value in result[name].items()},
                    file=sys.stderr,
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
