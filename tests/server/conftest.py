"""A server in a thread, on a free port, with the house models and a folder of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from daedal.server.app import create_app
from daedal.server.run import bound
from daedal.server.state import Options


class Served:
    """A server under test: its address, its shared state, a client."""

    def __init__(self, options: Options) -> None:
        self.app = create_app(options)
        self.server = self.app.state.server
        place = bound("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{place.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="warning", access_log=False)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.uvicorn.serve(sockets=[place])), daemon=True
        )
        self.thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=60)
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/ready").status_code == 200:
                    break
            threading.Event().wait(0.05)

    def stop(self) -> None:
        self.http.close()
        self.uvicorn.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Served]:
    served = Served(Options(folder=folder, **options))
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def serve(tmp_path):
    """Start servers with options of their own."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(tmp_path, **options))
