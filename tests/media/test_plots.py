"""Plots: bars are as high as their values, whiskers reach over the intervals, lines pass through
their points, ticks are round."""

import numpy as np
import pytest

from daedal.media import plots

COLOUR = np.array([0x2F, 0x6D, 0xB3])


def rows_of(picture: np.ndarray, column: int) -> np.ndarray:
    """Rows of a column that have the first series' colour."""
    return np.flatnonzero((np.abs(picture[:, column].astype(int) - COLOUR) < 8).all(1))


def test_bars_are_as_high_as_their_values() -> None:
    drawn = plots.bars(
        {"": {"a": (0.25, 0.25, 0.25), "b": (0.5, 0.4, 0.6), "c": (1.0, 1.0, 1.0)}}, "t"
    )
    assert drawn.shape == (2 * plots.HEIGHT, 2 * plots.WIDTH, 3) and drawn.dtype == np.uint8
    room = (plots.WIDTH - plots.LEFT - plots.RIGHT) / 3
    tops = [rows_of(drawn, round(2 * (plots.LEFT + (i + 0.5) * room)) - 20).min() for i in range(3)]
    whole = 2 * (plots.HEIGHT - plots.TOP - plots.BOTTOM)
    assert [(2 * (plots.HEIGHT - plots.BOTTOM) - top) / whole for top in tops] == pytest.approx(
        [0.25, 0.5, 1.0], abs=0.01
    )


def test_bars_below_zero_and_lines_of_nothing_but_zeros_stay_inside() -> None:
    for drawn in (
        plots.bars({"": {"a": (-0.07, -0.08, -0.06)}}, "t", None),
        plots.lines({"x": [(1, (0.0, 0.0, 0.0)), (2, (0.0, 0.0, 0.0))]}, "t", "step"),
        plots.lines({"x": [(5, (3.0, 2.0, 4.0))]}, "t", "step"),
    ):
        coloured = np.argwhere((np.abs(drawn.astype(int) - COLOUR) < 8).all(2))
        assert (
            len(coloured)
            and coloured[:, 0].min() >= 2 * plots.TOP - 8
            and coloured[:, 0].max() <= 2 * (plots.HEIGHT - plots.BOTTOM) + 8
        )


def test_a_line_passes_through_its_points() -> None:
    drawn = plots.lines({"x": [(0, (0.0,) * 3), (10, (1.0,) * 3)]}, "t", "step", 1.0)
    for share in (0.25, 0.5, 0.75):
        column = round(2 * (plots.LEFT + 8 + share * (plots.WIDTH - plots.LEFT - plots.RIGHT - 16)))
        row = rows_of(drawn, column).mean()
        assert (2 * (plots.HEIGHT - plots.BOTTOM) - row) / (
            2 * (plots.HEIGHT - plots.TOP - plots.BOTTOM)
        ) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (95, 9500, [2000, 4000, 6000, 8000]), (-0.08, 0, None)],
)
def test_ticks_are_round(low: float, high: float, found: list[float] | None) -> None:
    made = plots.ticks(low, high)
    assert made == pytest.approx(found or [-0.08, -0.06, -0.04, -0.02, 0]) and len(made) <= 7
