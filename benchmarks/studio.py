"""The studio in a browser: how long until it is painted, and until a picture is to be seen.

    python benchmarks/studio.py --rounds 5

Each round starts a server of its own with a folder of its own, and a browser with an empty profile,
so that nothing is cached and no model is loaded. "First paint" is the browser's own figure of the
first words on the page, from the start of the navigation, which begins as soon as the server says
that it is ready. "Picture" is from the press of the button to the finished picture, decoded and in
the gallery: first with the model still on disk, then again."""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime"""
PICTURE = """async () => {
    const count = () => document.querySelectorAll(".work:not(.live) img").length;
    const before = count();
    const button = [...document.querySelectorAll("button.main")].find((b) => b.innerText === "Paint");
    const start = performance.now();
    button.click();
    let live = 0;
    while (count() === before) {
        if (!live && document.querySelector(".live img")) live = performance.now() - start;
        await new Promise(requestAnimationFrame);
    }
    await document.querySelector(".work:not(.live) img").decode().catch(() => {});
    await new Promise(requestAnimationFrame);
    return [live, performance.now() - start];
}"""


@contextmanager
def served() -> Iterator[str]:
    """A server that has just started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "daedal", "serve", "--port", str(port)]
        environment = os.environ | {"DAEDAL_HISTORY": f"{folder}/history.db"}
        server = subprocess.Popen([*command, "--folder", folder], env=environment)
        address = f"http://127.0.0.1:{port}"
        try:
            while not ready(address):
                time.sleep(0.05)
            yield address
        finally:
            server.terminate()
            server.wait()


def ready(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/ready").status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def measured(driver: Any) -> dict[str, float]:
    """One round, in milliseconds."""
    path = next(filter(None, map(shutil.which, NAMES)))
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with served() as address:
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address, wait_until="commit")
        while (paint := page.evaluate(PAINT)) is None:
            time.sleep(0.01)
        page.get_by_label("Compare with").wait_for()
        usable = page.evaluate("performance.now()")
        page.get_by_label("Prompt").fill("two blue stars on a black background")
        found = {"first paint": paint, "ready to press": usable}
        for name in ("model on disk", "model loaded"):
            live, picture = page.evaluate(PICTURE)
            found |= {f"preview, {name}": live, f"picture, {name}": picture}
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with sync_playwright() as driver:
        found = [measured(driver) for _ in range(rounds)]
    print("| what | median ms | slowest |\n|---|---|---|")
    for name in found[0]:
        values = [each[name] for each in found]
        print(f"| {name} | {statistics.median(values):.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
