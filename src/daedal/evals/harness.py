"""Tasks of the lm-evaluation-harness (extra `evals`) on a Daedal pipeline: log-likelihoods, rolling
log-likelihoods, generation."""

from typing import Any

from daedal.errors import DaedalError
from daedal.evals.perplexity import Z95
from daedal.pipelines.text import TextPipeline
from daedal.processes.scoring import token_losses


def run_tasks(
    pipeline: TextPipeline, tasks: list[str], limit: int | None = None, **options: Any
) -> dict[str, dict[str, dict[str, float]]]:
    """{task: {metric: {value, ci95}}}. Options go to `lm_eval.simple_evaluate` (num_fewshot,
    task_manager, ...)."""
    try:
        import lm_eval
    except ImportError:
        raise DaedalError(
            'tasks need the lm-evaluation-harness; pip install "daedal[evals]".'
        ) from None
    results = lm_eval.simple_evaluate(
        adapter(pipeline), tasks=tasks, limit=limit, bootstrap_iters=1000, **options
    )["results"]
    return {task: intervals(metrics) for task, metrics in results.items()}


def intervals(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The harness's `acc,none` and `acc_stderr,none` pairs as values with 95 % half-widths."""
    out = {}
    for key, value in metrics.items():
        name, _, kind = key.partition(",")
        error = metrics.get(f"{name}_stderr,{kind}")
        if kind and not name.endswith("_stderr") and isinstance(value, int | float):
            out[name] = {
                "value": float(value),
                "ci95": Z95 * error if isinstance(error, int | float) else float("nan"),
            }
    return out


def adapter(pipeline: TextPipeline) -> Any:
    """The pipeline as the harness's `LM`."""
    from lm_eval.api.model import LM

    class DaedalLM(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [self.score(*request.args) for request in requests]

        def framed(self, text: str) -> list[int]:
            """Ids of a text that nothing stands before, from a prefix token on: bos, or else eos,
            so that the first word is scored too."""
            words = pipeline.tokenizer
            prefix = words.bos_id if words.bos_id is not None else words.eos_id
            ids = words.encode(text)
            return ids if prefix is None or ids[:1] == [prefix] else [prefix, *ids]

        def score(self, context: str, continuation: str) -> tuple[float, bool]:
            """Trailing spaces of the context belong to the continuation, whose tokens begin with
            them."""
            spaces = len(context) - len(context.rstrip())
            if spaces:
                context, continuation = context[:-spaces], context[-spaces:] + continuation
            encode = pipeline.tokenizer.encode if context else self.framed
            whole = encode(context + continuation)
            start = max(1, len(encode(context)) if context else 0)
            ids = whole[-(pipeline.network.config.max_position_embeddings + 1) :]
            count = len(whole) - start
            losses, greedy = greedy_losses(pipeline, ids)
            return -losses[-count:].sum().item(), bool(greedy[-count:].all())

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            context = pipeline.network.config.max_position_embeddings
            return [
                -token_losses(pipeline.network, self.framed(request.args[0]), context).sum().item()
                for request in requests
            ]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [self.write(*request.args) for request in requests]

        def write(self, context: str, options: dict[str, Any]) -> str:
            until = options.get("until") or []
            stop = [until] if isinstance(until, str) else list(until)
            longest = options.get("max_gen_toks", 256)
            room = pipeline.network.config.max_position_embeddings
            ids = pipeline.encode(context)[-(room - min(longest, room // 2)) :]
            heat = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
            return pipeline(ids, max_tokens=longest, temperature=heat, stop=stop, seed=0).text

    return DaedalLM()


def greedy_losses(pipeline: TextPipeline, ids: list[int]) -> tuple[Any, Any]:
    """-log p of ids[1:] in nats, and whether each is the likeliest token."""
    import torch

    with torch.inference_mode():
        tokens = torch.tensor([ids], device=pipeline.network.embed_tokens.weight.device)
        logs = pipeline.network(tokens[:, :-1])[0].float().log_softmax(-1)
        return -logs.gather(1, tokens[0, 1:, None])[:, 0].cpu(), (
            logs.argmax(-1) == tokens[0, 1:]
        ).cpu()
