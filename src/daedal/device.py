"""The machine in hand: which device, which compute dtype, and its measured peaks (never a table).
Imported by every floor."""

import json
import os
import platform
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from daedal.errors import DaedalError
from daedal.files import cache_folder


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        return torch.device(
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DaedalError(
            f"device {name!r} is not one torch knows; use auto, cpu, cuda, cuda:1 or mps."
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DaedalError(
            f"device {name!r} is asked for, but this torch sees no CUDA device; use device=cpu."
        )
    return device


def forced_dtype() -> torch.dtype | None:
    """What `DAEDAL_DTYPE` (fp32 or bf16) makes of `dtype: auto`, whatever units the device has.
    None where it is not set."""
    name = os.environ.get("DAEDAL_DTYPE")
    forced = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name and name not in forced:
        raise DaedalError(
            f"DAEDAL_DTYPE={name} is not one of fp32 and bf16; set it to one of these, or unset it."
        )
    return forced[name] if name else None


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 matrices multiply faster than fp32 ones here (AVX512-BF16 or AMX on a CPU,
    Ampere or later on CUDA), or `DAEDAL_DTYPE` says so."""
    if forced := forced_dtype():
        return forced == torch.bfloat16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "mps":
        return True
    return any(
        check() for check in (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    )


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the device has units for it, else fp32."""
    names = {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if name == "auto":
        return torch.bfloat16 if has_bf16_units(device) else torch.float32
    if name not in names:
        raise DaedalError(f"dtype {name!r} is not one of auto, fp32, bf16, fp16.")
    return names[name]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_time(call, device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


@lru_cache
def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measured matrix rate in operations a second (a multiply-add is two), remembered a week per
    machine and thread count."""
    n = 4096 if device.type == "cuda" else 1024

    def measure() -> float:
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        return 2 * n**3 / best_time(lambda: a @ b, device)

    return remembered(f"matrix {device} {dtype}", measure)


@lru_cache
def read_bandwidth(device: torch.device) -> float:
    """Measured bytes a second of a streaming read of 256 MiB."""

    def measure() -> float:
        data = torch.ones(64 * 2**20, device=device)
        return data.nbytes / best_time(data.sum, device)

    return remembered(f"read {device}", measure)


def remembered(key: str, measure) -> float:
    """A measurement kept on disk for a week."""
    key = f"{platform.node()} {torch.__version__} threads={torch.get_num_threads()} {key}"
    path = cache_folder() / "peaks.json"
    try:
        known = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        known = {}
    if key not in known or time.time() - known[key]["at"] > 7 * 86400:
        known[key] = {"value": measure(), "at": time.time()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known, indent=1))
            os.replace(partial, path)
        except OSError:
            pass  # a cache that cannot be written costs a second next time
    return known[key]["value"]


def memory(device: torch.device) -> tuple[int, int]:
    """(total, free) bytes of the device's memory; a CPU's free memory counts what the system can
    reclaim."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return total, int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return total, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf(
            "SC_PAGE_SIZE"
        ) if "SC_AVPHYS_PAGES" in os.sysconf_names else total


def runtime_of(weight: torch.Tensor, bits: Iterable[int] = ()) -> dict[str, Any]:
    """What the last bits of a result depend on beside the weights: how a model with this weight and
    packed layers of so many `bits` runs here."""
    dtype = str(weight.dtype).removeprefix("torch.")
    how = {"device": weight.device.type, "dtype": dtype, "bits": sorted(bits)}
    return how | {"threads": torch.get_num_threads()}
