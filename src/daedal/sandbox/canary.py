"""The canary: a program that tries to do harm. A zygote in which any of it succeeds runs nothing
else."""

import secrets
from pathlib import Path

from daedal.errors import DaedalError
from daedal.sandbox.results import Call

SECRET, OUTSIDE = "secret", "outside"
CODE = """
import os, signal, socket

def reads(path):
    with open(path) as file:
        return file.read() != ""

def writes(folder):
    with open(folder + "/canary", "w") as file:
        file.write("out")
    return True

def connects(family):
    socket.socket(family, socket.SOCK_STREAM).close()
    return True

def forks():
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True

def executes():
    os.execv("/bin/sh", ["sh", "-c", "exit 7"])

def signals():
    os.kill(os.getppid(), 0)
    return True

def escapes(secret, outside):
    tries = {
        "read a file": lambda: reads(secret),
        "write a file": lambda: writes(outside),
        "open a network socket": lambda: connects(socket.AF_INET),
        "open a local socket": lambda: connects(socket.AF_UNIX),
        "start a process": forks,
        "start a program": executes,
        "signal its parent": signals,
    }
    done = []
    for what, action in tries.items():
        try:
            if action():
                done.append(what)
        except OSError:
            pass
    return done
"""


def lay_out(folder: Path) -> None:
    """What the canary must fail to reach: a file that anyone may read, a folder open to all."""
    (folder / SECRET).write_text(secrets.token_hex(16))
    (folder / SECRET).chmod(0o644)
    (folder / OUTSIDE).mkdir()
    (folder / OUTSIDE).chmod(0o777)


def call(folder: Path) -> Call:
    return Call("escapes", (str(folder / SECRET), str(folder / OUTSIDE)))


def judge(status: str, value: object, error: str) -> None:
    """Raise unless the canary ran and did nothing of what it tried."""
    if status != "ok" or not isinstance(value, list):
        raise DaedalError(f"the canary did not run: {error.strip() or status}")
    if value:
        raise DaedalError(f"the canary could {', '.join(map(str, value))}")
