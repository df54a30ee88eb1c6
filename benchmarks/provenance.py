"""What provenance is worth: how often a watermark is found in texts of house/text by their length, whole
and with the middle half cut out; how near unlike pictures and sounds come, and the same ones saved
again; what a signature costs. `python benchmarks/provenance.py` takes some two minutes of a core."""

import dataclasses
import io
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import daedal
from daedal.media import audio, images, sound
from daedal.processes.text_mark import GreenList
from daedal.trust import manifest, registry
from daedal.trust.fingerprint import differing, grey, of_greys, of_sound
from daedal.trust.text_mark import examine
from daedal.worlds import scenes

RECIPE = {
    "model": "house/image", "digest": "ab" * 32, "prompt": "a red circle", "settings": {"seed": 1},
    "sample": 0, "runtime": {},
}  # fmt: skip


def texts(runs: int = 40) -> None:
    """Found at 1e-5 by tokens of text, and unmarked texts below 1e-2."""
    pipeline = daedal.load("house/text")
    mark = GreenList(bytes(range(32)))
    for length in (100, 200, 400):
        asked = dict(n=runs, seed=1, max_tokens=length, ignore_eos=True)
        params = pipeline.params(asked)
        fitted = pipeline.fitted(pipeline.encode("Once"), params)
        params = dataclasses.replace(fitted, mark=mark)  # this benchmark's key, not the user's
        request = pipeline.engine.generate([pipeline.encode("Once")], params)[0]
        ids = [pipeline.tokenizer.encode(sample.text, add_bos=False) for sample in request.samples]
        cut = [each[: len(each) // 4] + each[3 * len(each) // 4 :] for each in ids]
        plain = [
            pipeline.tokenizer.encode(t.text, add_bos=False) for t in pipeline("Once", **asked)
        ]
        whole, half, none = ([examine(mark, each) for each in part] for part in (ids, cut, plain))
        found = [sum(test.marked for test in part) for part in (whole, half)]
        pairs = statistics.mean(test.pairs for test in whole)
        alarms = sum(test.p_value < 1e-2 for test in none)
        print(f"{length} tokens ({pairs:.0f} distinct pairs): found {found[0]}/{runs}, half cut {found[1]}/{runs}; unmarked below 1e-2: {alarms}/{runs}")  # fmt: skip


def clouds(seed: int, side: int = 128) -> np.ndarray:
    """A picture with the spectrum of photographs."""
    f = np.fft.fftfreq(side)
    radius = np.hypot(f[:, None], f[None]) + 1 / side
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    picture = np.fft.ifft2(noise / radius).real
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.repeat((picture * 255).astype(np.uint8)[..., None], 3, -1)


def pictures() -> None:
    drawn = [scenes.draw(scenes.scene(random.Random(i)), 64) for i in range(1500)]
    for name, found in (("clouds", [clouds(i) for i in range(1000)]), ("drawn shapes", drawn)):
        words = np.array([of_greys([grey(each)]) for each in found])
        report(name, words, registry.NEAR["picture"])
        for how in ("JPEG 75", "half size", "crop 95 %"):
            again = [of_greys([grey(changed(each, how))]) for each in found[:200]]
            bits = np.array([differing(a, b[None])[0] for a, b in zip(words, again, strict=False)])
            share = (bits <= registry.NEAR["picture"]).mean()
            print(f"  after {how}: {share:.1%} are known")


def changed(pixels: np.ndarray, how: str) -> np.ndarray:
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    if how == "JPEG 75":
        picture.save(buffer, "JPEG", quality=75)
        picture = Image.open(buffer)
    elif how == "half size":
        picture = picture.resize((picture.width // 2, picture.height // 2))
    else:
        x, y = picture.width // 40, picture.height // 40
        picture = picture.crop((x, y, picture.width - x, picture.height - y))
    return np.asarray(picture.convert("RGB"))


def report(name: str, words: np.ndarray, near: float) -> None:
    pairs = [differing(words[i], words[i + 1 :]) for i in range(len(words) - 1)]
    bits = np.concatenate(pairs)
    print(
        f"{name}: {(bits <= near).sum()} of {len(bits):,} unlike pairs within {near:g} bits of 64"
    )


def noises(seed: int, rate: int = 24000) -> np.ndarray:
    """Eight half seconds of noise of unlike colours and loudness."""
    draw, parts = np.random.default_rng(seed), []
    for _ in range(8):
        spectrum = np.fft.rfft(draw.normal(size=rate // 2))
        knots = np.linspace(0, len(spectrum), 24)
        colour = np.interp(np.arange(len(spectrum)), knots, draw.normal(size=24) * 1.5)
        parts.append(np.fft.irfft(spectrum * np.exp(colour)) * np.exp(draw.normal()))
    joined = np.concatenate(parts)
    return (joined / np.abs(joined).max() * 0.8).astype(np.float32)[None]


def sounds() -> None:
    made = [noises(i) for i in range(400)]
    words = np.array([of_sound(sound.resample(each, 24000, 8000)[0]) for each in made])
    report("sounds", words, registry.NEAR["sound"])
    for suffix in (".mp3", ".ogg", ".opus"):
        heard = [
            audio.open_audio(audio.encode(x, 24000, suffix), 8000, mono=True)[0] for x in made[:40]
        ]
        bits = [differing(a, of_sound(b[0])[None])[0] for a, b in zip(words, heard, strict=False)]
        print(
            f"  after {suffix}: {np.mean(np.array(bits) <= registry.NEAR['sound']):.1%} are known"
        )


def signing() -> None:
    for side in (64, 512, 1024):
        pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
        path = images.save_image(pixels, Path(tempfile.mkdtemp()) / "a.png", RECIPE)
        data, spent, saved = path.read_bytes(), [], []
        for _ in range(15):
            began = time.perf_counter()
            manifest.signed(data, "image/png", "a.png", RECIPE)
            spent.append(1000 * (time.perf_counter() - began))
            path.write_bytes(data)
            began = time.perf_counter()
            manifest.sign(path, RECIPE)
            saved.append(1000 * (time.perf_counter() - began))
        print(f"PNG of {side} px: {statistics.median(spent):.1f} ms to sign, {statistics.median(saved):.1f} ms with the file written and synced again")  # fmt: skip


if __name__ == "__main__":
    signing()
    pictures()
    sounds()
    texts()
