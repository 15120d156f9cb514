"""Has ILLS "no higher overheads" than backpropagation? Arithmetic on paper, and seconds and memory measured.

One axis at a time around 1000 rows, 8-20-20-1, one network; see `experiments.studies.scaling`, which does the
measuring, and `experiments.studies.arithmetic`, which counts. Backpropagation is a step of Adam. What would take too
long is left out.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from experiments import figures, measuring
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row
from experiments.claims.statistics import parts, where
from experiments.config import Positive
from experiments.figures import NAMES
from experiments.studies import scaling

AXES = ("rows", "width", "depth", "outputs")
PRODUCTS = 5  # of conjugate gradients in a layer, on paper
RATIOS = {"multiply_adds": "multiply-adds, on paper", "seconds": "seconds", "peak_bytes": "bytes"}


class Config(ClaimConfig):
    """Where to measure."""

    rows: list[Positive]
    width: list[Positive]
    depth: list[Positive]
    outputs: list[Positive]
    repeats: Positive
    seconds: Annotated[float, Field(gt=0)]  # of a measurement
    longest: Annotated[float, Field(gt=0)]  # a step


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each point."""
    for axis in AXES:
        for value in getattr(config, axis):
            yield Piece(f"{axis}-{value}", partial(measure, config, axis, value))


def measure(config: Config, axis: str, value: int) -> list[Row]:
    """A row per algorithm."""
    limits = scaling.Limits(config.repeats, config.seconds, longest=config.longest)
    rate = measuring.matmul_rate(config.dtype, 1024)
    work = partial(scaling.paper, iterations=PRODUCTS)
    names = list(scaling.BUILDERS)
    return list(scaling.measure(scaling.Point(), [(axis, value)], names, config.dtype, rate, limits, work))


def draw(table: pd.DataFrame) -> Figure:
    """Seconds, and arithmetic on paper, over those of Adam: a panel per axis."""
    table = scaling.over_adam(table, RATIOS)
    axes = [axis for axis in AXES if axis in set(table["axis"])]
    figure, panels = figures.subplots(1, len(axes), sharey="row")
    for panel, axis in zip(panels[0], axes, strict=True):
        for name in ("ills", "gauss_newton"):
            part = where(table, axis=axis, algorithm=name)
            style = figures.style(name)
            panel.plot(part["value"], part["seconds_ratio"], label=f"{NAMES[name]}, seconds", **style)
            hollow = style | {"linestyle": ":", "markerfacecolor": "white"}
            panel.plot(part["value"], part["multiply_adds_ratio"], label=f"{NAMES[name]}, on paper", **hollow)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel="hidden layers" if axis == "depth" else axis)
        values = sorted(where(table, axis=axis)["value"].unique())
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("a step over a step of Adam")
    figures.legend(figure, panels[0, 0], 4)
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per axis and algorithm: ratios to Adam along the values."""
    table, rows = scaling.over_adam(table, RATIOS), []
    for (axis, name), part in parts(pd.DataFrame(table[table["algorithm"] != "adam"]), "axis", "algorithm"):
        row = {"axis": f"{axis} {', '.join(map(str, part['value']))}", "algorithm": NAMES[name]}
        for quantity, label in RATIOS.items():
            values = part[f"{quantity}_ratio"].to_numpy(float)
            row[label] = ", ".join(
                (f"{value:.2g}" if value < 100 else f"{value:.0f}") if np.isfinite(value) else "–" for value in values
            )
        rows.append(row)
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("cost", Config, pieces, draw, summarize)
