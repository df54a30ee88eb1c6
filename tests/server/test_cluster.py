"""Two replicas of Ray Serve on this machine (extra: cluster)."""

import os
import subprocess
import sys
import time

import httpx
import pytest

from daedal.server.run import bound

pytest.importorskip("ray.serve", reason="the cluster extra is not installed")
TALK = {"model": "house/chat", "messages": [{"role": "user", "content": "Hello!"}], "seed": 1}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with bound("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("cluster"))
    command = [sys.executable, "-m", "daedal", "serve", "--ray", "2"]
    command += ["--port", str(port), "--folder", folder]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            if httpx.get(f"{found}/ready").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(1)
    yield found
    process.terminate()
    process.wait(timeout=60)


def test_replicas_answer_alike(url):
    replies = [httpx.post(f"{url}/v1/chat/completions", json=TALK, timeout=60) for _ in range(6)]
    assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1


def test_a_job_is_run_by_one_of_them(url):
    body = {"prompt": "a red circle", "settings": {"steps": 2, "seed": 1}}
    ids = [httpx.post(f"{url}/v1/jobs", json=body).json()["id"] for _ in range(4)]
    for id in ids:
        for _ in range(200):
            row = httpx.get(f"{url}/v1/jobs/{id}").json()
            if row["status"] == "completed":
                break
            time.sleep(0.1)
        assert row["status"] == "completed" and len(row["results"]) == 1
