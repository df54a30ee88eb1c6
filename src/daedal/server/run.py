"""The process of a server: its socket, its start, its end."""

import asyncio
import gc
import logging
import socket
import sys

import uvicorn

from daedal.errors import DaedalError
from daedal.server.app import create_app
from daedal.server.state import Options

DRAIN = 30  # seconds that answers under way have, once the process is asked to end


def listen(options: Options, port: int, log: bool = False) -> None:
    """Serve until a signal ends it: no new requests, those under way finish, then the engines stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("daedal.server").setLevel(logging.INFO if log else logging.WARNING)
    app = create_app(options)
    server = app.state.server
    place = bound(options.host, port)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{shown}:{place.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN,
        timeout_keep_alive=75,
    )
    gc.collect()
    gc.freeze()  # what the modules made lives as long as the process: no collection looks at it
    print(f"daedal: {address} (the studio; OpenAI's clients: {address}/v1)", file=sys.stderr)
    asyncio.run(Draining(config, server).serve(sockets=[place]))


class Draining(uvicorn.Server):
    """A server that says it is not ready as soon as it is asked to end."""

    def __init__(self, config: uvicorn.Config, server: object) -> None:
        super().__init__(config)
        self.shared = server

    def handle_exit(self, sig: int, frame: object) -> None:
        self.shared.draining = True  # type: ignore[attr-defined]
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for an ack
    place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        raise DaedalError(
            f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port."
        ) from None
    return place
