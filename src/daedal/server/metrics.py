"""What the server counts and times, for Prometheus at `/metrics`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from daedal.engine.store import STORE

if TYPE_CHECKING:
    from daedal.server.state import Server

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def rapl() -> Path | None:
    """The energy counter of the processor (RAPL), where this process may read it: root's, as a rule,
    and never a virtual machine's."""
    file = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
    return file if os.access(file, os.R_OK) else None


def joules(file: Path) -> float:
    return int(file.read_text()) / 1e6


class Metrics:
    """The measures of one server."""

    def __init__(self, server: "Server") -> None:
        self.registry = own = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"daedal_{name}", help, labels, registry=own)

        def histogram(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(f"daedal_{name}_seconds", help, labels, buckets=SECONDS, registry=own)

        def gauge(name: str, help: str, value: object) -> None:
            Gauge(f"daedal_{name}", help, registry=own).set_function(value)  # type: ignore[arg-type]

        self.requests = counter("requests", "Answers, by route and status.", "route", "status")
        self.tokens = counter("tokens", "Tokens, read and written.", "model", "kind")
        self.pictures = counter("pictures", "Pictures painted.", "model")
        self.first = histogram(
            "time_to_first_token", "From the request to its first token.", "model"
        )
        self.between = histogram("inter_token", "Mean time between tokens of an answer.", "model")
        self.duration = histogram("request", "From a request to the end of its answer.", "route")
        gauge("generations", "Generations under way.", lambda: server.driver.busy)
        gauge("queue", "Generations admitted.", lambda: sum(server.admission.under_way.values()))
        gauge("model_bytes", "Memory of loaded models.", lambda: STORE.used)
        gauge("model_budget_bytes", "Memory that models may take.", lambda: STORE.budget)
        if (counter_file := rapl()) is not None:
            gauge("energy_joules", "The processor's own count.", lambda: joules(counter_file))
        gauge("engine_restarts", "Times that the engines failed.", lambda: server.driver.restarts)

    def text(self) -> bytes:
        return generate_latest(self.registry)
