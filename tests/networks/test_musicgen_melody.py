"""MusicGen's melody model against transformers, both ways, on random small models: greedy pieces that
follow a melody or none, stereo; what it hears of a melody."""

import numpy as np
import pytest
import torch
import transformers
from transformers.audio_utils import chroma_filter_bank

import daedal
from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.media.audio import save_audio
from daedal.systems.musicgen import composed, pitch_classes
from tests.networks.test_musicgen import CODEC, DECODER, T5, done, music_of
from tests.pipelines.test_musicgen import words_into

CASES = {"mono": DECODER, "stereo": DECODER | dict(num_codebooks=8, audio_channels=2)}


def melody_model(folder, decoder=DECODER):
    torch.manual_seed(0)
    config = transformers.MusicgenMelodyConfig(
        text_encoder=T5,
        audio_encoder=CODEC,
        decoder=decoder | {"model_type": "musicgen_melody_decoder"},
        chroma_length=11,
    )
    theirs = transformers.MusicgenMelodyForConditionalGeneration(config).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point() and "inited" not in name:
            torch.nn.init.normal_(tensor, std=0.3)
    theirs.save_pretrained(folder)
    return theirs


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("melody")
    theirs = melody_model(folder, CASES[request.param])
    return theirs, checkpoints.load(folder, dtype=torch.float32)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("frames", [None, 4, 20])
@torch.inference_mode()
def test_greedy_pieces_are_transformers(pair, scale, frames):
    theirs, ours = pair
    K, music = ours.lm.config.num_codebooks, music_of(ours)
    prompt = torch.randint(2, 64, (1, 6), generator=torch.Generator().manual_seed(3))
    heard = None
    if frames:
        classes = torch.randint(0, 12, (1, frames), generator=torch.Generator().manual_seed(4))
        heard = torch.nn.functional.one_hot(classes, 12).float()
    wanted = theirs.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        input_features=None if heard is None else heard.clone(),
        do_sample=False,
        guidance_scale=scale,
        max_length=10 + max(ours.lm.config.delays) + 1,
        pad_token_id=32,
        decoder_start_token_id=32,
        bos_token_id=32,
        eos_token_id=None,
    )
    empty = torch.zeros(1, K, 0, dtype=torch.long)
    states = ours.read(prompt, heard)
    made = done(composed(music, states, empty, 10, scale, 0.0, 0, torch.Generator()))
    torch.testing.assert_close(music.sound(made), wanted, rtol=1e-3, atol=1e-3)
    two = empty.expand(2, -1, -1)
    both = done(composed(music, states, two, 10, scale, 0.0, 0, torch.Generator()))
    assert torch.equal(both, made.expand(2, -1, -1))


@torch.inference_mode()
def test_our_folder_opens_in_transformers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path)
    again = transformers.MusicgenMelodyForConditionalGeneration.from_pretrained(tmp_path).eval()
    prompt = torch.randint(2, 64, (1, 4))
    codes = torch.randint(0, 32, (ours.lm.config.num_codebooks, 5))
    told = dict(input_ids=prompt, decoder_input_ids=codes, input_features=torch.rand(1, 11, 12))
    torch.testing.assert_close(again(**told).logits, theirs(**told).logits)


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_what_it_hears(seconds):
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * 32000)).astype(np.float32)
    wave = torch.from_numpy(samples)
    short = max(0, 16384 - len(wave))
    wave = torch.nn.functional.pad(wave, (short // 2, short - short // 2))
    power = torch.stft(wave, 16384, 4096, window=torch.hann_window(16384), return_complex=True).abs() ** 2  # fmt: skip
    bank = torch.from_numpy(chroma_filter_bank(16384, 12, 32000, tuning=0.0)).float()
    wanted = (bank @ power).argmax(0)
    found = pitch_classes(samples, 32000)
    assert found.shape == (1, len(wanted), 12) and torch.equal(found[0].argmax(-1), wanted)


def test_a_melody_is_followed(tmp_path):
    melody_model(tmp_path / "model")
    words_into(tmp_path / "model")
    band = daedal.load(tmp_path / "model", dtype="fp32")
    files = []
    for i, hz in enumerate((262, 392)):
        wave = np.sin(2 * np.pi * hz * np.arange(16000) / 8000).astype(np.float32) * 0.3
        files.append(str(save_audio(wave, tmp_path / f"{i}.wav", 8000)))
    first, second = (band("calm piano", melody=f, seconds=0.1, seed=1) for f in files)
    assert first.samples.shape == (1, 80) and first.logged != second.logged
    assert band.reproduce(first.recipe).logged == first.logged
    silent = save_audio(np.zeros(8000, np.float32), tmp_path / "silent.wav", 8000)
    with pytest.raises(DaedalError, match="is silent"):
        band("calm piano", melody=str(silent), seconds=0.1)
