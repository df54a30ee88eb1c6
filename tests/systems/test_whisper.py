"""What Whisper reads and may say: the spectrogram of its authors, the rules of timestamps, the
searches, windows of long sounds, times of words."""

import itertools

import numpy as np
import pytest
import torch
import transformers

from daedal.errors import DaedalError
from daedal.systems.hearing import constrained_, drawn, searched, warped
from daedal.systems.transcribe import Tape, Transcript, Wishes, merged, spelled, transcribed
from daedal.systems.whisper import Whisper, log_mel
from tests.systems.ear import CLOCK, small_ear


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return Whisper.load(small_ear(tmp_path_factory.mktemp("ear")), torch.device("cpu"), "fp32")


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)


def done(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("bins", [80, 128])
def test_spectrogram_is_transformers(bins):
    theirs = transformers.WhisperFeatureExtractor(feature_size=bins)
    sound = noise(3)
    expected = theirs(sound, sampling_rate=16000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(log_mel(sound, bins, 3000), expected, atol=2e-4)


@torch.inference_mode()
def test_greedy_text_with_timestamps_is_transformers(whisper, tmp_path):
    """The rules of what may follow what. Of a window transformers returns what stands before the
    last pair of timestamps, and goes on from there."""
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(small_ear(tmp_path))
    g = theirs.generation_config
    g.no_timestamps_token_id, g.max_initial_timestamp_index = CLOCK - 1, 50
    g.is_multilingual, g.lang_to_id = True, {"<|en|>": 258, "<|de|>": 259}
    g.task_to_id = {"translate": 260, "transcribe": 261}
    g.suppress_tokens = list(whisper.tokens.suppressed)
    compared = 0
    for seed in range(4):
        sound = noise(2, seed)
        mel = torch.from_numpy(log_mel(sound, 16, 200))[None]
        expected = theirs.generate(
            mel,
            language="en",
            task="transcribe",
            return_timestamps=True,
            max_new_tokens=20,
            do_sample=False,
        )
        found = done(searched(whisper, whisper.encode(sound), [257, 258, 261], 1, True)).tokens
        pairs = [i for i in range(1, 20) if found[i - 1] >= CLOCK and found[i] >= CLOCK]
        ids = [i for i in expected[0].tolist() if i not in (257, 258, 261)]
        assert ids[: pairs[-1]] == list(found[: pairs[-1]])
        compared += pairs[-1]
    assert compared > 20


@torch.inference_mode()
def test_a_wide_beam_finds_the_likeliest(whisper):
    """Over texts of at most two words, every one of which can be weighed."""
    states, prompt = whisper.encode(noise(2, 3)), [257, 258, 261]
    short = Whisper(whisper.network, whisper.tokenizer, whisper.tokens, whisper.heads)
    found = done(searched(short, states, prompt, 8, True))
    greedy = done(searched(short, states, prompt, 1, True))
    rate = lambda heard: heard.logprob / max(1, len(heard.tokens))  # noqa: E731
    assert rate(found) >= rate(greedy) - 1e-4
    again = done(searched(short, states, prompt, 8, True))
    assert again == found


@torch.inference_mode()
def test_timestamps_follow_their_rules(whisper):
    """Drawn texts are pairs of timestamps that never go back, with words between."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        found = done(
            drawn(whisper, whisper.encode(noise(2)), [257, 258, 261], 1.0, True, generator)
        )
        times = [token for token in found.tokens if token >= CLOCK]
        assert found.tokens[0] >= CLOCK and times == sorted(times)
        runs = [
            len(list(run))
            for timed, run in itertools.groupby(found.tokens, lambda t: t >= CLOCK)
            if timed
        ]
        assert runs[0] == 1 and all(run <= 2 for run in runs[1:])
        assert not set(found.tokens) & set(whisper.tokens.suppressed)


def test_what_may_not_be_said(whisper):
    t = whisper.tokens
    scores = constrained_(torch.zeros(1, 367), [[CLOCK + 5, 65, CLOCK + 9]], t, True)
    assert scores[0, 65] == -torch.inf  # a word right after the end of a segment
    assert scores[0, CLOCK + 8] == -torch.inf < scores[0, CLOCK + 9]
    plain = constrained_(torch.zeros(1, 367), [[]], t, False)
    assert plain[0, 256] == plain[0, 32] == -torch.inf < plain[0, 65]
    assert (plain[0, CLOCK:] == -torch.inf).all()


def test_warping_is_the_cheapest_path():
    cost = np.random.default_rng(1).random((4, 6))

    def cheapest(i, j):
        if i == 0 and j == 0:
            return cost[0, 0]
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return cost[i, j] + min(cheapest(a, b) for a, b in before if a >= 0 and b >= 0)

    rows, columns = warped(cost)
    assert sum(cost[i, j] for i, j in zip(rows, columns, strict=True)) == pytest.approx(
        cheapest(3, 5)
    )
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 3, 5)


def test_words_and_their_signs():
    class Bytes:
        backend = type(
            "B", (), {"decode": staticmethod(lambda ids: bytes(ids).decode("utf-8", "replace"))}
        )

    ear = type("W", (), {"tokenizer": Bytes})
    text = ' He said "äh, no".'.encode()
    words = merged(spelled(ear, list(text), "en"))
    assert [word for word, _ in words] == [" He", " said", ' "äh,', ' no".']
    assert sum(count for _, count in words) == len(text)
    assert [word for word, _ in spelled(ear, list("你好".encode()), "zh")] == ["你", "好"]


def test_a_long_sound_is_heard_in_windows(whisper):
    """Blocks of any size give the same segments; times go on; little is kept."""
    sound = noise(9, 5)

    def segments(size):
        blocks = (sound[None, i : i + size] for i in range(0, len(sound), size))
        made = Transcript()
        found = [
            s for s in transcribed(whisper, blocks, Wishes("en", words=True, beams=1), made) if s
        ]
        assert made.seconds == 9.0
        return found

    found = segments(3000)
    assert found == segments(100_000)
    assert all(a.start <= b.start for a, b in itertools.pairwise(found)) and found[-1].seek > 200
    assert all(s.words and s.text == "".join(w.word for w in s.words) for s in found)


def test_the_tape_forgets():
    tape = Tape(np.zeros((1, 1000), np.float32) for _ in range(1000))
    most = 0
    while len(tape.window(5000)):
        most = max(most, len(tape.held))
        tape.skip(5000)
    assert tape.at == 1_000_000 and most < 7000


def test_silence_is_passed_over(whisper):
    made = Transcript()
    blocks = iter([np.zeros((1, 80_000), np.float32)])
    assert [s for s in transcribed(whisper, blocks, Wishes(), made) if s] == []
    assert made.language is None and made.seconds == 5.0


def test_languages_by_code_and_name(whisper):
    assert whisper.language("German") == whisper.language("de") == "de"
    with pytest.raises(DaedalError, match=r"'fr' is none that this model knows.*en, de"):
        whisper.language("fr")
