"""`daedal eval` of an image model: scenes painted right, distances to real pictures, and how
pictures fit their captions; a sheet and plots."""

from typing import Any

from daedal.errors import DaedalError
from daedal.evals import plots
from daedal.evals.measured import Report, lines_of, plain
from daedal.evals.pictures import real_pictures, report
from daedal.media import images
from daedal.pipelines.image import ImagePipeline
from daedal.pipelines.image_params import ImageMeasuring
from daedal.processes.clip_scorer import ClipScorer


def evaluate(pipeline: ImagePipeline, asked: ImageMeasuring) -> Report:
    """What was asked for, measured, at each guidance scale in turn."""
    if asked.each > 1 and not asked.data:
        raise DaedalError(
            f"--each {asked.each} paints captions of --data several times; give --data FILE, or leave --each out."
        )
    scorer = ClipScorer.load(asked.features) if asked.features else None
    width = pipeline.job("a picture", {})[1].width
    real = real_pictures(asked.data, width, asked.split, scorer) if asked.data else None
    settings: dict[float | None, dict[str, Any]] = {
        scale: {} if scale is None else {"guidance_scale": scale}
        for scale in scales_of(asked.guidance_scale)
    }
    reports = {
        scale: report(pipeline, asked.n, scorer=scorer, real=real, each=asked.each, **chosen)
        for scale, chosen in settings.items()
    }
    found = {scale: groups for scale, (groups, _) in reports.items()}
    if asked.sheet:
        images.save_image(
            images.grid([drawn for _, drawn in reports.values()], columns=1, gap=8), asked.sheet
        )
    if asked.plot:
        images.save_image(plots.drawn(found), asked.plot)
    every = [settings[scale] | plain(groups) for scale, groups in found.items()]
    lines: list[str] = []
    for scale, groups in found.items():
        lines += [] if scale is None else [f"guidance scale {scale:g}"]
        lines += lines_of(groups)
    return Report(every[0] if len(every) == 1 else {"reports": every}, lines)


def scales_of(text: str | None) -> list[float | None]:
    """ "1,2.5" -> [1.0, 2.5]; None is the model's own."""
    try:
        return [float(part) for part in text.split(",")] if text else [None]
    except ValueError:
        raise DaedalError(
            f"guidance scales {text!r} are not numbers; write for example 1,2,4."
        ) from None
