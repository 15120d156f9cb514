"""How the figures of the claims show many seeds: as a curve with a band, as dots with an interval, as an error bar."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.claims.statistics import curve, median_interval
from experiments.figures import LOOKS, band


def draw_curve(panel: Axes, table: pd.DataFrame, measure: str, across: str = "step", **look: Any) -> None:
    """Median over seeds of a measure, and the band between the quartiles; axes are logarithmic where they can be."""
    line = curve(table, measure, across)
    line = line[line[across] > 0]  # a logarithmic axis has no place for 0
    band(panel, line[across], line["low"], line["middle"], line["high"], **look)


def draw_seeds(panel: Axes, place: float, values: Any, name: str, dots: Any, filled: bool = True) -> None:
    """Each seed as a dot at `dots`, the median as the mark of an algorithm, its interval as a bar."""
    look, values = LOOKS[name], np.asarray(values, float)
    values = np.where(np.isfinite(values), values, np.nan)
    panel.scatter(np.broadcast_to(dots, len(values)), values, s=6, alpha=0.3, color=look.colour, linewidth=0)
    low, middle, high = median_interval(values)
    panel.plot([place] * 2, [low, high], color=look.colour, linewidth=2)
    panel.plot(place, middle, color=look.colour, marker=look.mark, markersize=8, fillstyle="full" if filled else "none")


def draw_intervals(panel: Axes, places: Any, groups: Sequence[Any], **look: Any) -> None:
    """Medians of groups of values with their intervals, as marks with error bars."""
    intervals = np.array([median_interval(values) for values in groups], float).reshape(-1, 3)
    low, middle, high = np.where(np.isfinite(intervals), intervals, np.nan).T  # infinity has no place
    panel.errorbar(places, middle, [middle - low, high - middle], **(look | {"linestyle": "", "capsize": 2}))
