"""Whisper base as it is published (`daedal models pull whisper-base joe`) against transformers on the
same weights, hearing what a published voice reads out."""

import numpy as np
import pytest
import torch

import daedal
from daedal import checkpoints
from daedal.media.sound import resample
from daedal.systems.whisper import log_mel

pytestmark = pytest.mark.real
TEXT = "The old lighthouse keeper climbed the stairs every evening before the sun went down. He lit the great lamp, polished the glass, and wrote in his book how the sea had looked that day."


@pytest.fixture(scope="module")
def ear(whisper_base):
    return daedal.load(str(whisper_base), dtype="fp32")


@pytest.fixture(scope="module")
def spoken(joe):
    made = daedal.load(str(joe))(TEXT)
    return resample(made.samples, made.rate, 16000).reshape(-1).astype(np.float32)


def test_it_writes_what_transformers_writes(ear, spoken, tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoints.save(ear.whisper.network, tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    g, t = theirs.generation_config, ear.whisper.tokens
    g.no_timestamps_token_id, g.max_initial_timestamp_index = t.no_clock, 50
    g.is_multilingual, g.lang_to_id = True, {f"<|{k}|>": v for k, v in t.languages.items()}
    g.task_to_id = {"translate": t.translate, "transcribe": t.transcribe}
    g.suppress_tokens, g.begin_suppress_tokens = list(t.suppressed), list(t.first)
    mel = torch.from_numpy(log_mel(spoken, 80, 3000))[None]
    with torch.inference_mode():
        ids = theirs.generate(
            mel,
            language="en",
            task="transcribe",
            return_timestamps=True,
            max_new_tokens=200,
            do_sample=False,
        )
    mine = ear(spoken, language="en", beams=1, temperature=0)
    expected = ear.whisper.text(ids[0].tolist()).strip()
    assert mine.text == expected
    assert mine.segments[-1].end <= len(spoken) / 16000 + 0.1


def test_it_hears_what_was_said(ear, spoken):
    heard = ear(spoken, words=True)
    assert heard.language == "en" and heard.text == TEXT
    starts = [word["start"] for word in heard.words]
    assert starts == sorted(starts) and heard.words[-1]["word"] == "day."
