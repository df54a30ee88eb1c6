"""The command as a user runs it: what goes where, exit codes, speed of --help, errors in one line."""

import json
import os
import signal
import subprocess
import sys

import pytest


def run(*args, stdin=None, history="0", **options):
    env = os.environ | {"DAEDAL_HISTORY": str(history), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "daedal", *map(str, args)],
        input=stdin or "",
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        **options,
    )


def test_help_and_import_do_not_load_torch():
    code = "import sys, daedal, daedal.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "text" in run("--help").stdout


def test_text_again_history(tiny_folder, tmp_path):
    log = tmp_path / "h.db"
    first = run("Once upon", "--model", tiny_folder, "--seed", 3, "--max-tokens", 12, history=log)
    assert first.returncode == 0 and first.stdout.startswith("Once upon") and first.stderr == ""
    listed = run("history", "--json", history=log)
    assert json.loads(listed.stdout)["settings"]["seed"] == 3
    assert run("again", 1, history=log).stdout == first.stdout
    quiet = run(
        "text",
        "Once upon",
        "--model",
        tiny_folder,
        "--seed",
        3,
        "--max-tokens",
        12,
        "-o",
        tmp_path / "out.txt",
    )
    assert quiet.stdout == "" and (tmp_path / "out.txt").read_text() == first.stdout


def test_standard_input_is_prompt_or_context(tiny_folder):
    common = ("--model", tiny_folder, "--seed", 3, "--max-tokens", 3)
    assert run(*common, stdin="Once upon\n").stdout.startswith("Once upon")
    assert run("What then?", *common, stdin="Some context.\n").stdout.startswith(
        "Some context.\n\nWhat then?"
    )


def test_json_and_schema(tiny_folder, tmp_path):
    (tmp_path / "s.json").write_text('{"enum": ["red", "blue"]}')
    done = run(
        "Colour:", "--model", tiny_folder, "--json", "-n", 2, "--schema", tmp_path / "s.json"
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 and all(json.loads(row["text"]) in ("red", "blue") for row in rows)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["x", "--model", "house/txt"], 1, "house/text"),
        (["x", "--temperatur", "1"], 2, "--temperature"),
        (["x", "--temperature", "-1"], 1, "temperature=-1"),
        (["train", "nothing.yaml"], 1, "nothing.yaml"),
        (["again", "12345"], 1, "history"),
        (["eval", "house/text"], 1, "--data"),
        (["eval", "house/image-fast", "--each", "3"], 1, "--each 3"),
        (["quantize", "house/text", "/tmp/never", "--bits", "3"], 1, "--bits 3"),
    ],
)
def test_one_line_errors(args, code, words):
    done = run(*args)
    assert (
        done.returncode == code
        and words in done.stderr
        and done.stderr.count("\n") == 1
        and done.stdout == ""
    )


def test_ctrl_c_keeps_what_there_is(tiny_folder, tmp_path):
    """A long answer is stopped by one SIGINT: exit code 130, the text so far on stdout."""
    long = [
        sys.executable,
        "-u",
        "-m",
        "daedal",
        "Once",
        "--model",
        str(tiny_folder),
        "--max-tokens",
        "60",
        "-n",
        "1",
        "--seed",
        "0",
    ]
    process = subprocess.Popen(
        long,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    start = process.stdout.read(4)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (
        (start + rest).startswith(b"Once")
        and b"Traceback" not in errors
        and process.returncode in (0, 130)
    )


def test_output_into_a_closed_pipe(tiny_folder):
    done = subprocess.run(
        f"{sys.executable} -m daedal Once --model {tiny_folder} </dev/null | head -c 3",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "Onc" and "Traceback" not in done.stderr


def test_chat_continues_without_a_template(tiny_folder):
    done = run(
        "chat",
        "--model",
        tiny_folder,
        "--seed",
        1,
        "--max-tokens",
        5,
        stdin="Hello there\n/retry\n/exit\n",
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 2


def test_an_adapter_on_a_model(tiny_folder, tmp_path):
    import torch

    from daedal import checkpoints
    from daedal.checkpoints.adapter import save_adapter
    from daedal.nn.lora import add_lora, lora_state

    network = checkpoints.load(tiny_folder)
    add_lora(network, 4, targets=["q_proj", "down_proj"])
    for tensor in lora_state(network).values():
        tensor.normal_(0, 0.3, generator=torch.Generator().manual_seed(tensor.numel()))
    save_adapter(network, tmp_path, str(tiny_folder))
    common, log = ("--seed", 3, "--max-tokens", 12), tmp_path / "h.db"
    plain = run("Once", "--model", tiny_folder, *common)
    adapted = run("Once", "--model", tiny_folder, "--adapter", tmp_path, *common, history=log)
    assert (
        adapted.returncode == 0
        and adapted.stdout != plain.stdout
        and run("again", 1, history=log).stdout == adapted.stdout
    )
    done = run("chat", "--model", tmp_path, *common, stdin="Hello there\n")
    assert done.returncode == 0 and done.stdout


def test_convert_and_quantize_round_trip(tiny_folder, tmp_path):
    assert run("quantize", tiny_folder, tmp_path / "q8").returncode == 0
    done = run("convert", tmp_path / "q8", tmp_path / "plain", "--dtype", "fp32")
    assert done.returncode == 0, done.stderr
    import transformers

    assert (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config.model_type
        == "llama"
    )
    assert run("x", "--model", tmp_path / "q8", "--max-tokens", 2).returncode == 0


def test_eval_prints_an_interval(tiny_folder, tmp_path):
    (tmp_path / "t.txt").write_text(
        "Once upon a time there was a cat.\n<|endoftext|>\nThe dog ran home.\n"
    )
    report = json.loads(run("eval", tiny_folder, "--data", tmp_path / "t.txt", "--json").stdout)
    assert report["held_out"]["documents"] == 2 and report["held_out"]["bits_per_byte_ci95"] > 0


def test_bytes_that_are_not_utf8(tiny_folder):
    common = (
        [sys.executable, "-m", "daedal", "text"],
        ["--model", str(tiny_folder), "--max-tokens", "2", "--raw"],
    )
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [*common[0], "日本 once", *common[1]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=env,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith(b"?? once"), done.stderr
    done = subprocess.run(
        [*common[0], b"caf\xe9", *common[1]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith("café".encode()), done.stderr


def test_a_history_that_cannot_be_written_costs_nothing(tiny_folder, tmp_path):
    (tmp_path / "h.db").write_text(
        "this is no database, but a text long enough to be read as one " * 20
    )
    done = run("Once", "--model", tiny_folder, "--max-tokens", 2, history=tmp_path / "h.db")
    assert done.returncode == 0 and done.stdout.startswith("Once") and "move it away" in done.stderr
    assert run("history", history=tmp_path / "h.db").returncode == 1
