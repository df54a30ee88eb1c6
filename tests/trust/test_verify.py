"""`daedal verify`: what each signal says of a file as it was made, saved again, changed, and of a text;
and never that a person made it."""

import io
import json
import shutil
import sys

import pytest
from PIL import Image

from daedal import cli
from daedal.errors import DaedalError
from daedal.trust import manifest
from daedal.trust.verify import NOTHING, verify


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name, value in (("XDG_DATA_HOME", tmp_path), ("DAEDAL_HISTORY", tmp_path / "h.db"), ("DAEDAL_PROVENANCE", "1")):  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    return tmp_path


def run(*args):
    cli.app([str(arg) for arg in args], standalone_mode=False)


def test_a_picture_and_what_becomes_of_it(home, capsys):
    pytest.importorskip("c2pa")
    run("image", "a red circle", "--seed", 1, "--steps", 2, "-o", "made.png", "-q")
    capsys.readouterr()
    run("verify", "made.png")
    said = capsys.readouterr().out
    assert "manifest: Trusted" in said and "generation 1" in said and "recipe:" in said
    picture = Image.open("made.png").convert("RGB")
    picture.save("stripped.jpg", quality=70)
    run("verify", "stripped.jpg", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["manifest"] is None and found["recipe"] is None
    assert [each["same"] for each in found["registry"]] == [False]
    picture.save("again.png")
    data = bytearray((home / "made.png").read_bytes())
    data[-30] ^= 1  # of the pixels
    (home / "changed.png").write_bytes(data)
    found = verify(home / "changed.png")
    assert found.manifest.state == "Invalid" and "damaged" in found.unread[0]
    run("verify", "changed.png")
    assert "manifest: Invalid" in capsys.readouterr().out


def test_a_file_of_nobodys(home):
    Image.radial_gradient("L").save(home / "unknown.png")
    said = verify(home / "unknown.png").sentences()
    assert said == [NOTHING] and "human" not in " ".join(said)


def test_a_text(home, tiny_folder, capsys):
    asked = ("--model", tiny_folder, "--seed", 1, "--max-tokens", 150, "--temperature", 1)
    run("text", "Once", *asked, "--watermark", "--watermark-strength", 6, "-o", "marked.txt")
    run("text", "Once", *asked, "-o", "plain.txt")
    shutil.copy("plain.txt", "kept.txt")
    capsys.readouterr()
    run("verify", "marked.txt", "--model", tiny_folder, "--json")
    assert json.loads(capsys.readouterr().out)["registry"][0]["generation"] == 1
    run("verify", "kept.txt", "--model", tiny_folder)
    said = capsys.readouterr().out
    assert "byte for byte" in said and "no watermark" in said and "human" not in said
    run("verify", "kept.txt")
    assert "--model" in capsys.readouterr().out


def test_without_the_extra_files_stay_as_they_are(home, monkeypatch, capsys):
    monkeypatch.setattr(manifest, "installed", lambda: False)
    for number in (1, 2):
        run("image", "a red circle", "--steps", 1, "-o", f"{number}.png", "-q")
    assert capsys.readouterr().err.count("daedal[provenance]") == 1
    found = verify(home / "1.png")
    assert found.manifest is None and found.registry[0].same and "provenance" in found.unread[0]


def test_a_file_that_is_not_there(home):
    with pytest.raises(DaedalError, match="no file"):
        verify(home / "none.png")
