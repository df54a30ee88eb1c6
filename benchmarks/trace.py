"""Whether training examples planted in results are traced, by medium, what it costs, and how often an
unlike content is called alike. A planted text is 40 words of a story inside a tale made by program; a
tune stands five semitones higher; a picture is smaller and a JPEG of quality 75, a sound quieter and
in Opus or MP3, a clip half as large and another format. Found is what is named first (or, of texts and
tunes, has as long a run as that).

    python benchmarks/trace.py DATA        # a folder with stories, emoji-captions, folk-tunes-abc, ...

takes two minutes of a core."""

import dataclasses
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from daedal.errors import DaedalError
from daedal.media import abc, audio, images, video
from daedal.trust.memorised import layout
from daedal.trust.memorised.examples import Example, examples
from daedal.trust.memorised.trace import Index, trace
from daedal.worlds import motion
from daedal.worlds.tales import tale

COUNT = 300
Planted = Iterator[tuple[int, Path]]  # which example a file is made of


def measured(name: str, index: Index, planted: Planted) -> None:
    """How many are named first, and the milliseconds from a file to its answer."""
    hits, spent, size = 0, [], sum(index.sizes.values())
    for i, file in planted:
        began = time.perf_counter()
        kind, found = trace(file, index)
        spent.append(1000 * (time.perf_counter() - began))
        best = [near.label for near in found if near.words == found[0].words]
        if kind not in ("text", "tune"):
            best = best[:1]
        hits += index.labels[kind][i] in best  # some stories stand in the data twice
    print(f"{name}: {hits} of {len(spent)} found among {size:,}; {statistics.median(spent):.1f} ms a result, at most {max(spent):.1f}")  # fmt: skip


def unlike(name: str, index: Index, kind: str, contents: list[np.ndarray]) -> None:
    """Contents that are not in the index: how near they come, and how many are called alike."""
    nearest = [index.nearest(kind, content, 1)[0] for content in contents]
    distances = sorted(near.apart or 0.0 for near in nearest)
    alike = sum(near.like for near in nearest)
    print(f"{name}: {alike} of {len(nearest)} unlike ones called alike; the nearest {distances[0]:.1f}, the median {statistics.median(distances):.1f} apart")  # fmt: skip


def drawn(found: list[Example], kind: str) -> list[int]:
    """Examples whose content stands only once in the data, by chance."""
    keys = [x.content if isinstance(x.content, str) else x.content.tobytes() for x in found if x.kind == kind]  # fmt: skip
    times = Counter(keys)
    once = [i for i, key in enumerate(keys) if times[key] == 1]
    return random.Random(0).sample(once, min(COUNT, len(once)))


def texts(data: Path, folder: Path) -> None:
    found = list(examples(str(data / "stories/stories.parquet")))
    rng, index = random.Random(0), Index.build(found)

    def planted() -> Planted:
        for i in rng.sample(range(len(found)), COUNT):
            words = str(found[i].content).split()
            at = rng.randrange(max(1, len(words) - 40))
            file = folder / "result.txt"
            file.write_text(f"{tale(rng)} {' '.join(words[at : at + 40])} {tale(rng)}")
            yield i, file

    measured("texts", index, planted())


def tunes(data: Path, folder: Path) -> None:
    path = data / "folk-tunes-abc/tunes.parquet"
    found, rows = list(examples(str(path))), pq.read_table(path, columns=["abc"]).to_pylist()

    def planted() -> Planted:
        for i in drawn(found, "tune"):
            file = folder / "result.abc"
            try:
                file.write_text(abc.write(higher(abc.read(rows[i]["abc"]))))
            except DaedalError:  # collections have tunes that do not read
                file.write_text(rows[i]["abc"])
            yield i, file

    measured("tunes", Index.build(found), planted())


def higher(tune: abc.Tune, semitones: int = 5) -> abc.Tune:
    """The notes of a tune, higher, as ABC in C major spells them."""

    def note(each: abc.Note) -> abc.Note:
        return each if each.pitch is None else dataclasses.replace(each, pitch=each.pitch + semitones)  # fmt: skip

    strains = [dataclasses.replace(strain, bars=tuple(tuple(map(note, bar)) for bar in strain.bars)) for strain in tune.strains]  # fmt: skip
    return dataclasses.replace(tune, tonic="C", mode="major", strains=tuple(strains))


def pictures(data: Path, folder: Path) -> None:
    path = data / "emoji-captions/emoji64.parquet"
    found, rows = list(examples(str(path))), pq.read_table(path).to_pylist()
    held = [i for i, row in enumerate(rows) if row["split"] == "val_concept"]

    def planted() -> Planted:
        for i in drawn(found, "picture"):
            pixels = Image.fromarray(images.over(images.open_image(rows[i]["image"])))
            file = folder / "result.jpg"
            pixels.resize((48, 48), Image.Resampling.LANCZOS).save(file, quality=75)
            yield i, file

    measured("pictures", Index.build(found), planted())
    seen = [each for i, each in enumerate(found) if i not in set(held)]
    unlike("pictures, of other concepts", Index.build(seen), "picture", [found[i].content for i in held])  # fmt: skip


def sounds(data: Path, folder: Path) -> None:
    path = data / "spoken-digits/fsdd.parquet"
    found, rows = list(examples(str(path))), pq.read_table(path).to_pylist()
    held = [i for i, row in enumerate(rows) if row["split"] == "test"]

    def planted() -> Planted:
        for n, i in enumerate(drawn(found, "sound")):
            samples, rate = audio.open_audio(rows[i]["audio"]["bytes"] if isinstance(rows[i]["audio"], dict) else rows[i]["audio"])  # fmt: skip
            suffix = (".opus", ".mp3")[n % 2]
            file = folder / f"result{suffix}"
            file.write_bytes(audio.encode(0.5 * samples, rate, suffix))
            yield i, file

    measured("sounds", Index.build(found), planted())
    seen = [each for i, each in enumerate(found) if i not in set(held)]
    unlike("sounds, the same digits said again", Index.build(seen), "sound", [found[i].content for i in held])  # fmt: skip


def clips(folder: Path) -> None:
    rng = random.Random(0)
    made = [motion.frames(motion.clip(rng)) for _ in range(COUNT + 250)]
    made = [frames for frames in made if (frames != frames[0]).any()]  # a still one is a picture
    layouts = [layout.of_clip(frames) for frames in made]
    found = [Example("clip", each, {"place": str(i)}) for i, each in enumerate(layouts[:COUNT])]

    def planted() -> Planted:
        for i in range(0, COUNT, 3):
            half = video.resized(made[i], made[i].shape[1] // 2, made[i].shape[2] // 2)
            suffix = (".mp4", ".gif", ".webp")[i % 9 // 3]
            yield i, video.save_clip(half, folder / f"result{suffix}", 8)

    index = Index.build(found)
    measured("clips", index, planted())
    unlike("clips, other scenes", index, "clip", layouts[COUNT:])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        data, folder = Path(sys.argv[1]), Path(temporary)
        texts(data, folder)
        tunes(data, folder)
        pictures(data, folder)
        sounds(data, folder)
        clips(folder)
