"""What the server counts and times, for Prometheus at `/metrics`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from daedal.energy import METER
from daedal.engine.store import STORE
from daedal.pipelines.medium import Result

if TYPE_CHECKING:
    from daedal.server.state import Server

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


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
        self.energy = counter("energy_joules", f"Of generations; {METER.source}.", "model")
        self.first = histogram(
            "time_to_first_token", "From the request to its first token.", "model"
        )
        self.between = histogram("inter_token", "Mean time between tokens of an answer.", "model")
        self.duration = histogram("request", "From a request to the end of its answer.", "route")
        gauge("generations", "Generations under way.", lambda: server.driver.busy)
        gauge("queue", "Generations admitted.", lambda: sum(server.admission.under_way.values()))
        gauge("model_bytes", "Memory of loaded models.", lambda: STORE.used)
        gauge("model_budget_bytes", "Memory that models may take.", lambda: STORE.budget)
        gauge("engine_restarts", "Times that the engines failed.", lambda: server.driver.restarts)

    def painted(self, model: str, results: Sequence[Result]) -> None:
        """Count pictures, and what they took."""
        self.pictures.labels(model).inc(len(results))
        self.energy.labels(model).inc(sum(result.joules for result in results))

    def text(self) -> bytes:
        return generate_latest(self.registry)
