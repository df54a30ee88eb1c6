"""What the studio works with: its files, history, recipes and trainings, pairs, measures."""

import base64
import json
import posixpath
import re
import subprocess
import sys
import time

import httpx
import pytest

from daedal.media import images
from daedal.pipelines import history
from daedal.server import trainings
from daedal.server.jobs import ENDED
from daedal.server.routes.studio import files

TINY = {"recipe": "text/tiny", "settings": {"steps": 4, "checkpoint_every": 2, "sample_every": 4}}


@pytest.fixture(autouse=True)
def own_history(tmp_path_factory, monkeypatch):
    """A history of the tests' own."""
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path_factory.getbasetemp() / "history.db"))


def ended(served, path, seconds=90.0):
    """A job or training, once it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = served.http.get(path).json()
        if found["status"] in ENDED:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} still runs: {found}")


# ---- the page ------------------------------------------------------------------------------------


def test_root_is_the_studio_to_browsers_and_ollamas_words_to_others(served):
    assert served.http.get("/").text == "Ollama is running"
    page = served.http.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html") and "<nav" in page.text


def test_files_are_kept_by_their_digest_and_run_no_other_scripts(served):
    first = served.http.get("/studio/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert "script-src 'self'" in first.headers["content-security-policy"]
    assert "unsafe" not in first.headers["content-security-policy"]
    again = served.http.get("/studio/app.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


@pytest.mark.parametrize("name", ["../app.py", "..%2f..%2fapp.py", "%2e%2e/auth.py", "nothing.js"])
def test_no_path_leaves_the_studio(served, name):
    assert served.http.get(f"/studio/{name}").status_code == 404


def test_every_file_that_another_names_is_there_and_none_is_elsewhere():
    named = re.compile(r"""(?:from|import|href=|src=|import\()\s*["']([^"'#$]+\.\w+)["']""")
    for name, file in files().items():
        for target in named.findall(file.data.decode()):
            path = posixpath.normpath(posixpath.join("/studio", posixpath.dirname(name), target))
            assert path.removeprefix("/studio/") in files(), f"{name}: {target}"


def test_a_verb_ends_with_the_process_that_started_it(tmp_path):
    """Training, whose parent dies without a word, writes its checkpoint and ends."""
    out = f"out={tmp_path / 'run'}"
    command = [sys.executable, "-m", "daedal.cli.child", "train", "recipes/text/tiny.yaml", out]
    child = subprocess.Popen([*command, "steps=100000"], stdin=subprocess.PIPE)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() and child.poll() is None:
        time.sleep(0.05)
    child.stdin.close()
    assert child.wait(timeout=60) == 130
    assert list((tmp_path / "run" / "checkpoints").iterdir())


# ---- history -------------------------------------------------------------------------------------


def test_history_is_searched_and_made_again(served):
    prompt = f"a green star {time.time()}"
    reply = served.post("/v1/images/generations", prompt=prompt, seed=5).json()
    (row,) = wait_for_rows(served, prompt)
    assert row["model"] == "house/image" and row["settings"]["seed"] == 5
    again = served.post(f"/v1/history/{row['id']}/again").json()
    assert again["same"]
    made, first = (base64.b64decode(x) for x in (again["b64_json"], reply["data"][0]["b64_json"]))
    assert (images.open_image(made) == images.open_image(first)).all()


def wait_for_rows(served, words):
    for _ in range(100):  # it is written beside the answer
        rows = served.http.get("/v1/history", params={"q": words}).json()["data"]
        if rows:
            return rows
        time.sleep(0.02)
    return []


def test_words_of_a_search_are_meant_as_they_are(served):
    served.post("/v1/completions", prompt="sixty_percent 60% é", max_tokens=1)
    assert wait_for_rows(served, "60% é") and wait_for_rows(served, "y_p")
    assert not served.http.get("/v1/history", params={"q": "6_%"}).json()["data"]


def test_what_cannot_be_made_again_is_refused_with_the_reason(served):
    row = history.Entry(1, 0.0, "image", "m", None, "p", {"init": "#00"}, 0, {}, "", 1, "stop")
    from daedal.server.routes.history import checked

    with pytest.raises(Exception, match="does not keep"):
        checked(row)
    assert served.post("/v1/history/999999/again").status_code == 404


# ---- recipes and trainings -----------------------------------------------------------------------


def test_recipes_come_with_their_schema(served):
    rows = served.http.get("/v1/recipes").json()["data"]
    assert {"text/tiny", "image/tiny", "chat/dpo"} <= {row["id"] for row in rows}
    found = served.http.get("/v1/recipes/text/tiny").json()
    assert found["values"]["steps"] == 150 and "steps: 150" in found["yaml"]
    assert found["schema"]["properties"]["optimizer"]


@pytest.mark.parametrize(
    "settings",
    [
        {"out": "/tmp/elsewhere"},
        {"data.train": [{"path": "/etc/passwd"}]},
        {"model.start": "/etc"},
        {"model.start": "../../secret"},
        {"stepz": 3},
        {"steps": "many"},
        {"steps.x": 3},
        {"a b": 1},
    ],
)
def test_a_training_takes_no_paths_and_no_unknown_keys(served, settings):
    reply = served.post("/v1/trainings", recipe="text/tiny", settings=settings)
    assert reply.status_code == 400, reply.text
    assert served.post("/v1/trainings", recipe="../../etc/passwd").status_code == 404
    assert served.post("/v1/trainings", recipe="text/tiny", name="../x").status_code == 400


def test_a_training_runs_is_watched_and_its_model_used(served):
    run = served.post("/v1/trainings", **TINY, name="watched").json()
    assert run["status"] in ("queued", "in_progress")
    assert served.post("/v1/trainings", **TINY, name="watched").status_code == 409
    done = ended(served, "/v1/trainings/watched")
    assert done["status"] == "completed", done
    assert (done["step"], done["steps"], done["model"]) == (4, 4, "runs/watched")
    metrics = served.http.get("/v1/trainings/watched/metrics").json()
    assert [row["step"] for row in metrics["steps"]] == [1, 2, 3, 4] and metrics["evaluations"]
    later = served.http.get("/v1/trainings/watched/metrics?after=2").json()
    assert [row["step"] for row in later["steps"]] == [3, 4]
    log = served.http.get("/v1/trainings/watched/samples").json()["log"]
    assert [line for line in log if line.startswith("  | Once upon a time")]
    text = served.post("/v1/completions", model="runs/watched", prompt="One day", max_tokens=3)
    assert text.status_code == 200 and text.json()["model"] == "runs/watched"
    job = served.post("/v1/models/quantize", model="runs/watched", name="small").json()
    packed = ended(served, f"/v1/jobs/{job['id']}")
    assert packed["detail"]["model"] == "packed/small", packed
    text = served.post("/v1/completions", model="packed/small", prompt="One day", max_tokens=3)
    assert text.status_code == 200
    assert served.http.delete("/v1/models/packed%2Fsmall").json()["deleted"]
    assert served.http.get("/v1/models/packed%2Fsmall").status_code == 404
    assert served.http.delete("/v1/trainings/watched").json()["deleted"]
    assert served.http.get("/v1/trainings/watched").status_code == 404


def test_a_training_is_stopped_and_goes_on(served):
    served.post("/v1/trainings", recipe="text/tiny", name="halted", settings={"steps": 4000})
    job = served.http.get("/v1/trainings/halted").json()["job"]
    while not served.http.get(f"/v1/jobs/{job}").json()["detail"].get("step"):
        time.sleep(0.1)
    served.post("/v1/trainings/halted/stop")
    stopped = ended(served, "/v1/trainings/halted")
    assert stopped["status"] == "cancelled" and 0 < stopped["step"] < 4000
    assert served.post("/v1/trainings/halted/resume").json()["status"] in ("queued", "in_progress")
    until = time.monotonic() + 60
    while served.http.get("/v1/trainings/halted").json()["step"] <= stopped["step"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    served.post("/v1/trainings/halted/stop")
    ended(served, "/v1/trainings/halted")


def test_a_training_that_fails_says_why(served):
    refused = served.post("/v1/trainings", recipe="text/tiny", name="wrong", settings={"rows": 0})
    assert refused.status_code == 400 and "rows = 0" in refused.json()["error"]["message"]
    served.post(
        "/v1/trainings", recipe="text/tiny", name="wrong", settings={"tokenizer.vocab_size": 3}
    )
    failed = ended(served, "/v1/trainings/wrong")
    assert failed["status"] == "failed" and failed["error"]["message"]


def test_texts_of_a_recipe_are_choices_or_models(tmp_path):
    schema = {
        "properties": {"method": {"enum": ["dpo", "ipo"]}, "start": {"type": "string"}},
        "$defs": {},
    }
    models = {"house/chat": "house/chat"}.__getitem__

    def model(name):
        try:
            return models(name)
        except KeyError:
            raise trainings.ApiError(404, "no such model") from None

    assert trainings.allowed("method", "ipo", schema, model) == "ipo"
    assert trainings.allowed("start", "house/chat", schema, model) == "house/chat"
    assert trainings.allowed("prompts", ["a cat"], schema, model) == ["a cat"]
    for key, value in (("method", "sgd"), ("start", "/etc"), ("start", {"path": "x"})):
        with pytest.raises(trainings.ApiError):
            trainings.allowed(key, value, schema, model)


# ---- pairs ---------------------------------------------------------------------------------------


def test_pairs_of_texts_are_what_training_reads(served, tmp_path):
    for i in range(3):
        pair = {"prompt": f"Say {i}", "chosen": f"{i}", "rejected": "no"}
        reply = served.post("/v1/preferences", file="taste", **pair)
        assert reply.json()["pairs"] == i + 1
    assert served.post("/v1/preferences/taste/undo").json()["pairs"] == 2
    data = served.http.get("/v1/preferences/taste/content").text
    assert [json.loads(line)["chosen"] for line in data.splitlines()] == ["0", "1"]
    same = served.post("/v1/preferences", file="taste", prompt="x", chosen="a", rejected="a")
    assert same.status_code == 400
    from daedal.data.comparisons import comparison_of
    from daedal.data.rows import ChatSource

    row = json.loads(data.splitlines()[0])
    _, completions, ranks, _ = comparison_of(row, ChatSource(path="taste"))
    assert ranks == (1, 2) and completions[0][-1]["content"] == "0"
    served.http.delete("/v1/preferences/taste")


def test_a_model_learns_from_pairs_that_were_labelled(served):
    for i in range(4):
        pair = {"prompt": f"Say {i}", "chosen": f"{i}, gladly", "rejected": "no"}
        served.post("/v1/preferences", file="lessons", **pair)
    settings = {"steps": 2, "evaluate_every": 2, "sample_every": 9, "rows": 2, "micro_rows": 2}
    asked = {"recipe": "chat/dpo", "preferences": "lessons", "settings": settings}
    served.post("/v1/trainings", name="taught", **asked)
    done = ended(served, "/v1/trainings/taught")
    assert (done["status"], done["model"]) == ("completed", "runs/taught"), done
    log = "\n".join(served.http.get("/v1/trainings/taught/samples").json()["log"])
    assert "chosen_gained" in log
    served.http.delete("/v1/trainings/taught")
    served.http.delete("/v1/preferences/lessons")


def test_pairs_of_pictures_are_what_rate_reads(served):
    import numpy as np

    from daedal.data.pairs import FilePairs

    urls = []
    for shade in (10, 240):
        data = images.encode(np.full((32, 32, 3), shade, np.uint8))
        urls.append({"image_url": f"data:image/png;base64,{base64.b64encode(data).decode()}"})
    pair = {"prompt": "a square", "chosen": urls[1], "rejected": urls[0]}
    assert served.post("/v1/preferences", file="looks", **pair).json()["kind"] == "image"
    text = served.post("/v1/preferences", file="looks", prompt="x", chosen="a", rejected="b")
    assert text.status_code == 409
    path = served.server.folder / "preferences" / "looks.jsonl"
    ((chosen, rejected, caption),) = FilePairs(path, 32).pairs
    assert (chosen.mean(), rejected.mean(), caption) == (240, 10, "a square")
    served.http.delete("/v1/preferences/looks")
    assert not path.with_suffix("").exists()


def test_names_of_files_are_no_paths(served):
    pair = {"prompt": "x", "chosen": "a", "rejected": "b"}
    for name in ("../x", "a/b", "", "A.b"):
        assert served.post("/v1/preferences", file=name, **pair).status_code == 400


def test_half_a_character_is_refused(served):
    body = '{"file": "x", "prompt": "p", "chosen": "\\ud800", "rejected": "b"}'
    headers = {"content-type": "application/json"}
    assert served.http.post("/v1/preferences", content=body, headers=headers).status_code == 400


# ---- measures, packing ---------------------------------------------------------------------------


def test_a_model_is_measured_with_intervals(served):
    job = served.post("/v1/evaluations", model="house/text", data="tales:4:1").json()
    done = ended(served, f"/v1/jobs/{job['id']}")
    assert done["status"] == "completed", done
    report = served.http.get("/v1/evaluations").json()["data"][0]["detail"]["report"]
    assert report["model"] == "house/text" and len(report) > 1


def test_a_measuring_takes_no_paths(served):
    wrong = [{"data": "/etc/passwd"}, {"settings": {"sheet": "/tmp/x.png"}}, {"data": "file-x"}]
    for more in wrong:
        reply = served.post("/v1/evaluations", model="house/text", **more)
        assert reply.status_code in (400, 404), reply.text


def test_what_is_packed_already_says_so(served):
    job = served.post("/v1/models/quantize", model="house/text", bits=4).json()
    failed = ended(served, f"/v1/jobs/{job['id']}")
    assert failed["status"] == "failed" and "quantised already" in failed["error"]["message"]


@pytest.mark.parametrize("name", ["house%2Ftext", "packed%2F..%2Fruns", "packed%2Fnothing", "x"])
def test_only_what_was_packed_here_is_deleted(served, name):
    assert served.http.delete(f"/v1/models/{name}").status_code in (400, 404)


def test_long_work_keeps_no_other_waiting(served):
    served.post("/v1/trainings", recipe="text/tiny", name="slow", settings={"steps": 4000})
    queued = served.post("/v1/evaluations", model="house/text", data="tales:4:1").json()
    job = served.post("/v1/jobs", medium="image", prompt="a star").json()
    assert ended(served, f"/v1/jobs/{job['id']}")["status"] == "completed"
    assert served.http.get(f"/v1/jobs/{queued['id']}").json()["status"] == "queued"
    served.http.post(f"/v1/jobs/{queued['id']}/cancel")
    served.post("/v1/trainings/slow/stop")
    ended(served, "/v1/trainings/slow")


def test_scopes_of_keys(tmp_path, serve):
    keys = tmp_path / "keys.yaml"
    keys.write_text("ann: {key: one, scopes: [text]}\nbob: {key: two, scopes: [train, history]}\n")
    served = serve(keys=keys)
    paths = ("/v1/recipes", "/v1/trainings", "/v1/preferences", "/v1/evaluations", "/v1/history")
    for path in paths:
        assert served.http.get(path).status_code == 401
        for key, status in (("one", 403), ("two", 200)):
            headers = {"authorization": f"Bearer {key}"}
            assert httpx.get(served.url + path, headers=headers).status_code == status
    for path in ("/", "/studio/app.js"):
        assert served.http.get(path).status_code == 200
    headers = {"authorization": "Bearer one"}  # the forms of the studio are made of it
    assert served.http.get("/openapi.json", headers=headers).status_code == 200
