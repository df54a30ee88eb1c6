"""Piper's joe: the same waveform as onnxruntime, which runs the file as it was exported."""

import numpy as np
import pytest
import torch

from daedal.checkpoints import piper
from daedal.pipelines.speech import load

pytestmark = pytest.mark.real

TEXT = "The captain looked at the sea, and said nothing for a long while."


@pytest.fixture(scope="module")
def file(request):
    from daedal.checkpoints import catalogue

    place = catalogue.place("joe")
    if place is None:
        pytest.skip("joe is not on this machine; `daedal models pull joe` brings it.")
    return piper.voice_file(place)


def test_the_waveform_is_that_of_onnxruntime(file):
    onnxruntime = pytest.importorskip("onnxruntime")
    voice = load(file, dtype="fp32")
    (sentence,) = voice.reader.sentences(TEXT)
    ids = np.array([voice.voice.symbols(sentence.words).ids])
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = {
        "input": ids,
        "input_lengths": np.array([ids.shape[1]]),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
    }
    (wanted,) = session.run(None, given)
    with torch.no_grad():
        made = voice.voice.vits(torch.from_numpy(ids))[0].numpy()
    np.testing.assert_allclose(made, wanted.reshape(-1), atol=1e-4)
    spoken = voice(TEXT, noise=0).samples[0]
    np.testing.assert_allclose(spoken, wanted.reshape(-1), atol=1e-4)
