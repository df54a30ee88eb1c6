"""Joules that work takes: counted by the machine where it lets us read (RAPL of the processor, NVML
of an NVIDIA card), else estimated from CPU time.

    mark = METER.mark()
    ...
    METER.since(mark), METER.source       # 4.2, "estimated at 15 W a busy core"

A processor's count is shared out by CPU time: what it took since the last reading, over the seconds
that its cores were busy, times those of this process. What an idle machine takes is in it."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORE_WATTS = 15.0  # of a busy core where nothing counts; DAEDAL_CORE_WATTS says another number
EVERY = 0.5  # seconds between readings of a counter
Mark = tuple[float, float]


class Meter:
    """Joules of this process."""

    def __init__(self, counters: list[Path] | None = None) -> None:
        self.counters = packages() if counters is None else counters
        self.core_watts = float(os.environ.get("DAEDAL_CORE_WATTS", CORE_WATTS))
        self.read_at = (-EVERY, 0.0, 0.0)  # wall seconds, joules, busy seconds of the machine
        self.gpu, self.gpu_read_at, self.gpu_watts = card(), -EVERY, 0.0

    @property
    def source(self) -> str:
        """Where the numbers come from, in words."""
        cpu = (
            "measured (RAPL)"
            if self.counters
            else f"estimated at {self.core_watts:g} W a busy core"
        )
        return f"CPU {cpu}, GPU measured (NVML)" if self.on_gpu else cpu

    @property
    def on_gpu(self) -> bool:
        torch = sys.modules.get("torch")
        return bool(self.gpu and torch and torch.cuda.is_initialized())

    def fields(self, joules: float) -> dict[str, Any]:
        """Joules as the fields of a reply; none where nothing was measured."""
        return {"energy_j": round(joules, 4), "energy_source": self.source} if joules else {}

    def mark(self) -> Mark:
        return time.process_time(), time.perf_counter()

    def since(self, mark: Mark) -> float:
        """Joules since a mark."""
        now = time.perf_counter()
        joules = (time.process_time() - mark[0]) * self._core_watts(now)
        return joules + (now - mark[1]) * self._gpu_watts(now) if self.on_gpu else joules

    def _core_watts(self, now: float) -> float:
        """Watts of a busy core: what the counters say of the last while."""
        if self.counters and now - self.read_at[0] >= EVERY:
            joules, busy = sum(map(counted, self.counters)), busy_seconds()
            spent, worked = joules - self.read_at[1], busy - self.read_at[2]
            if self.read_at[2] and spent > 0 and worked > 0:  # a counter that ran over is passed by
                self.core_watts = spent / worked
            self.read_at = now, joules, busy
        return self.core_watts

    def _gpu_watts(self, now: float) -> float:
        if self.gpu and now - self.gpu_read_at >= EVERY:
            self.gpu_watts, self.gpu_read_at = self.gpu(), now
        return self.gpu_watts


def packages() -> list[Path]:
    """The processors' energy counters that may be read: root's, as a rule, and never a virtual
    machine's."""
    files = Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj")
    return [file for file in sorted(files) if os.access(file, os.R_OK)]


def counted(file: Path) -> float:
    return int(file.read_text()) / 1e6


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have taken."""
    user, nice, system, _, _, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def card() -> Callable[[], float] | None:
    """Watts of the first NVIDIA card, where nvidia-ml-py is installed and finds one."""
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handle: Any = nvml.nvmlDeviceGetHandleByIndex(0)
        return lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    except nvml.NVMLError:
        return None


METER = Meter()
