"""Requests of mixed length through the engine at once, against the same requests one after another.

    python benchmarks/batching.py                               # the shape of SmolLM2-360M, random
    weights packed to int8
    python benchmarks/batching.py --shape house --bits 32       # the shape of the house model
    python benchmarks/batching.py --model FOLDER --bits 16

Both sides run the same engine code on the same weights, prompts and lengths; one side has 16
places, the other one. Runs are interleaved and the medians compared, for a machine's speed drifts.
Prints tokens a second of each side, their ratio, what a step costs outside the network, and as its
last line the same as JSON.

What batching can win has a ceiling: one sequence alone reads all weights for each token (bytes over
bandwidth), many together are bound by arithmetic (operations over matrix rate). `roofline_ratio` is
that ceiling for weights in memory and fp32 arithmetic, from both rates measured here; packed
kernels compute somewhat faster, a model that fits the CPU's cache reads faster. `--clock cpu
--threads 1` counts CPU time, for a machine that others use too.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import torch

from daedal import device, networks
from daedal.engine.engine import Engine
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams

SHAPES = {
    "smollm2-360m": {
        "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "max_position_embeddings": 8192, "rope_theta": 100000.0,
    },
    "house": {
        "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 1024,
    },
}  # fmt: skip


def make_network(options: argparse.Namespace) -> "networks.Decoder":
    """The network in inference form: packed weights for 4, 8 and 16 bits, fp32 otherwise."""
    torch.manual_seed(0)
    if options.model:
        from daedal import checkpoints

        network = checkpoints.load(options.model, dtype=torch.float32)
    else:
        config = {"model_type": "llama", "tie_word_embeddings": True, **SHAPES[options.shape]}
        network = networks.build(networks.config_from_dict(config))
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.02) if p.dim() > 1 else None
    network = network.eval().requires_grad_(False)
    if options.bits < 32:
        from daedal.nn.quantized import quantize_

        quantize_(network, bits=options.bits)
    return network


def make_requests(
    options: argparse.Namespace, vocabulary: int
) -> list[tuple[list[int], SamplingParams]]:
    draw = random.Random(0)
    requests = []
    for i in range(options.requests):
        prompt = [
            draw.randrange(vocabulary) for _ in range(draw.randint(8, options.longest_prompt))
        ]
        length = draw.randint(options.longest_answer // 4, options.longest_answer)
        requests.append(
            (
                prompt,
                SamplingParams(
                    temperature=options.temperature, seed=i, max_tokens=length, ignore_eos=True
                ),
            )
        )
    return requests


def roofline_ratio(network: "networks.Decoder", batch: int) -> float:
    """How much faster `batch` sequences can decode together than one by one, if only weights and
    arithmetic counted."""
    cpu = torch.device("cpu")
    read = network.weight_bytes() / device.read_bandwidth(cpu)
    parameters = sum(t.numel() for t in make_dense_shapes(network))
    compute = 2 * parameters / device.matrix_peak(cpu, torch.float32)
    return batch * max(read, compute) / max(read, batch * compute)


def make_dense_shapes(network: "networks.Decoder") -> list[torch.Tensor]:
    """The network's matrices as shapes without memory, whatever form its weights have: embeddings
    do not count, a tied head does."""
    with torch.device("meta"):
        dense = networks.build(network.config)
    return [module.weight for module in dense.modules() if isinstance(module, torch.nn.Linear)]


def run(
    engine: Engine,
    requests: list[tuple[list[int], SamplingParams]],
    together: bool,
    clock: Callable[[], float],
) -> float:
    """Seconds for all requests."""
    start = clock()
    for group in [requests] if together else [[request] for request in requests]:
        engine.generate([prompt for prompt, _ in group], [params for _, params in group])
    return clock() - start


def run_naive(
    network: "networks.Decoder",
    requests: list[tuple[list[int], SamplingParams]],
    clock: Callable[[], float],
) -> float:
    """Tokens a second of the plain loop over the network, one request after another."""
    start = clock()
    tokens = sum(len(generate(network, prompt, params, cached=True)) for prompt, params in requests)
    return tokens / (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-360m")
    parser.add_argument("--model", help="a model folder instead of a shape with random weights")
    parser.add_argument("--bits", type=int, choices=[4, 8, 16, 32], default=8)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--longest-prompt", type=int, default=64)
    parser.add_argument("--longest-answer", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--cache", choices=["slots", "paged"], default="slots")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    network = make_network(options)
    requests = make_requests(options, network.config.vocab_size)
    wanted = sum(params.max_tokens for _, params in requests)
    common = {
        "max_len": options.longest_prompt + options.longest_answer,
        "cache": options.cache,
        "prefix_caching": False,
    }
    batched = Engine(network, max_batch=options.requests, **common)
    alone = Engine(network, max_batch=1, **common)
    short = [
        (prompt[:4], SamplingParams(max_tokens=2 + i)) for i, (prompt, _) in enumerate(requests)
    ]
    run(batched, short, together=True, clock=clock)  # captures and first touches
    run(alone, short, together=False, clock=clock)
    batched.steps = batched.overhead_s = 0
    times: dict[str, list[float]] = {"batched": [], "alone": []}
    for _ in range(options.repeats):
        times["alone"].append(run(alone, requests, together=False, clock=clock))
        times["batched"].append(run(batched, requests, together=True, clock=clock))
    speed = {side: wanted / statistics.median(seconds) for side, seconds in times.items()}
    naive = run_naive(network, requests[:4], clock)
    result = {
        "shape": options.model or options.shape,
        "bits": options.bits,
        "requests": options.requests,
        "new_tokens": wanted,
        "prompt_tokens": sum(len(prompt) for prompt, _ in requests),
        "alone_tokens_per_s": round(speed["alone"], 1),
        "batched_tokens_per_s": round(speed["batched"], 1),
        "ratio": round(speed["batched"] / speed["alone"], 2),
        "naive_loop_tokens_per_s": round(naive, 1),
        "ratio_to_naive_loop": round(speed["batched"] / naive, 2),
        "roofline_ratio": round(roofline_ratio(network, options.requests), 2),
        "overhead_us_per_step": round(1e6 * batched.overhead_s / batched.steps),
    }
    print(
        f"one by one {speed['alone']:8.1f} tokens/s    together {speed['batched']:8.1f} tokens/s    ratio {result['ratio']:.2f} (roofline of fp32 arithmetic {result['roofline_ratio']:.2f})"
    )
    print(
        f"the plain loop, one by one {naive:.1f} tokens/s, ratio {result['ratio_to_naive_loop']:.2f}"
    )
    print(
        f"outside the network: {result['overhead_us_per_step']} us a step ({wanted} tokens from {len(requests)} requests)"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
