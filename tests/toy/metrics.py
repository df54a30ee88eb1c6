"""What is measured of tones."""

import numpy as np

from daedal.evals.measured import Report
from tests.toy.params import ToneMeasuring
from tests.toy.tone import RATE, TonePipeline


def evaluate(pipeline: TonePipeline, asked: ToneMeasuring) -> Report:
    sound = pipeline("a", seconds=asked.seconds).wave
    peak = float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))
    return Report({"pitch": peak}, [f"pitch  {peak:.1f} Hz"])
