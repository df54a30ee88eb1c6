"""A report on pictures (daedal.evals.pictures.report) as plots: bars of one report; of several, by
guidance scale, lines."""

from collections.abc import Mapping

from daedal.evals.measured import Groups, Measured
from daedal.media import images, plots

PANELS = (  # title, what they are drawn from, and the top of the axis (None: what fits)
    ("Whole scenes right", ("seen/all", "unseen/all"), 1.0),
    ("Against real pictures", ("distance/precision", "distance/recall", "distance/copies"), 1.0),
    ("KID", ("distance/kid",), None),
    ("Caption found among all (R@1)", ("likeness/r1", "likeness/r1_of_real"), 1.0),
    ("CLIP score", ("likeness/clip_score", "likeness/clip_score_of_real"), None),
)


def drawn(reports: Mapping[float | None, Groups]) -> images.Pixels:
    """Plots of reports by guidance scale (None: the model's own), side by side."""
    first = next(iter(reports.values()))
    panels = [
        panel(title, names, top, reports) for title, names, top in PANELS if has(first, names[0])
    ]
    if "seen" in first and len(reports) == 1:
        panels[0] = plots.bars(
            {kind: {k: interval(m) for k, m in first[kind].items()} for kind in ("seen", "unseen")},
            titled("Scenes right", first, "seen"),
        )
    return images.grid(panels, columns=2 if len(panels) > 1 else 1)


def panel(
    title: str, names: tuple[str, ...], top: float | None, reports: Mapping[float | None, Groups]
) -> images.Pixels:
    """One plot of the measures called GROUP/NAME."""
    first, found = next(iter(reports.values())), {}
    for name in names:
        group, _, key = name.partition("/")
        found[(group if key == "all" else key).replace("_", " ")] = [
            interval(report[group][key]) for report in reports.values()
        ]
    title = titled(title, first, names[0].partition("/")[0])
    if len(reports) == 1:
        return plots.bars({"": {name: values[0] for name, values in found.items()}}, title, top)
    scales = [scale or 0.0 for scale in reports]
    return plots.lines(
        {name: list(zip(scales, values, strict=True)) for name, values in found.items()},
        title,
        "guidance scale",
        top,
    )


def has(report: Groups, name: str) -> bool:
    group, _, key = name.partition("/")
    return key in report.get(group, {})


def titled(title: str, report: Groups, group: str) -> str:
    return f"{title} (n = {next(iter(report[group].values())).n})"


def interval(measured: Measured) -> plots.Interval:
    return measured.value, measured.low, measured.high
