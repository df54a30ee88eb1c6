"""Tones as a medium: the settings of a call."""

from dataclasses import dataclass
from typing import Annotated

from daedal.pipelines.medium import Loading, Medium
from daedal.settings import Setting


@dataclass(frozen=True)
class ToneParams:
    seconds: Annotated[float, Setting("How long.", 0.01, 10)] = 0.1
    volume: Annotated[float, Setting("How loud.", 0, 1)] = 0.5
    seed: Annotated[int, Setting("The phase.", 0, 2**31)] = 0
    n: Annotated[int, Setting("How many.", 1, 16, flags=("-n", "--n"))] = 1


@dataclass(frozen=True)
class ToneMeasuring:
    seconds: Annotated[float, Setting("Of the tone that is measured.", 0.01, 10)] = 0.1


TONE = Medium(
    name="tone", help="Play a note.", prompt="A note's name.", plural="tones", settings=ToneParams, loading=Loading,
    measuring=ToneMeasuring, model="house/text", module="tests.toy.tone", metrics="tests.toy.metrics", suffix=".wav",
)  # fmt: skip
