"""`daedal eval` of a language model: held-out bits per byte, tasks of a small chat model
(daedal.evals.chat) and of the lm-evaluation-harness."""

from typing import Any

from daedal.errors import DaedalError
from daedal.evals import bias, chat, code, evidence, injection, memorised, memory, tools, unit_tests
from daedal.evals.measured import Report, plain
from daedal.evals.perplexity import held_out
from daedal.pipelines.text import TextPipeline
from daedal.pipelines.text_params import TextMeasuring

# tasks that are asked for one at a time
ALONE = {
    "code": code.evaluate,
    "unit-tests": unit_tests.evaluate,
    "memory": memory.evaluate,
    "tools": tools.evaluate,
    "injection": injection.evaluate,
    "memorised": memorised.evaluate,
    "bias": bias.evaluate,
}


def evaluate(pipeline: TextPipeline, asked: TextMeasuring) -> Report:
    """What was asked for, measured."""
    if not asked.data and not asked.tasks:
        raise DaedalError(
            "there is nothing to measure; give --data FILE for bits per byte, or --tasks NAMES for the harness."
        )
    names = asked.tasks.split(",") if asked.tasks else []
    if len(names) == 1 and names[0] in ALONE:
        return ALONE[names[0]](pipeline, asked)
    if alone := [name for name in names if name in ALONE]:
        raise DaedalError(f"{alone[0]} is measured by itself; give --tasks {alone[0]} alone.")
    if encoders := [name for name in names if name in evidence.TASKS]:
        raise DaedalError(
            f"{encoders[0]} is of an encoder of sentences; write `daedal eval minilm --tasks {encoders[0]}`."
        )
    values: dict[str, Any] = {}
    lines: list[str] = []
    if asked.data:
        m = values["held_out"] = held_out(
            pipeline, asked.data, asked.column, asked.split, asked.documents, asked.context
        )
        size = f"{m['documents']} documents, {m['bytes']:,} bytes"
        lines.append(
            f"bits per byte  {m['bits_per_byte']:.4f} +- {m['bits_per_byte_ci95']:.4f} (95 %, {size})"
        )
        spread = f"[{m['perplexity_low']:.3f}, {m['perplexity_high']:.3f}]"
        lines.append(
            f"perplexity     {m['perplexity']:.3f} per token {spread} ({m['tokens']:,} tokens)"
        )
    own = {name: chat.measure(pipeline, name, asked.limit) for name in names if name in chat.TASKS}
    if own:
        values["chat"] = plain(own)
        lines += [
            f"{task:<13} {name:<21} {found}"
            for task, measured in own.items()
            for name, found in measured.items()
        ]
    if others := [name for name in names if name not in own]:
        from daedal.evals.harness import run_tasks  # of an extra

        values["tasks"] = run_tasks(pipeline, others, asked.limit)
        for name, metrics in values["tasks"].items():
            lines += [
                f"{name:<20} {metric:<14} {m['value']:.4f} +- {m['ci95']:.4f}"
                for metric, m in metrics.items()
            ]
    return Report(values, lines)
