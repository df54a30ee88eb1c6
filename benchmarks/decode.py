"""Decode and prefill on the CPU: Daedal, transformers and llama.cpp in turn, on one shape with
random weights.

    python benchmarks/decode.py                       # SmolLM2-360M's shape; pip install
    'daedal[bench]' brings the peers
    python benchmarks/decode.py --layers 4 --rounds 3 # a quick look

Every round measures every system once, so that drift of the machine hits all alike; the table has
medians over the rounds. GB/s is the bytes of the weights that a token needs, times tokens a second
(batch 1); the share is of the read bandwidth measured in the same rounds. Peers run through their
own fastest interface: llama.cpp by its C API on files that its own quantiser wrote, transformers
with its static or dynamic cache, whichever `generate` takes by default. The last line is JSON.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal import checkpoints
from daedal.checkpoints.quantize import quantize
from daedal.networks import build, config_from_dict
from daedal.nn import kernels
from daedal.nn.cache import KVCache
from daedal.nn.replay import DecodeReplay

SHAPE = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
    "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "rope_theta": 10000.0, "hidden_act": "silu", "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONTEXT, PROMPT = 1024, 512


@dataclass
class System:
    """One thing to measure. `decode(batch, tokens)` -> seconds of each step; `prefill()` -> seconds
    for PROMPT tokens."""

    name: str
    bytes: int
    decode: Callable[[int, int], list[float]]
    prefill: Callable[[], float]


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# ---- Daedal --------------------------------------------------------------------------------------


def daedal(folder: Path, name: str) -> System:
    network = checkpoints.load(folder)
    caches: dict[int, tuple[KVCache, DecodeReplay]] = {}

    def decode(batch: int, tokens: int) -> list[float]:
        if batch not in caches:
            cache = KVCache(network.config, batch, CONTEXT)
            caches[batch] = cache, DecodeReplay(network, cache, batch)
        cache, step = caches[batch]
        cache.lengths = [0] * batch
        return [clock(lambda: step([5] * batch, list(range(batch)))) for _ in range(tokens)]

    @torch.inference_mode()
    def prefill() -> float:
        cache = KVCache(network.config, 1, CONTEXT)
        step = cache.step([(0, PROMPT)])
        return clock(
            lambda: network.head(network.hidden(torch.arange(PROMPT)[None], cache=step)[:, -1:])
        )

    return System(
        name, sum(t.nbytes for t in [*network.buffers(), *network.parameters()]), decode, prefill
    )


# ---- transformers --------------------------------------------------------------------------------


def transformers(folder: Path, dtype: torch.dtype, name: str) -> System:
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def decode(batch: int, tokens: int) -> list[float]:
        cache, token = DynamicCache(config=model.config), torch.full((batch, 1), 5)
        return [
            clock(lambda: model(token, past_key_values=cache, use_cache=True))
            for _ in range(tokens)
        ]

    @torch.inference_mode()
    def prefill() -> float:
        return clock(
            lambda: model(
                torch.arange(PROMPT)[None],
                past_key_values=DynamicCache(config=model.config),
                logits_to_keep=1,
            )
        )

    return System(name, sum(p.nbytes for p in model.parameters()), decode, prefill)


# ---- llama.cpp -----------------------------------------------------------------------------------


def write_gguf(folder: Path, path: Path) -> None:
    """The folder's weights as an F16 GGUF file without a tokenizer."""
    import gguf

    c, network = (
        SHAPE | {"num_hidden_layers": checkpoints.read_config(folder)["num_hidden_layers"]},
        checkpoints.load(folder),
    )
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(c["num_hidden_layers"])
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    out.add_head_count_kv(c["num_key_value_heads"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_rope_freq_base(c["rope_theta"])
    out.add_rope_dimension_count(c["head_dim"])
    out.add_vocab_size(c["vocab_size"])
    out.add_tokenizer_model("none")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    renames = {"self_attn.": "attn_", "mlp.": "ffn_", "_proj": "", "attn_o.": "attn_output.", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
               "layers.": "blk.", "embed_tokens": "token_embd"}  # fmt: skip
    for name, tensor in network.named_parameters():
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        name = "output_norm.weight" if name == "norm.weight" else name
        out.add_tensor(
            name,
            tensor.detach().float().numpy().astype(np.float32 if tensor.dim() == 1 else np.float16),
        )
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def llama_cpp(folder: Path, kind: str, name: str) -> System:
    import llama_cpp as lib

    global quiet
    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, None)
    lib.llama_backend_init()
    whole, path = folder / "f16.gguf", folder / f"{kind}.gguf"
    if not whole.exists():
        write_gguf(folder, whole)
    settings = lib.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = (
        getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}"),
        torch.get_num_threads(),
    )
    assert (
        lib.llama_model_quantize(str(whole).encode(), str(path).encode(), ctypes.byref(settings))
        == 0
    )
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    options = lib.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max, options.kv_unified = (
        CONTEXT * 4,
        2048,
        512,
        16,
        True,
    )
    options.n_threads = options.n_threads_batch = torch.get_num_threads()
    context = lib.llama_init_from_model(model, options)

    def run(
        tokens: list[int], positions: list[int], sequences: list[int], logits: list[int]
    ) -> float:
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(
            zip(tokens, positions, sequences, logits, strict=True)
        ):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = (
                token,
                position,
                1,
                wanted,
            )
            batch.seq_id[i][0] = sequence
        start = time.perf_counter()
        assert lib.llama_decode(context, batch) == 0
        lib.llama_synchronize(context)
        seconds = time.perf_counter() - start
        lib.llama_batch_free(batch)
        return seconds

    def decode(batch: int, tokens: int) -> list[float]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        return [
            run([5] * batch, [at] * batch, list(range(batch)), [1] * batch) for at in range(tokens)
        ]

    def prefill() -> float:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        return run(list(range(PROMPT)), list(range(PROMPT)), [0] * PROMPT, [0] * (PROMPT - 1) + [1])

    return System(name, path.stat().st_size, decode, prefill)


# ---- measuring -----------------------------------------------------------------------------------


def random_folder(folder: Path, layers: int) -> None:
    torch.manual_seed(0)
    network = build(config_from_dict({**SHAPE, "num_hidden_layers": layers})).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.02) if parameter.dim() == 2 else parameter.fill_(1)
    checkpoints.save(network, folder)


def systems(folder: Path) -> tuple[list[System], list[str]]:
    """Everything that is installed, and a line for everything that is not."""
    makers: list[tuple[str, Callable[[str], System]]] = []
    for bits, kind in ((16, "bf16"), (8, "int8"), (4, "int4")):
        quantize(folder, folder / kind, bits)
        makers.append((f"daedal {kind}", lambda name, kind=kind: daedal(folder / kind, name)))
    for dtype in (torch.bfloat16, torch.float32):
        makers.append(
            (
                f"transformers {str(dtype)[6:]}",
                lambda name, dtype=dtype: transformers(folder, dtype, name),
            )
        )
    for kind in ("Q8_0", "Q4_0"):
        makers.append((f"llama.cpp {kind}", lambda name, kind=kind: llama_cpp(folder, kind, name)))
    found, missing = [], []
    for name, make in makers:
        try:
            found.append(make(name))
        except ImportError as error:
            missing.append(
                f"{name}: not measured, {error.name} is missing; pip install 'daedal[bench]'"
            )
        gc.collect()
    return found, missing


def measure(
    found: list[System], rounds: int, batches: list[int], tokens: int
) -> dict[str, dict[str, float]]:
    """Medians over the rounds: tokens a second by system and column, and the bandwidth as `read`."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for round_ in range(rounds + 1):
        for system in found:
            for batch in batches:
                steps = system.decode(batch, tokens if batch == 1 else max(tokens // 3, 4))
                rate = batch / statistics.median(steps[1:])
                times[system.name][f"decode {batch}"].append(rate)
            times[system.name]["prefill"].append(PROMPT / system.prefill())
            times["read"]["GB/s"].append(kernels.read_bandwidth(0.1) / 1e9)
        if round_ == 0:
            times.clear()  # warm-up
        print(f"round {round_} of {rounds}", file=sys.stderr)
    return {
        name: {column: statistics.median(values) for column, values in columns.items()}
        for name, columns in times.items()
    }


PEERS = {
    "daedal bf16": "transformers bfloat16",
    "daedal int8": "llama.cpp Q8_0",
    "daedal int4": "llama.cpp Q4_0",
}


def report(
    found: list[System], missing: list[str], rates: dict[str, dict[str, float]], batches: list[int]
) -> dict[str, Any]:
    read, summary = rates["read"]["GB/s"], {}
    columns = [f"decode {batch}" for batch in batches] + ["prefill"]
    print(
        f"measured read bandwidth {read:.1f} GB/s, {torch.get_num_threads()} threads, kernels {kernels.status().split(' ')[0]}\n"
    )
    print(
        "| system | MB | "
        + " | ".join(f"{c} tok/s" for c in columns)
        + " | GB/s | of read | decode 1 vs peer | prefill vs best peer |"
    )
    print("|---|" + "---|" * (len(columns) + 5))
    best = max(
        (rates[s.name]["prefill"] for s in found if not s.name.startswith("daedal")), default=None
    )
    for system in found:
        mine, peer = rates[system.name], rates.get(PEERS.get(system.name, ""))
        speed = system.bytes * mine["decode 1"] / 1e9
        ratio = mine["decode 1"] / peer["decode 1"] if peer else None
        ahead = mine["prefill"] / best if best and system.name.startswith("daedal") else None
        summary[system.name] = {
            **mine,
            "GB/s": speed,
            "of_read": speed / read,
            "vs_peer": ratio,
            "prefill_vs_best_peer": ahead,
        }
        cells = [f"{mine[c]:.1f}" for c in columns] + [f"{speed:.1f}", f"{speed / read:.0%}"]
        cells += [f"{ratio:.2f}x" if ratio else "", f"{ahead:.2f}x" if ahead else ""]
        print(f"| {system.name} | {system.bytes / 1e6:.0f} | " + " | ".join(cells) + " |")
    print("\n".join(missing))
    return summary


def peak_bytes() -> int:
    """Of this process since its exec; getrusage would count the parent's memory at the fork."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def memory(folder: Path) -> None:
    """Peak memory of loading and decoding in a fresh process, over what the interpreter with torch
    takes (the child's side)."""
    base = peak_bytes()
    system = daedal(folder, "child")
    system.decode(1, 32)
    config = config_from_dict(checkpoints.read_config(folder))
    cache = (
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * CONTEXT * 4
    )
    peak = peak_bytes() - base
    print(
        json.dumps(
            {
                "peak": peak,
                "weights": system.bytes,
                "cache": cache,
                "over": peak / (system.bytes + cache) - 1,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="decode steps a round")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kernels.build()
    if options.memory:
        return memory(options.memory)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        random_folder(folder, options.layers)
        found, missing = systems(folder)
        rates = measure(found, options.rounds, options.batches, options.tokens)
        summary = report(found, missing, rates, options.batches)
        for kind in ("bf16", "int8", "int4"):
            child = subprocess.run(
                [sys.executable, __file__, "--memory", str(folder / kind)],
                capture_output=True,
                text=True,
                check=True,
            )
            summary[f"daedal {kind}"]["memory"] = used = json.loads(child.stdout)
            print(
                f"daedal {kind}: peak memory {used['peak'] / 1e6:.0f} MB over the bare interpreter, weights + cache {used['over']:+.0%}"
            )
    print(json.dumps({"read_GB/s": rates["read"]["GB/s"], **summary}))


if __name__ == "__main__":
    main()
