"""Training examples are found in results of every medium, verbatim runs exactly, and an index built
of a user's own files says where each example came from."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from daedal.cli import app
from daedal.errors import DaedalError
from daedal.media import audio, images, video
from daedal.trust.memorised.examples import examples, melody
from daedal.trust.memorised.overlap import Texts, words_of
from daedal.trust.memorised.trace import Index, trace

TUNE = "X:1\nM:4/4\nL:1/8\nK:{}\n{}\n"


def words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


@pytest.mark.parametrize("length", [9, 10, 23, 150])
def test_a_verbatim_run_is_found_whole_with_its_place(length):
    texts = [words(seed, 400) for seed in range(30)]
    index = Texts.of(" ".join(text) for text in texts)
    result = [*words(98, 60), *texts[17][120 : 120 + length], *words(99, 60)]
    first = index.runs(result)[0]
    assert (first.document, first.start, first.words) == (17, 60, length)


def test_eight_words_are_no_run_and_documents_do_not_join():
    texts = [words(seed, 40) for seed in range(10)]
    index = Texts.of(" ".join(text) for text in texts)
    assert not index.runs([*words(98, 20), *texts[3][5:13], *words(99, 20)])
    across = index.runs([*texts[3][-12:], *texts[4][:14]])
    assert [(run.document, run.words) for run in across] == [(4, 14), (3, 12)]


def test_case_punctuation_and_scripts_without_spaces():
    assert words_of("Once, UPON\na 'time'.") == ["once", "upon", "a", "time"]
    assert words_of("\u65e5\u672c go") == ["\u65e5", "\u672c", "go"]
    index = Texts.of(["The cat sat on the old red mat by the door.", "x"])
    assert index.runs(words_of('"the CAT sat -- on the old red mat, by the door!"'))[0].words == 11


def test_a_text_with_changed_words_is_alike_and_another_is_not():
    texts = [words(seed, 100) for seed in range(50)]
    index = Texts.of(" ".join(text) for text in texts)
    changed = [word if i % 8 else "changed" for i, word in enumerate(texts[31])]
    assert not index.runs(changed)
    document, share = index.alike(changed, 5)[0]
    assert document == 31 and 0.2 < share < 0.7
    assert not index.alike(words(99, 100), 5)
    assert not index.alike([], 5) and not index.runs([])


def test_short_and_empty_texts_are_indexed():
    index = Texts.of(["", "one two", " ".join(words(1, 20))])
    assert list(index.starts) == [0, 0, 2, 22]
    assert index.runs(words(1, 20))[0].document == 2


def test_a_tune_is_known_in_another_key():
    low = "CDEF GABc|cBAG FEDC|"
    assert melody(TUNE.format("C", low)) == melody(TUNE.format("D", "DEFG ABcd|dcBA GFED|"))
    assert melody(TUNE.format("C", low)) != melody(TUNE.format("C", "CDEG GABc|cBAG FEDC|"))


def clouds(seed: int, side: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def chirp(seed: int, rate: int = 16000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pitch = np.repeat(rng.uniform(200, 3000, 6), rate // 10)
    return (0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)).astype(np.float32)[None]


def test_every_medium_of_a_folder_is_traced_after_it_was_saved_in_another_way(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for i in range(8):
        images.save_image(clouds(i), data / f"{i}.png")
        audio.save_audio(chirp(i), data / f"{i}.wav", 16000, {})
        video.save_clip(np.stack([clouds(10 * i + j) for j in range(4)]), data / f"{i}.mp4", 4)
    index_file = tmp_path / "trace.safetensors"
    Index.build(examples(str(data), "CC0")).save(index_file)
    index = Index.load(index_file)
    assert index.sizes == {"picture": 8, "sound": 8, "clip": 8}
    for i in (2, 5):
        small = np.asarray(Image.fromarray(clouds(i)).resize((40, 40)))
        picture = images.save_image(small, tmp_path / "a.jpg")
        sound = audio.save_audio(0.4 * chirp(i), tmp_path / "a.mp3", 16000, {})
        frames = np.stack([clouds(10 * i + j) for j in range(4)])
        clip = video.save_clip(frames, tmp_path / "a.webp", 4)
        for file, name in ((picture, f"{i}.png"), (sound, f"{i}.wav"), (clip, f"{i}.mp4")):
            _, (first, second, *_) = trace(file, index)
            assert first.label == {"licence": "CC0", "place": name}
            assert first.like and not second.like
    _, found = trace(images.save_image(clouds(99), tmp_path / "other.png"), index)
    assert not any(near.like for near in found)


def test_rows_say_their_source_and_licence(tmp_path):
    rows = [
        {"title": "One", "text": " ".join(words(1, 50)), "source": "Asp", "license": "CC BY 4.0"},
        {"title": "Two", "text": " ".join(words(2, 50)), "source": None, "license": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": " ".join(words(3, 50))}]}) + "\n"
    )
    result = CliRunner().invoke(
        app, ["trace", "--build", str(tmp_path), "-o", str(tmp_path / "i.safetensors")]
    )
    assert result.exit_code == 0, result.output
    (tmp_path / "result.txt").write_text(" ".join(words(1, 50)[10:30]))
    asked = ["trace", str(tmp_path / "result.txt"), "--index", str(tmp_path / "i.safetensors")]
    said = CliRunner().invoke(app, asked).output
    assert said.startswith("20 words verbatim from a.parquet:1 (One; Asp; CC BY 4.0): 'w")
    (tmp_path / "result.txt").write_text(" ".join(words(3, 50)[10:30]))
    near = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)["nearest"][0]
    assert near["label"] == {"place": "b.jsonl:1"} and near["words"] == 20


def test_what_cannot_be_traced_is_one_sentence(tmp_path):
    with pytest.raises(DaedalError, match="--build"):
        Index.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(DaedalError, match="no index of training data"):
        Index.load(tmp_path / "bad.safetensors")
    (tmp_path / "a.txt").write_text("some words")
    index = Index.build(examples(str(tmp_path / "a.txt")))
    picture = images.save_image(clouds(1), tmp_path / "a.png")
    with pytest.raises(DaedalError, match="holds 1 texts and the result is a picture"):
        trace(picture, index)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DaedalError, match="neither UTF-8 text"):
        trace(tmp_path / "b.txt", index)
