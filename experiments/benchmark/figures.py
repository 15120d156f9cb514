"""The figures of the benchmark. One colour, mark and line for each family."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.benchmark.config import FULL_BATCH, MINIBATCHES
from experiments.benchmark.ratios import best_of
from experiments.figures import LOOKS, band, finite_quartiles, style, subplots

SHOWN_AS = {  # family → the algorithm whose looks it has
    FULL_BATCH: "adam",
    MINIBATCHES: "adam_minibatches",
    "L-BFGS (Optax)": "lbfgs",
    "best LM": "levenberg_marquardt",
    "L-BFGS (scikit-learn)": "sklearn",
}
OURS = "gauss_newton"
COLUMNS = 4  # of small multiples


def titles(summary: pd.DataFrame) -> dict[str, str]:
    """Problem → what to call it, the smallest network first."""
    rows = summary.drop_duplicates("problem")
    return {row["problem"]: f"{row['title']} ({row['parameters']})" for row in rows.to_dict("records")}


def ratio_figure(summary: pd.DataFrame, ours: str) -> Figure:
    """Time of each family over ours by problem: median of seeds and quartiles, bounds as open marks with an arrow."""
    names = titles(summary)
    figure, axis = plt.subplots(figsize=(8.5, 1.6 + 0.55 * len(names)), layout="constrained")
    offsets = np.linspace(-0.3, 0.3, len(SHOWN_AS))
    for offset, (family, look) in zip(offsets, SHOWN_AS.items(), strict=True):
        colour, mark = LOOKS[look].colour, LOOKS[look].mark
        rows = best_of(summary, family, "ratio").set_index("problem").reindex(list(names))
        axis.plot([], [], mark, color=colour, label=family)
        for height, (_, row) in enumerate(rows.iterrows()):
            if np.isfinite(row.ratio_point_median):
                draw_ratio(axis, row, height + offset, colour, mark)
    axis.axvline(1.0, color="black", linewidth=1)
    axis.set(xscale="log", xlabel=f"time to target over that of {ours}, without compilation")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(names)), list(names.values()))
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(alpha=0.3, axis="x")
    for height in range(1, len(names)):
        axis.axhline(height - 0.5, color="0.85", linewidth=0.8)
    words = "Median of seeds, bar between quartiles; open with an arrow: a bound"
    figure.suptitle(f"{words}; right of 1: {ours} is quicker", fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(SHOWN_AS), fontsize=8)
    return figure


def draw_ratio(axis: Axes, row: pd.Series, height: float, colour: str, mark: str) -> None:
    """One mark with its bar; the quartiles are those of the times with bounds for times."""
    middle = row.ratio_point_median
    axis.plot([row.ratio_point_q25, row.ratio_point_q75], [height, height], color=colour, linewidth=1.5, alpha=0.7)
    exact = row.ratio_low_median == row.ratio_high_median
    axis.plot([middle], [height], mark, color=colour, markerfacecolor=colour if exact else "white", markersize=5.5)
    for bound, factor in ((row.ratio_high_median, 1.6), (row.ratio_low_median, 1 / 1.6)):
        if not exact and bound != middle:
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.2}
            axis.annotate("", (middle * factor, height), (middle, height), arrowprops=arrow)


def curve_figure(summary: pd.DataFrame, arrays: xr.Dataset, ours: str) -> Figure:
    """Best loss so far against seconds for each problem: median of seeds, band between quartiles, the target."""
    names = titles(summary)
    columns = min(COLUMNS, len(names))
    lines = -(-len(names) // columns)
    size = (max(3.3 * columns, 6.6), 2.7 * lines + 1.2)
    figure, axes = subplots(lines, columns, figsize=size)
    leaders = {family: best_of(summary, family).set_index("problem").peer for family in SHOWN_AS}
    for axis, (problem, title) in zip(axes.flat, names.items(), strict=False):
        one = arrays.sel(problem=problem)
        for family, look in SHOWN_AS.items():
            if problem in leaders[family]:
                draw_curve(axis, one, leaders[family][problem], look)
        draw_curve(axis, one, ours, OURS, linewidth=2.0)
        axis.axhline(float(np.nanmedian(one.target)), color="black", linewidth=0.8)
        axis.set(xscale="log", yscale="log")
        axis.set_xlabel("seconds without compilation", fontsize=8)
        axis.set_title(title, fontsize=8)
        axis.tick_params(which="both", labelsize=7)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    for family, look in [(ours, OURS), *SHOWN_AS.items()]:
        axes[0, 0].plot([], [], color=LOOKS[look].colour, linestyle=LOOKS[look].line, label=family)
    figure.supylabel("best training loss so far", fontsize=10)
    figure.suptitle(
        "Median of seeds, band between quartiles; black: the target; flat where a run has ended", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def draw_curve(axis: Axes, one: xr.Dataset, peer: str, look: str, **more: Any) -> None:
    """Median and quartiles of one peer, where it was run."""
    if peer not in one.peer.values:
        return
    losses = one.loss.sel(peer=peer).values
    losses = losses[np.isfinite(losses).any(axis=1)]
    if len(losses):
        band(axis, one.seconds, *finite_quartiles(losses), **(style(look) | {"marker": ""} | more))
