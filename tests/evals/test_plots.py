"""A report becomes plots: one, or several by guidance scale."""

from daedal.evals import plots
from daedal.evals.measured import Measured, share
from daedal.media.plots import HEIGHT, WIDTH

PARTS = ("objects", "colours", "relation", "background", "all")


def report(hits: int) -> dict[str, dict[str, Measured]]:
    parts = {part: share(hits, 20) for part in PARTS}
    return {
        "seen": parts,
        "unseen": parts,
        "distance": {
            "kid": Measured(0.1, 0.08, 0.12, 20),
            "precision": share(9, 20),
            "recall": share(5, 40),
            "copies": share(0, 20),
        },
    }


def test_one_report_is_bars_and_several_are_lines() -> None:
    one, two = plots.drawn({None: report(7)}), plots.drawn({1.0: report(7), 2.0: report(9)})
    assert one.shape == two.shape == (4 * HEIGHT, 4 * WIDTH, 3) and (one != two).any()


def test_a_report_on_other_pictures_has_no_scenes() -> None:
    assert plots.drawn({None: {"distance": report(1)["distance"]}}).shape == (
        2 * HEIGHT,
        4 * WIDTH,
        3,
    )
