"""The server under load: its cost over the bare engine, requests a second against llama.cpp's
server, overload, clients that hang up, four models in the memory of two, a server that is killed,
one seed by every way, and generated requests to every route.

    python benchmarks/serving.py                      # house models only: everything but `clients`
    python benchmarks/serving.py --model gemma.gguf   # `clients` too; the peer is llama-cpp-python's
    python benchmarks/serving.py --part overload --seconds 20

Clients are coroutines of this process, which shares the machine with the server that it measures;
so does the peer's. Times are medians (p50) or 99th percentiles over requests. The last line is
JSON."""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

TALK = [{"role": "user", "content": "Tell me a short story about a duck and a river."}]
STORY = "A duck lived by a river with seven ducklings. One morning the river had risen, and"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance",
)  # fmt: skip
READY = 120  # seconds that a server may take to answer
LLAMA = ["--n_ctx", "2048", "--verbose", "False", "--interrupt_requests", "False"]


# ---- servers -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


class Process:
    """A server in a process of its own."""

    def __init__(self, command: list[str], port: int, path: str = "/v1/models") -> None:
        self.url = f"http://127.0.0.1:{port}"
        env = os.environ | {"DAEDAL_HISTORY": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        end = time.monotonic() + READY
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + path).status_code == 200:
                    return
            time.sleep(0.05)
        raise SystemExit(f"{command[0]} did not answer within {READY} s")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def daedal(*options: str) -> Iterator[Process]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        own = ["daedal", "serve", "--port", str(port), "--folder", folder, *options]
        server = Process(own, port, "/ready")
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def llama_cpp(model: str) -> Iterator[Process]:
    port = free_port()
    own = ["--model", model, "--port", str(port), "--n_threads", str(os.cpu_count())]
    server = Process(["llama_cpp.server", *own, *LLAMA], port)
    try:
        yield server
    finally:
        server.kill()


# ---- clients -------------------------------------------------------------------------------------


def client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=120, limits=limits)


async def first_token(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[float, float, int]:
    """(seconds to the first token, to the end, pieces) of a streamed completion."""
    began, first, pieces = time.perf_counter(), 0.0, 0
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                pieces += 1
                first = first or time.perf_counter() - began
    return first, time.perf_counter() - began, pieces


async def side_by_side(count: int, total: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """The results of `total` pieces of work, `count` at a time."""
    numbers, results = iter(range(total)), []

    async def one() -> None:
        for number in numbers:
            results.append(await work(number))

    await asyncio.gather(*(one() for _ in range(count)))
    return results


def p(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# ---- parts ---------------------------------------------------------------------------------------


def clients(options: argparse.Namespace) -> dict[str, Any]:
    """Requests a second at 1, 8 and 32 clients, and p99 of the time to the first token."""
    found: dict[str, Any] = {}
    name = Path(options.model).stem
    systems = {
        "daedal": (daedal("--model", options.model, "--queue", "64"), name),
        "llama.cpp": (llama_cpp(options.model), name),
    }
    for system, (context, model) in systems.items():
        with context as server:
            body = {"model": model, "max_tokens": options.tokens, "temperature": 0.8}
            found[system] = asyncio.run(loads(server.url, body))
    for count in (1, 8, 32):
        ours, theirs = (found[system][count] for system in systems)
        ratio = ours["requests a second"] / theirs["requests a second"]
        print(
            f"{count:3} clients: {ours['requests a second']:.2f} against {theirs['requests a second']:.2f} requests/s "
            f"({ratio:.2f}x); first token p99 {ours['first p99']:.2f} against {theirs['first p99']:.2f} s"
        )
    return found


async def loads(url: str, body: dict[str, Any]) -> dict[int, Any]:
    found = {}
    async with client(url) as http:
        await first_token(http, body | {"prompt": STORY})
        for count in (1, 8, 32):
            total = max(6, count)
            began = time.perf_counter()

            async def ask(number: int) -> tuple[float, float, int]:
                prompt = f"Chapter {number}. {STORY}"
                return await first_token(http, body | {"prompt": prompt, "seed": number})

            rows = await side_by_side(count, total, ask)
            spent = time.perf_counter() - began
            tokens = sum(row[2] for row in rows)
            first = p([row[0] for row in rows], 0.99)
            found[count] = {
                "requests a second": total / spent,
                "pieces a second": tokens / spent,
                "first p99": first,
            }
    return found


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """What HTTP and scheduling add to the bare engine: the same requests through both, one client
    and 32. Of each request the time over that of the same request in the engine, in the same order
    of sizes."""
    import daedal as package

    body = {
        "model": "house/chat",
        "messages": TALK,
        "max_tokens": 32,
        "ignore_eos": True,
        "seed": 1,
    }
    settings = {"max_tokens": 32, "ignore_eos": True, "seed": 1}
    pipeline = package.load("house/chat")

    def bare(count: int) -> list[float]:
        began, handles = (
            time.perf_counter(),
            [pipeline.start(TALK, **settings) for _ in range(count)],
        )
        ends = []
        for handle in handles:
            handle.wait()
            ends.append(time.perf_counter() - began)
        return ends

    with daedal("--queue", "64") as server:
        found = {}
        for count, rounds in ((1, 60), (32, 8)):
            bare(count)
            alone = [t for _ in range(rounds) for t in sorted(bare(count))]
            served = asyncio.run(timed(server.url, body, count, rounds))
            extra = sorted(s - a for s, a in zip(served, alone, strict=True))
            found[count] = {"p50": statistics.median(extra), "p99": p(extra, 0.99)}
            print(
                f"{count:3} clients: {1e3 * found[count]['p50']:.1f} ms p50, {1e3 * found[count]['p99']:.1f} ms p99 "
                f"over the engine's {1e3 * statistics.median(alone):.0f} ms"
            )
    return found


async def timed(url: str, body: dict[str, Any], count: int, rounds: int) -> list[float]:
    """Seconds of `count` requests at once, shortest first, of each round after the first."""
    found: list[float] = []
    async with client(url) as http:

        async def ask(_: int) -> float:
            began = time.perf_counter()
            (await http.post("/v1/chat/completions", json=body)).raise_for_status()
            return time.perf_counter() - began

        for _ in range(rounds + 1):
            found += sorted(await side_by_side(count, count, ask))
    return found[count:]


def overload(options: argparse.Namespace) -> dict[str, Any]:
    """Requests that come at random moments (Poisson), whatever the answers: at 0.9 and 1.2 times
    what the server can do. What is accepted must not get slower, what is refused be told at once."""
    body = {"model": "house/chat", "messages": TALK, "max_tokens": 48, "ignore_eos": True}
    with daedal("--queue", str(options.queue)) as server:
        capacity = asyncio.run(throughput(server.url, body, options.seconds / 2))
        found: dict[str, Any] = {"requests a second": capacity}
        for share in (0.9, 1.2):
            rows = asyncio.run(arrivals(server.url, body, share * capacity, options.seconds))
            good = [seconds for status, seconds, _ in rows if status == 200]
            refused = [seconds for status, seconds, _ in rows if status == 429]
            told = all(after for status, _, after in rows if status == 429)
            found[share] = {
                "accepted p99": p(good, 0.99),
                "accepted": len(good),
                "refused": len(refused),
                "refused p50": p(refused, 0.5) if refused else None,
                "refused p99": p(refused, 0.99) if refused else None,
                "all say when": told,
            }
            print(f"{share:.1f} x {capacity:.1f} requests/s: {found[share]}")
    return found


async def throughput(url: str, body: dict[str, Any], seconds: float) -> float:
    async with client(url) as http:
        end, done = time.perf_counter() + seconds, 0

        async def one() -> None:
            nonlocal done
            while time.perf_counter() < end:
                reply = await http.post("/v1/chat/completions", json=body)
                done += reply.status_code == 200

        await asyncio.gather(*(one() for _ in range(16)))
        return done / seconds


async def arrivals(
    url: str, body: dict[str, Any], rate: float, seconds: float
) -> list[tuple[int, float, str]]:
    draw, rows = random.Random(0), []
    async with client(url) as http:

        async def ask() -> None:
            began = time.perf_counter()
            reply = await http.post("/v1/chat/completions", json=body)
            after = reply.headers.get("retry-after", "")
            rows.append((reply.status_code, time.perf_counter() - began, after))

        async with asyncio.TaskGroup() as group:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                group.create_task(ask())
                await asyncio.sleep(draw.expovariate(rate))
    return rows


def hangups(options: argparse.Namespace) -> dict[str, Any]:
    """Clients that hang up at random moments: how soon the server is idle, and what it has lost."""
    kinds = [
        ("/v1/chat/completions", {"model": "house/chat", "messages": TALK, "ignore_eos": True}),
        ("/v1/chat/completions", {"model": "house/chat", "messages": TALK, "stream": True}),
        (
            "/v1/images/generations",
            {"model": "house/image", "prompt": "a red circle", "steps": 100},
        ),
    ]
    with daedal("--queue", "2000") as server:
        found = asyncio.run(hung_up(server, kinds, options.hangups))
    print(f"{options.hangups} hang-ups: {found}")
    return found


async def hung_up(server: Process, kinds: list[Any], count: int) -> dict[str, Any]:
    draw = random.Random(0)
    async with client(server.url) as http:

        async def one(number: int) -> None:
            path, body = kinds[number % 3]
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(draw.uniform(0, 0.3)):
                    async with http.stream("POST", path, json=body) as reply:
                        async for _ in reply.aiter_raw():
                            pass

        await side_by_side(16, 120, one)  # warm: what stays after these is no leak
        await idle(http)
        memory, descriptors = server.memory, server.descriptors
        await side_by_side(16, count, one)
        seconds = await idle(http)
        await asyncio.sleep(2)
        grown = (server.memory - memory) / 1e6
        more = server.descriptors - descriptors
    return {
        "idle after s": round(seconds, 3),
        "memory + MB": round(grown, 1),
        "descriptors +": more,
    }


async def idle(http: httpx.AsyncClient) -> float:
    """Seconds until nothing is under way."""
    began = time.perf_counter()
    while (await http.get("/health")).json()["generations"]:
        await asyncio.sleep(0.005)
    return time.perf_counter() - began


def swaps(options: argparse.Namespace) -> dict[str, Any]:
    """Four models of three kinds in the memory of two."""
    names = ["house/chat", "house/text", "house/image", "house/image-fast"]
    with daedal() as server:
        taken = {}
        for name in names:
            httpx.post(f"{server.url}/v1/models/load", json={"model": name}, timeout=60)
            rows = httpx.get(f"{server.url}/v1/models").json()["data"]
            taken[name] = next(row["memory"] for row in rows if row["id"] == name)
    budget = sum(sorted(taken.values())[-2:]) / 1e9
    with daedal("--memory", f"{budget:.6f}", "--queue", "100") as server:
        found = asyncio.run(swapped(server, names, options.swaps))
    print(f"{options.swaps} requests to four models in {1e3 * budget:.0f} MB: {found}")
    return found


async def swapped(server: Process, names: list[str], count: int) -> dict[str, Any]:
    draw, statuses, slowest = random.Random(0), [], 0.0
    async with client(server.url) as http:

        async def one(number: int) -> None:
            nonlocal slowest
            name = draw.choice(names)
            began = time.perf_counter()
            if "image" in name:
                body = {"model": name, "prompt": "a red circle", "steps": 2}
                reply = await http.post("/v1/images/generations", json=body)
            else:
                body = {"model": name, "prompt": "Once", "max_tokens": 8}
                reply = await http.post("/v1/completions", json=body)
            slowest = max(slowest, time.perf_counter() - began)
            statuses.append(reply.status_code)

        await side_by_side(16, count, one)
    return {"errors": sum(s != 200 for s in statuses), "slowest s": round(slowest, 2)}


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """A server that is killed again and again while it makes pictures as jobs."""
    lost, stuck, submitted = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.kills):
            port = free_port()
            command = ["daedal", "serve", "--port", str(port), "--folder", folder]
            server = Process(command, port, "/ready")
            for i in range(4):
                body = {"prompt": "a red circle", "settings": {"steps": 30, "seed": i}}
                submitted.append(httpx.post(f"{server.url}/v1/jobs", json=body).json()["id"])
            time.sleep(random.Random(number).uniform(0, 0.5))
            server.kill()
        port = free_port()
        server = Process(
            ["daedal", "serve", "--port", str(port), "--folder", folder], port, "/ready"
        )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            reply = httpx.get(f"{server.url}/v1/jobs", params={"limit": 1000}).json()["data"]
            states = {row["id"]: row["status"] for row in reply}
            if not any(state in ("queued", "in_progress") for state in states.values()):
                break
            time.sleep(0.2)
        lost = sum(id not in states for id in submitted)
        stuck = sum(states.get(id) in ("queued", "in_progress") for id in submitted)
        server.kill()
    found = {"jobs": len(submitted), "lost": lost, "stuck": stuck}
    print(f"killed {options.kills} times: {found}")
    return found


def seeds(options: argparse.Namespace) -> dict[str, Any]:
    """One seed by the command line, Python and HTTP, alone and in a batch of 16."""
    import daedal as package

    prompt, settings = "Once upon a time", {"seed": 7, "max_tokens": 40}
    python = package.load("house/text")(prompt, **settings).whole
    command = [sys.executable, "-m", "daedal", "text", prompt, "--seed", "7", "--max-tokens", "40"]
    line = subprocess.run(command, capture_output=True, text=True).stdout.rstrip("\n")
    with daedal() as server:

        async def ask(number: int) -> str:
            body = {"model": "house/text", "prompt": prompt, "echo": True, **settings}
            own = body if number == 0 else body | {"seed": number + 100, "prompt": f"{number} days"}
            reply = await http.post("/v1/completions", json=own)
            return reply.json()["choices"][0]["text"]

        async def both() -> tuple[str, str]:
            nonlocal http
            async with client(server.url) as http:
                alone = await ask(0)
                return alone, (await asyncio.gather(*map(ask, range(16))))[0]

        http: httpx.AsyncClient
        alone, batched = asyncio.run(both())
    found = {
        "python = cli": python == line,
        "= http": python == alone,
        "= batch of 16": python == batched,
    }
    print(f"one seed: {found}")
    return found


def schemas(options: argparse.Namespace) -> dict[str, Any]:
    """Generated requests to every route, valid and not, alone and in sequences (schemathesis): the
    answers must be those that the server's own description promises, and never a 500."""
    cases, failures = 0, set()
    with daedal() as server, tempfile.TemporaryDirectory() as folder:
        for seed in range(1000):
            report = Path(folder) / f"{seed}.ndjson"
            command = [shutil.which("st") or "st", "run", f"{server.url}/openapi.json"]
            command += ["--checks", ",".join(CHECKS), "--seed", str(seed), "--continue-on-failure"]
            command += ["--max-examples", "20", "--report-ndjson-path", str(report), "--no-shrink"]
            command += ["--generation-database", "none", "--request-timeout", "60"]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if not report.exists():
                raise SystemExit("schemathesis did not run; pip install schemathesis")
            made, failed = tally(report)
            cases, failures = cases + made, failures | failed
            print(f"{cases} cases, {len(failures)} kinds of failure", flush=True)
            if cases >= options.cases:
                break
    for failure in sorted(failures):
        print("  ".join(failure))
    return {"cases": cases, "failures": len(failures)}


def tally(report: Path) -> tuple[int, set[tuple[str, ...]]]:
    """The cases of a report, and (operation, check, status) of those that failed."""
    cases, failures = 0, set()
    for line in report.read_text().splitlines():
        found = json.loads(line).get("ScenarioFinished")
        recorder = found["recorder"] if found else {"cases": {}, "checks": {}}
        cases += len(recorder["cases"])
        for case, checks in recorder["checks"].items():
            for check in checks:
                if check["status"] == "failure":
                    reply = recorder["interactions"][case]["response"] or {}
                    name = recorder["cases"][case]["value"]
                    operation = f"{name['method']} {name['path']}"
                    failures.add((operation, check["name"], str(reply.get("status_code"))))
    return cases, failures


PARTS = {
    "overhead": overhead,
    "clients": clients,
    "overload": overload,
    "hangups": hangups,
    "swaps": swaps,
    "kills": kills,
    "seeds": seeds,
    "schemas": schemas,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the measurements")
    parser.add_argument("--model", help="a GGUF file, for `clients`")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, for `clients`")
    parser.add_argument("--seconds", type=float, default=20, help="of each load, for `overload`")
    parser.add_argument("--queue", type=int, default=4, help="of the server, for `overload`")
    parser.add_argument("--hangups", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cases", type=int, default=10_000, help="for `schemas`")
    options = parser.parse_args()
    parts = options.part or [name for name in PARTS if name != "clients" or options.model]
    print(json.dumps({name: PARTS[name](options) for name in parts}))


if __name__ == "__main__":
    main()
