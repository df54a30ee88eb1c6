"""Many samples of one prompt, as solving a task of code draws them: together, one after another, and
by llama.cpp's own batch on the same file.

    python benchmarks/samples.py ~/.cache/daedal/models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf

Needs the bench extra (llama-cpp-python). All draw at temperature 0.8 and go on to the same length;
the prompt's own pass counts. Prints tokens a second of each and, last, the same as JSON."""

import argparse
import json
import time
from typing import Any

import torch

import daedal

PROMPT = (
    "Write a Python function. Return the words of a text that are palindromes, longest first; "
    "words of one letter do not count. Name it palindromes.\n"
    "assert palindromes('anna saw otto at noon') == ['anna', 'otto', 'noon']\n"
    "Answer with one Python code block."
)


def ours(pipeline: Any, count: int, length: int) -> tuple[float, float]:
    """Tokens a second together and one by one."""
    settings = {"max_tokens": length, "temperature": 0.8, "ignore_eos": True, "seed": 0}
    pipeline.start(PROMPT, **settings | {"max_tokens": 4}, n=count).results()
    start = time.perf_counter()
    pipeline.start(PROMPT, **settings, n=count).results()
    together = count * length / (time.perf_counter() - start)
    start = time.perf_counter()
    few = min(count, 4)
    for seed in range(few):
        pipeline.start(PROMPT, **settings | {"seed": seed}).results()
    return together, few * length / (time.perf_counter() - start)


def theirs(path: str, ids: list[int], count: int, length: int, threads: int) -> float:
    """Tokens a second of llama.cpp: one pass over the prompt, which all sequences share, and then a
    batch of one token a sequence a step."""
    import llama_cpp as c

    model = c.Llama(path, n_ctx=16, verbose=False)  # for the weights; the context is made below
    params = c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = len(ids) + length * count, 512, count
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True  # the prompt is kept once
    context = c.llama_init_from_model(model.model, params)
    samplers = []
    for seed in range(count):
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(0.8))
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(seed))
        samplers.append(chain)
    batch = c.llama_batch_init(max(len(ids), count), 0, count)

    def put(at: int, token: int, position: int, sequences: range, wanted: bool) -> None:
        batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
        batch.n_seq_id[at] = len(sequences)
        for i, sequence in enumerate(sequences):
            batch.seq_id[at][i] = sequence

    start = time.perf_counter()
    for i, token in enumerate(ids):
        put(i, token, i, range(count), i == len(ids) - 1)
    batch.n_tokens = len(ids)
    assert c.llama_decode(context, batch) == 0
    last = [c.llama_sampler_sample(chain, context, len(ids) - 1) for chain in samplers]
    for step in range(length - 1):
        for i, token in enumerate(last):
            put(i, token, len(ids) + step, range(i, i + 1), True)
        batch.n_tokens = count
        assert c.llama_decode(context, batch) == 0
        last = [c.llama_sampler_sample(chain, context, i) for i, chain in enumerate(samplers)]
    return count * length / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = daedal.load(options.model)
    ids = pipeline.encode(PROMPT)
    together, alone = ours(pipeline, options.samples, options.length)
    peer = theirs(options.model, ids, options.samples, options.length, options.threads)
    result = {
        "samples": options.samples,
        "together_tokens_per_s": round(together, 1),
        "alone_tokens_per_s": round(alone, 1),
        "ratio_to_alone": round(together / alone, 2),
        "llama_cpp_batch_tokens_per_s": round(peer, 1),
        "ratio_to_llama_cpp": round(together / peer, 2),
    }
    for key, value in result.items():
        print(f"{key:<30} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
