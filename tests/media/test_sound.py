"""Functions of sound, against soxr, transformers and pyloudnorm where these are installed."""

import numpy as np
import pytest

from daedal.errors import DaedalError
from daedal.media import sound

RATES = [(44100, 22050), (22050, 16000), (44100, 48000), (8000, 16000), (22051, 16000)]


def tones(rate, seconds=1.0, top=8000):
    at = np.arange(int(rate * seconds)) / rate
    return sum(np.sin(2 * np.pi * hz * at) for hz in (110.0, 440.0, 0.4 * top)).astype("f4") / 4


@pytest.mark.parametrize(("rate", "to"), RATES)
def test_resampled_tones_are_the_tones_at_the_other_rate(rate, to):
    top = min(rate, to)
    made, wanted = sound.resample(tones(rate, top=top), rate, to), tones(to, top=top)
    inner = slice(to // 20, to - to // 20)
    assert len(made) == len(wanted) == to
    np.testing.assert_allclose(made[inner], wanted[inner], atol=2e-4)


def test_what_the_lower_rate_cannot_hold_is_gone():
    at = np.arange(44100) / 44100
    made = sound.resample(np.sin(2 * np.pi * 12000 * at).astype("f4"), 44100, 16000)
    assert np.abs(made[500:-500]).max() < 1e-4


@pytest.mark.parametrize(("rate", "to"), RATES)
def test_blocks_are_resampled_as_the_whole(rate, to):
    whole = np.random.default_rng(0).standard_normal((2, 9001)).astype("f4")
    cuts = np.split(whole, [1, 700, 701, 5000], axis=1)
    made = np.concatenate(list(sound.resample_blocks(cuts, rate, to)), axis=1)
    np.testing.assert_array_equal(made, sound.resample(whole, rate, to))


def test_resampling_agrees_with_soxr():
    soxr = pytest.importorskip("soxr")
    x = tones(44100, top=16000)
    wanted = soxr.resample(x, 44100, 16000, "VHQ")
    np.testing.assert_allclose(
        sound.resample(x, 44100, 16000)[800:-800], wanted[800:-800], atol=2e-4
    )


@pytest.mark.parametrize(("scale", "normed"), [("slaney", True), ("htk", False)])
def test_mel_filters_agree_with_transformers(scale, normed):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(201, 80, 0, 8000, 16000, "slaney" if normed else None, scale)
    ours = sound.mel_filters(16000, 400, 80, scale=scale, normed=normed)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-6)


def test_chroma_filters_agree_with_transformers():
    from transformers.audio_utils import chroma_filter_bank

    theirs = chroma_filter_bank(2048, 12, 32000, tuning=0.0)
    np.testing.assert_allclose(sound.chroma_filters(32000, 2048), theirs, atol=1e-6)


def test_spectrum_agrees_with_torch():
    import torch

    x = np.random.default_rng(0).standard_normal((2, 3000)).astype("f4")
    window = torch.hann_window(400)
    theirs = torch.stft(
        torch.from_numpy(x), 512, 160, 400, window, center=True, return_complex=True
    )
    np.testing.assert_allclose(sound.stft(x, 512, 160, 400), theirs.numpy(), atol=1e-4)


def test_the_chroma_of_a_note_is_its_pitch_class():
    for semitones in range(12):
        hz = 440 * 2 ** ((semitones - 9) / 12)  # C4 and up
        at = np.arange(22050) / 22050
        bands = sound.chroma(np.sin(2 * np.pi * hz * at).astype("f4"), 22050)
        assert bands.mean(-1).argmax() == semitones


def test_loudness_is_that_of_the_standard():
    """BS.1770's own check: a sine of 997 Hz at full scale in one channel reads -3.01."""
    at = np.arange(48000 * 3) / 48000
    sine = np.sin(2 * np.pi * 997 * at).astype("f4")
    assert sound.loudness(sine[None], 48000) == pytest.approx(-3.01, abs=0.02)
    assert sound.loudness(0.1 * sine[None], 48000) == pytest.approx(-23.01, abs=0.02)
    assert sound.loudness(np.zeros((1, 48000), "f4"), 48000) == -np.inf


def test_loudness_agrees_with_pyloudnorm():
    pyloudnorm = pytest.importorskip("pyloudnorm")
    x = (0.1 * np.random.default_rng(0).standard_normal((2, 22050 * 3))).astype("f4")
    x[:, 22050:44100] *= 0.01  # a pause, which the gates leave out
    theirs = pyloudnorm.Meter(22050).integrated_loudness(x.T)
    assert sound.loudness(x, 22050) == pytest.approx(theirs, abs=0.15)


def test_silence_is_refused_by_name():
    with pytest.raises(DaedalError, match=r"take\.wav is silent"):
        sound.check_heard(np.zeros((1, 10), "f4"), "take.wav")
    sound.check_heard(np.full((1, 10), 0.1, "f4"), "take.wav")
