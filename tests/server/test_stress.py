"""What goes wrong around a server: clients that hang up, queues that are full, models that do not
fit together, engines that fail, processes that are killed."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from daedal.engine.runtime import GeneratorLane
from daedal.engine.store import STORE
from daedal.server.database import Database
from daedal.server.files import Files
from daedal.server.jobs import Jobs
from daedal.server.models import key_of, weight_bytes
from daedal.server.run import bound

LONG = {
    "model": "house/chat",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 480,
    "ignore_eos": True,
}
PICTURE = {"model": "house/image", "prompt": "a red circle", "steps": 400}


def settled(served, seconds: float = 10) -> bool:
    """Whether nothing is under way, nothing is lent, within so many seconds."""
    server, end = served.server, time.monotonic() + seconds
    while time.monotonic() < end:
        busy = any(use.busy for name, use in server.models.uses.items())
        if not (server.driver.busy or busy or sum(server.admission.under_way.values())):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", LONG | {"stream": True}),
        ("/v1/chat/completions", LONG),
        ("/v1/responses", {"model": "house/chat", "input": "Tell me a story."}),
        ("/v1/images/generations", PICTURE),
        ("/v1/images/generations", PICTURE | {"stream": True, "partial_images": 2}),
        ("/api/chat", LONG),
    ],
)
def test_who_hangs_up_stops_the_work(served, path, body):
    for wait in (0.0, 0.02, 0.15):
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", served.url + path, json=body, timeout=wait + 0.05) as reply,
        ):
            for _ in reply.iter_raw():
                break
    assert settled(served)


def test_a_full_queue_refuses_at_once_and_says_when(serve):
    served = serve(queue=0)
    served.server.admission.under_way["house/chat"] = 16  # as many as run side by side
    served.server.admission.seconds["house/chat"] = 8.0
    began = time.perf_counter()
    reply = served.post("/v1/chat/completions", **LONG)
    assert time.perf_counter() - began < 1
    assert reply.status_code == 429 and reply.json()["error"]["code"] == "queue_full"
    assert reply.headers["retry-after"] == "1" and int(reply.headers["retry-after-ms"]) == 500
    served.server.admission.under_way.clear()


def test_models_that_do_not_fit_together_take_turns(serve, monkeypatch):
    names = ["house/chat", "house/text", "house/image", "house/image-fast"]
    for key, _, _ in STORE.models():
        STORE.drop(key)
    served = serve()
    taken = {}
    for name in names:  # what each takes in memory
        served.post("/v1/models/load", model=name).raise_for_status()
        taken[name] = next(size for key, size, _ in STORE.models() if key == key_of(name))
        served.post("/v1/models/unload", model=name).raise_for_status()
    budget = STORE.used + sum(sorted(taken.values())[-2:]) + 10**6  # and keys and values
    monkeypatch.setattr(STORE, "_budget", budget)
    replies, most = [], [0]

    def ask(number: int) -> None:
        name = names[number % 4]
        body: dict = {"model": name, "prompt": "a red circle", "seed": number}
        kind = "images/generations" if "image" in name else "completions"
        body |= {"steps": 2} if "image" in name else {"max_tokens": 4}
        replies.append(httpx.post(f"{served.url}/v1/{kind}", json=body, timeout=60))
        most[0] = max(most[0], sum(size for _, size, _ in STORE.models()))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [reply.status_code for reply in replies] == [200] * 40
    assert most[0] <= budget and settled(served)


def test_a_model_that_cannot_fit_says_what_it_needs(serve, monkeypatch):
    served = serve()
    for key, _, _ in STORE.models():
        STORE.drop(key)
    monkeypatch.setattr(STORE, "_budget", STORE.used + weight_bytes("house/text") // 2)
    reply = served.post("/v1/completions", model="house/text", prompt="Once")
    assert reply.status_code == 503 and "house/text cannot be loaded" in reply.text
    assert "GB" in reply.json()["error"]["message"] and settled(served)


def test_an_engine_that_fails_is_restarted(serve, monkeypatch):
    served = serve()
    whole = GeneratorLane.step
    failing = [True]

    def step(self):
        if failing[0]:
            failing[0] = False
            raise SystemError("a fault of the machine")
        return whole(self)

    monkeypatch.setattr(GeneratorLane, "step", step)
    asked = {"model": "house/image", "prompt": "a red circle", "steps": 2}
    reply = served.post("/v1/images/generations", **asked)
    assert reply.status_code == 400 and "restarted" in reply.json()["error"]["message"]
    assert served.post("/v1/images/generations", **asked).status_code == 200
    assert served.http.get("/health").json()["engine_restarts"] == 1 and settled(served)


def test_an_idle_model_is_unloaded_and_a_pinned_one_is_not(serve):
    served = serve(keep_alive=0.2, pinned=["house/text"])
    served.post("/v1/completions", model="house/text", prompt="Once", max_tokens=1)
    served.post("/v1/chat/completions", **LONG | {"max_tokens": 1})
    for _ in range(100):
        loaded = [name for name, _, _ in served.server.models.loaded()]
        if "house/chat" not in loaded:
            break
        time.sleep(0.05)
    assert "house/text" in loaded and "house/chat" not in loaded
    reply = served.post("/v1/models/unload", model="house/text")
    assert reply.status_code == 409


def test_bodies_and_pictures_have_limits(serve):
    served = serve(max_body=10_000, max_pixels=100 * 100)
    large = served.post("/v1/completions", model="house/text", prompt="x" * 20_000)
    assert large.status_code == 413 and "10,000" in large.text
    chunks = (b"x" * 1000 for _ in range(20))
    streamed = served.http.post("/v1/completions", content=chunks)
    assert streamed.status_code == 413
    huge = served.post("/v1/images/generations", prompt="a circle", size="4096x4096")
    assert huge.status_code == 400 and huge.json()["error"]["param"] == "size"


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a \ud800 b"}]}),
        ("/v1/responses", {"input": "x", "instructions": "\udc00"}),
        ("/v1/embeddings", {"input": ["\ud83d"]}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "\ud83d"}]}),
        ("/tokenize", {"content": "\ud83d"}),
    ],
)
def test_half_a_character_is_refused(served, path, body):
    headers = {"content-type": "application/json"}
    reply = served.http.post(path, content=json.dumps(body), headers=headers)
    assert reply.status_code == 400 and "half a character" in reply.text


def test_addresses_in_a_request_are_not_fetched(served):
    url = {"image_url": "http://169.254.169.254/latest/meta-data"}
    reply = served.post("/v1/images/edits", prompt="a circle", images=[url])
    assert reply.status_code == 400 and "data URL" in reply.text
    for id in ("../../etc/passwd", "file-..", "%2e%2e%2fserver.db"):
        assert served.http.get(f"/v1/files/{id}/content").status_code == 404


KEYS = """
alice: {key: sk-alice, scopes: [text, files], per_minute: 5}
bob: {key: "sha256:%s"}
"""


def test_keys_scopes_and_rates(serve, tmp_path):
    import hashlib

    (tmp_path / "keys.yaml").write_text(KEYS % hashlib.sha256(b"sk-bob").hexdigest())
    served = serve(keys=tmp_path / "keys.yaml")
    alice, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("alice", "bob"))
    get = served.http.get
    assert get("/health").status_code == 200
    assert get("/v1/models").status_code == get("/openapi.json").status_code == 401
    assert get("/v1/models", headers=alice).status_code == 403
    assert get("/v1/models", headers=bob).status_code == 200
    file = served.http.post("/v1/files", files={"file": b"x"}, headers=bob).json()["id"]
    assert get(f"/v1/files/{file}", headers=alice).status_code == 404  # it is bob's
    assert get(f"/v1/files/{file}", headers={"x-api-key": "sk-bob"}).status_code == 200
    codes = [get("/v1/files", headers=alice).status_code for _ in range(6)]
    assert codes == [200] * 4 + [429] * 2


# ---- jobs ----------------------------------------------------------------------------------------


def wait_for(served, id: str) -> dict:
    for _ in range(400):
        row = served.http.get(f"/v1/jobs/{id}").json()
        if row["status"] in ("completed", "failed", "cancelled"):
            return row
        time.sleep(0.02)
    raise AssertionError(row)


def test_a_picture_as_a_job(served):
    asked = {"medium": "image", "prompt": "a red circle", "settings": {"seed": 1, "steps": 3}}
    headers = {"idempotency-key": "once"}
    row = served.http.post("/v1/jobs", json=asked, headers=headers).json()
    assert row["status"] in ("queued", "in_progress", "completed")
    same = served.http.post("/v1/jobs", json=asked, headers=headers).json()
    assert same["id"] == row["id"]
    other = served.http.post("/v1/jobs", json=asked | {"prompt": "a star"}, headers=headers)
    assert other.status_code == 409
    done = wait_for(served, row["id"])
    assert done["status"] == "completed" and done["progress"] == 100
    whole = served.http.get(f"/v1/jobs/{row['id']}/content")
    assert whole.content.startswith(b"\x89PNG")
    part = served.http.get(f"/v1/jobs/{row['id']}/content", headers={"range": "bytes=0-7"})
    assert part.status_code == 206 and part.content == whole.content[:8]
    assert served.http.delete(f"/v1/jobs/{row['id']}").json()["deleted"]
    assert served.http.get(f"/v1/jobs/{row['id']}").status_code == 404


def test_a_job_is_cancelled_and_one_that_fails_says_why(served):
    long = {"prompt": "a red circle", "settings": {"steps": 1000}}
    row = served.post("/v1/jobs", **long).json()
    time.sleep(0.2)
    assert served.http.post(f"/v1/jobs/{row['id']}/cancel").json()["status"] == "cancelled"
    row = served.post("/v1/jobs", prompt=" ").json()
    assert "prompt is empty" in wait_for(served, row["id"])["error"]["message"]
    refused = served.post("/v1/jobs", prompt="x", settings={"init": "/etc/passwd"})
    assert refused.status_code == 400 and settled(served)


def jobs_in(folder) -> Jobs:
    database = Database(folder / "server.db")
    return Jobs(database, Files(folder / "files", database, 10**9, 60), 60)


KILLED = """
import asyncio, os, pathlib, signal, sys
sys.path.insert(0, os.path.dirname({here!r}))
from test_stress import jobs_in

async def main():
    jobs = jobs_in(pathlib.Path({folder!r}))
    jobs.kinds["wait"] = lambda job: asyncio.sleep(60)
    ids = [jobs.submit("wait", dict(n=i), "")["id"] for i in range(3)]  # two run at once
    asyncio.ensure_future(jobs.run())
    await asyncio.sleep(0.05)
    print(*(id + "=" + jobs.get(id, "")["status"] for id in ids), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_killed_server_loses_no_job(tmp_path):
    code = KILLED.format(here=__file__, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    states = dict(pair.split("=") for pair in done.stdout.split())
    assert list(states.values()) == ["in_progress", "in_progress", "queued"]

    async def after() -> None:
        jobs = jobs_in(tmp_path)
        jobs.recover()

        async def work(job) -> None:
            job.result(b"made", "x.txt")

        jobs.kinds["wait"] = work
        runner = asyncio.ensure_future(jobs.run())
        await asyncio.sleep(0.1)
        rows = [jobs.get(id, "") for id in states]
        assert [row["status"] for row in rows] == ["failed", "failed", "completed"]
        assert "server stopped" in rows[0]["error"]["message"]
        assert jobs.files.path(rows[2]["results"][0]).read_bytes() == b"made"
        runner.cancel()

    asyncio.run(after())


def test_files_expire_and_keep_to_a_quota(tmp_path):
    files = Files(tmp_path / "files", Database(tmp_path / "a.db"), quota=100, expiry=-1)
    old = files.add(b"x" * 60, "a", "user_data", "", keep=False)
    new = files.add(b"y" * 60, "b", "user_data", "")  # the one that may go makes room
    assert not files.path(old["id"]).exists() and files.path(new["id"]).exists()
    with pytest.raises(Exception, match="do not fit"):
        files.add(b"z" * 60, "c", "user_data", "")
    gone = files.add(b"w", "d", "user_data", "", keep=False)
    files.sweep()
    assert not files.path(gone["id"]).exists()


def test_a_server_that_is_asked_to_end_finishes_its_answers(tmp_path):
    with bound("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "daedal", "serve", "--port", str(port)]
    process = subprocess.Popen([*command, "--folder", str(tmp_path)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready").status_code == 200:
                break
        time.sleep(0.05)
    body = LONG | {"stream": True, "max_tokens": 60}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.terminate()
        assert list(lines)[-2] == "data: [DONE]"
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)  # uvicorn passes the signal on
