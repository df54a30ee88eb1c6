"""`daedal eval`: measures of a model with their intervals. Each medium says what it measures
(`Medium.measuring`) and does it (`Medium.metrics`); autoencoders and CLIP towers, which make
nothing by themselves, are measured as parts."""

import inspect
import json
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from daedal.cli.generate import options_of
from daedal.cli.options import AS_JSON, MODEL
from daedal.pipelines.registry import MEDIA, PartMeasuring
from daedal.settings import settings_of


def verb() -> Callable[..., None]:
    """The command, with an option for each thing that some medium can be asked to measure."""

    def evaluate(model: MODEL = "house/text", *, as_json: AS_JSON = False, **given: Any) -> None:
        asked = {name: value for name, value in given.items() if value not in (None, [])}
        run(model, as_json, asked)

    models = [PartMeasuring, *(m.measuring for m in MEDIA), *(m.loading for m in MEDIA)]
    options = {option.name: option for each in models for option in options_of(each)}
    signature = inspect.signature(evaluate)
    own = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    evaluate.__signature__ = signature.replace(parameters=[own[0], *options.values(), *own[1:]])  # type: ignore[attr-defined]
    evaluate.__doc__ = "Measure a model, with 95 % confidence intervals."
    return evaluate


def run(model: str, as_json: bool, given: dict[str, Any]) -> None:
    from importlib import import_module

    from daedal.evals import evidence, parts
    from daedal.pipelines.embedding import Embedder
    from daedal.pipelines.registry import load
    from daedal.pipelines.text_params import TextMeasuring
    from daedal.settings import read

    if parts.part_of(model):
        report = parts.evaluate(model, read(PartMeasuring, given, "measuring a part"))
    else:
        loading = {name for medium in MEDIA for name in settings_of(medium.loading)} & given.keys()
        pipeline = load(model, **{name: given.pop(name) for name in loading})
        if isinstance(pipeline, Embedder):
            return shown(model, as_json, evidence.evaluate(pipeline, read(TextMeasuring, given, "measuring an encoder")))  # fmt: skip
        medium = pipeline.medium
        report = import_module(medium.metrics).evaluate(
            pipeline, read(medium.measuring, given, f"measuring {medium.plural}")
        )
    shown(model, as_json, report)


def shown(model: str, as_json: bool, report: Any) -> None:
    print(
        json.dumps({"model": model} | report.values, indent=2)
        if as_json
        else "\n".join(report.lines)
    )
