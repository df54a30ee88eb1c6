"""`daedal music --model` on a MusicGen folder with random weights: length, seed, guidance, a clip to go
on from, cancelling."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

import daedal
from daedal.errors import DaedalError
from daedal.media.audio import save_audio
from tests.networks.test_musicgen import CODEC, DECODER, T5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.MusicgenConfig(text_encoder=T5, audio_encoder=CODEC, decoder=DECODER)
    folder = tmp_path_factory.mktemp("musicgen")
    model = transformers.MusicgenForConditionalGeneration(config)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "inited" not in name:
            torch.nn.init.normal_(tensor, std=0.2)
    model.generation_config.guidance_scale = 2.0
    model.save_pretrained(folder)
    words_into(folder)
    return folder


def words_into(folder):
    """A tokenizer of two words."""
    words = {"<unk>": 3, "</s>": 1, "<pad>": 0, "calm": 2, "piano": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("</s>"), AddedToken("<pad>")])
    backend.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def band(folder):
    return daedal.load(folder, dtype="fp32")


def test_a_piece(band, folder, tmp_path):
    piece = band("calm piano", seconds=0.2, seed=1)
    assert piece.samples.shape == (1, 160) and piece.rate == 800 and piece.tune is None
    assert piece.recipe["settings"]["guidance_scale"] == 2.0  # the folder's own
    assert band.reproduce(piece.recipe).logged == piece.logged
    assert band("calm piano", seconds=0.2, seed=2).logged != piece.logged
    assert len(band("calm piano", seconds=0.1, seed=1, n=2)) == 2
    steps = [event.done for event in band.stream("calm", seconds=0.1, seed=1)]
    assert steps == sorted(steps) and len(steps) == 10 + 3
    with pytest.raises(DaedalError, match="makes sound and no notes"):
        piece.save(tmp_path / "x.mid")
    quick = daedal.load(folder)("calm piano", seconds=0.1, seed=1)  # packed weights
    assert quick.samples.shape == (1, 80) and np.isfinite(quick.samples).all()


def test_on_from_a_clip(band, tmp_path):
    clip = save_audio(
        np.random.default_rng(0).normal(0, 0.1, (2, 800)).astype(np.float32),
        tmp_path / "a.wav",
        8000,
    )
    piece = band("piano", init=str(clip), seconds=0.2, seed=0)
    assert piece.samples.shape == (1, 160)
    with pytest.raises(DaedalError, match=r"lasts 0.1 s, and 0.05 s are asked for"):
        band("piano", init=str(clip), seconds=0.05)


def test_what_is_told_as_words(band):
    handle = band.start("piano", seconds=0.05, key="D", bpm=90)
    assert handle.words == "piano, 90 bpm, in D" and "may not keep to them" in handle.remarks[0]
    handle.cancel()
    with pytest.raises(DaedalError, match="cancelled"):
        handle.results()
    with pytest.raises(DaedalError, match="the prompt is empty"):
        band("")


def test_no_melody_for_those_that_follow_none(band, tmp_path):
    clip = save_audio(np.ones(800, np.float32), tmp_path / "a.wav", 8000)
    with pytest.raises(DaedalError, match="cannot follow a melody; take a MusicGen melody model"):
        band("piano", melody=str(clip), seconds=0.05)
