"""Actors draw what the trainer would draw. Plain processes behind the same few calls stand in for
Ray, whose start takes longer than the rest; with DAEDAL_TEST_RAY=1 in the environment the tests run
on Ray itself too."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from daedal.errors import DaedalError
from daedal.train import actors
from tests.train.test_rl import COURSE, lines, start, train  # noqa: F401 - start is a fixture

HELD: dict[str, Any] = {}  # in a stand-in's process: its worker


def make(cls: type, *given: Any) -> None:
    HELD["worker"] = cls(*given)


def call(method: str, *given: Any) -> Any:
    return getattr(HELD["worker"], method)(*given)


class Handle:
    def __init__(self, cls: type, *given: Any) -> None:
        self.process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.process.submit(make, cls, *given)
        self.complete = SimpleNamespace(
            remote=lambda *given: self.process.submit(call, "complete", *given)
        )


def stand_in() -> ModuleType:
    """The calls of Ray that daedal.train.actors makes."""

    def any_of(
        futures: list[Future[Any]], num_returns: int
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        done, rest = wait(futures, return_when=FIRST_COMPLETED)
        return list(done)[:num_returns], [*list(done)[num_returns:], *rest]

    ray = ModuleType("ray")
    ray.__dict__.update(
        is_initialized=lambda: True, put=lambda value: value, get=lambda future: future.result(), wait=any_of,
        remote=lambda cls: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: Handle(cls, *given))),
        exceptions=SimpleNamespace(RayActorError=BrokenProcessPool),
    )  # fmt: skip
    return ray


@pytest.fixture(scope="module", params=["processes", *["ray"] * ("DAEDAL_TEST_RAY" in os.environ)])
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "ray":
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        ray.init(
            num_cpus=2,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )
        yield
        ray.shutdown()
        return
    with pytest.MonkeyPatch.context() as patch:
        # the stand-ins' processes import this file
        patch.syspath_prepend(Path(__file__).parents[2])
        patch.setitem(sys.modules, "ray", stand_in())
        yield


def test_actors_take_the_same_course(cluster: None, start: Path, tmp_path: Path) -> None:  # noqa: F811
    for count in (0, 2):
        train(
            start,
            tmp_path / str(count),
            f"rollout.actors={count}",
            "adapter={rank: 4}",
            "optimizer.adam_lr=0.01",
        )
    alone, shared = (torch.tensor(lines(tmp_path / name, *COURSE)) for name in "02")
    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4)
    assert alone[-1, 1] > 0  # the policy moved, and its actors with it


def test_an_actor_that_dies_is_one_sentence(
    cluster: None,
    start: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actors, "Worker", Fragile)
    with pytest.raises(
        DaedalError,
        match=r"an actor of the rollout died .*the same command goes on from the last checkpoint\.$",
    ):
        train(start, tmp_path, "rollout.actors=1", "steps=4", "checkpoint_every=2")
    assert (tmp_path / "checkpoints/step-00000002.pt").exists()
    monkeypatch.undo()
    train(start, tmp_path, "rollout.actors=0", "steps=4")
    assert len(lines(tmp_path, "loss")) == 4


class Fragile(actors.Worker):
    def complete(self, *given: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().complete(*given) if self.calls < 2 else os._exit(1)


def test_without_ray_the_extra_is_named(
    start: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        DaedalError, match=r'rollout\.actors needs Ray; pip install "daedal\[cluster\]"'
    ):
        train(start, tmp_path, "rollout.actors=2")
