"""`daedal doctor`: the device, its measured peaks, what fits, and which extras are missing."""

from typing import Annotated

import typer

EXTRAS = {
    "evals": "lm_eval",
    "bench": "llama_cpp",
    "docs": "mkdocs",
    "tensorboard": "tensorboard",
    "provenance": "c2pa",
    "dev": "pytest",
}
SIZES = (0.1, 0.4, 1, 3, 8, 14, 32, 70)  # billions of parameters


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """What this machine is, how fast it is, and what is missing."""
    import json

    facts = examine()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    gib = 2**30
    print(f"daedal       {facts['daedal']}, torch {facts['torch']}, Python {facts['python']}")
    print(
        f"device       {facts['device']}, {facts['threads']} threads, {facts['memory_bytes'] / gib:.1f} GiB memory, {facts['free_bytes'] / gib:.1f} free"
    )
    print(f"read         {facts['read_bytes_per_second'] / 1e9:.1f} GB/s measured")
    for dtype, rate in facts["matrix_flops"].items():
        print(f"matrices     {rate / 1e9:,.0f} GFLOP/s measured in {dtype}")
    print(
        f"dtype: auto  {facts['auto_dtype']}" + (" (DAEDAL_DTYPE)" if facts["dtype_forced"] else "")
    )
    print(f"kernels      {facts['kernels']}")
    for bits, size in facts["fits"].items():
        print(
            f"fits         {size:g}B parameters in {bits}"
            if size
            else f"fits         nothing above {SIZES[0]}B in {bits}"
        )
    print(f"sandbox      {facts['sandbox']}")
    print(f"house        {', '.join(facts['house']) or 'no bundled model found'}")
    for extra, there in facts["extras"].items():
        print(
            f"extra        {extra}: "
            + ("there" if there else f'missing; pip install "daedal[{extra}]"')
        )


def examine() -> dict:
    import importlib.util
    import platform

    import torch

    import daedal
    from daedal import device as machine
    from daedal.checkpoints.resolve import house_models
    from daedal.nn import kernels
    from daedal.sandbox import sandbox

    device = machine.pick_device()
    total, free = machine.memory(device)
    room = {
        bits: next((s for s in reversed(SIZES) if s * 1e9 * per < free * 0.85), 0)
        for bits, per in (("bf16", 2), ("int8", 1.03), ("int4", 0.6))
    }
    return {
        "daedal": daedal.__version__, "torch": torch.__version__, "python": platform.python_version(), "device": str(device),
        "threads": torch.get_num_threads(), "memory_bytes": total, "free_bytes": free, "read_bytes_per_second": machine.read_bandwidth(device),
        "matrix_flops": {str(d).removeprefix("torch."): machine.matrix_peak(device, d) for d in (torch.float32, torch.bfloat16)},
        "auto_dtype": str(machine.compute_dtype("auto", device)).removeprefix("torch."), "dtype_forced": machine.forced_dtype() is not None,
        "kernels": kernels.status(), "fits": room, "house": house_models(), "sandbox": str(sandbox.examine()),
        "extras": {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()},
    }  # fmt: skip
