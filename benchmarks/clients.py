"""Other people's clients against the server: OpenAI's for Python at three versions (the tests of
tests/server), OpenAI's for JavaScript, LiteLLM, LangChain. Each is installed into a folder of its
own, so this needs a package index; JavaScript needs npm.

    python benchmarks/clients.py"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import daedal

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "tests" / "server" / "clients"
PINS = ("openai>=2,<3", "openai==3.3.1", "openai")
TESTS = ("tests/server/test_openai.py", "tests/server/test_dialects.py")


def install(folder: Path, *packages: str) -> dict[str, str]:
    """Packages in a folder; the environment that has them in front."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *packages]
    subprocess.run(command, check=True)
    return os.environ | {"PYTHONPATH": str(folder)}


def run(name: str, command: list[str], **options: object) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    lines = (done.stdout + done.stderr).strip().splitlines()
    told = "ok" if done.returncode == 0 else lines[-1] if lines else done.returncode
    print(f"{name:<24} {told}", flush=True)
    return done.returncode == 0


def main() -> None:
    good = []
    with tempfile.TemporaryDirectory() as folder, daedal() as server:
        address = f"{server.url}/v1"
        for i, pin in enumerate(PINS):
            env = install(Path(folder) / str(i), pin)
            command = [sys.executable, "-m", "pytest", "-q", *TESTS]
            good.append(run(pin, command, env=env, cwd=ROOT))
        env = install(Path(folder) / "others", "litellm", "langchain-openai")
        own = [sys.executable, str(CLIENTS / "others.py"), address]
        good.append(run("LiteLLM, LangChain", own, env=env))
        if shutil.which("npm"):
            shutil.copy(CLIENTS / "openai.mjs", folder)
            subprocess.run(["npm", "install", "--silent", "openai"], cwd=folder, check=True)
            good.append(run("openai for JavaScript", ["node", "openai.mjs", address], cwd=folder))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
