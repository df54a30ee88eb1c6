"""Signed manifests: made for each container, read back as trusted, and Invalid by the part that was
changed."""

import json
import os
import stat

import numpy as np
import pytest

from daedal.errors import DaedalError
from daedal.files import data_folder
from daedal.media import audio, images, video

pytest.importorskip("c2pa")

from daedal.trust import manifest
from daedal.trust.manifest import GENERATION

RECIPE = {
    "model": "house/image", "digest": "ab" * 32, "prompt": "a red circle",
    "settings": {"seed": 1, "guidance_scale": 3.5, "lora": ("/home/someone/style.safetensors",)},
    "sample": 0, "runtime": {},
}  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def save(path):
    """A file of a kind, with its recipe."""
    if path.suffix == ".wav":
        return audio.save_audio(PICTURE.reshape(1, -1) / 255 - 0.5, path, 16000, RECIPE)
    if path.suffix == ".mp4":
        return video.save_clip(np.stack([PICTURE] * 4), path, 8, RECIPE)
    return images.save_image(PICTURE, path, RECIPE)


def content(path):
    """What a file shows or sounds."""
    if path.suffix == ".wav":
        return audio.open_audio(path)[0]
    return video.open_clip(path)[0] if path.suffix == ".mp4" else images.open_image(path)


READERS = {".wav": audio.recipe_of, ".mp4": video.recipe_of}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".wav", ".mp4"])
def test_signed_files_are_trusted_and_hold_the_same_content(folder, suffix):
    path = save(folder / f"made{suffix}")
    before, size = content(path), path.stat().st_size
    assert manifest.read(path) is None
    manifest.sign(path, RECIPE)
    assert np.array_equal(content(path), before) and path.stat().st_size - size < 8000
    recipe = READERS.get(suffix, images.recipe_of)(path)
    assert recipe == json.loads(json.dumps(RECIPE))
    found = manifest.read(path)
    assert found.state == "Trusted" and found.actions == ("c2pa.created",) and found.generated
    assert found.generation["model_sha256"] == RECIPE["digest"] and found.failures == ()
    assert found.generation["prompt_sha256"] == manifest.prompt_digest("a red circle")
    assert "circle" not in str(found.generation) and "someone" not in str(found.generation)


def test_a_changed_byte_is_invalid_by_its_part(folder):
    path = save(folder / "made.wav")
    manifest.sign(path, RECIPE)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found = manifest.read(path)
    assert found.state == "Invalid" and found.failures == ("c2pa.hash.data: assertion.dataHash.mismatch",)  # fmt: skip


def test_an_edit_names_its_parent(folder):
    parent = save(folder / "parent.png")
    manifest.sign(parent, RECIPE)
    edit = save(folder / "edit.png")
    settings = RECIPE["settings"] | {"init": f"{parent}#{'0' * 64}", "mask": str(folder / "gone.png")}  # fmt: skip
    manifest.sign(edit, RECIPE | {"settings": settings})
    found = manifest.read(edit)
    assert found.state == "Trusted" and found.parents == ("parent.png",)
    assert found.actions == ("c2pa.opened", "c2pa.edited") and found.generated


def test_another_installation_reads_it_as_valid(folder, monkeypatch):
    path = save(folder / "made.png")
    manifest.sign(path, RECIPE)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "elsewhere"))
    found = manifest.read(path)
    assert found.state == "Valid" and found.failures == () and not data_folder().exists()


def test_the_key_is_private_and_a_damaged_one_is_named(folder):
    manifest.sign(save(folder / "made.png"), RECIPE)
    secret = data_folder() / "provenance.pem"
    if os.name == "posix":
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"nothing")
    with pytest.raises(DaedalError, match="does not hold a key"):
        manifest.sign(save(folder / "made.png"), RECIPE)


def test_a_damaged_manifest_and_no_picture_at_all(folder):
    path = save(folder / "made.png")
    manifest.sign(path, RECIPE)
    data = path.read_bytes()
    at = data.find(GENERATION.encode()) + 60  # within our own assertion
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    found = manifest.read(path)
    assert found.state == "Invalid" and GENERATION in found.failures[0]
    path.write_bytes(b"no picture")
    with pytest.raises(DaedalError, match="no image/png"):
        manifest.read(path)
