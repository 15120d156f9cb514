"""The figures of a comparison. One colour an algorithm everywhere; a rate is a shade of it."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from experiments.data import Dataset
from experiments.records import quartiles

COLOURS = {  # of Okabe and Ito's palette: told apart by all eyes
    "ills": "#0072B2",
    "gauss_newton": "#009E73",
    "adam": "#D55E00",
    "adam_minibatches": "#E69F00",
    "lbfgs": "#CC79A7",
    "levenberg_marquardt": "#56B4E9",
    "sklearn": "#000000",
    "curvature": "#7A5C00",
    "linear": "#888888",
}
NAMES = {
    "ills": "ILLS",
    "gauss_newton": "Gauss–Newton",
    "adam": "Adam",
    "adam_minibatches": "Adam, minibatches",
    "lbfgs": "L-BFGS",
    "levenberg_marquardt": "Levenberg–Marquardt",
    "sklearn": "scikit-learn",
    "curvature": "Somax",
    "linear": "linear",
}
LINES: dict[str, Any] = {
    "ills": "-",
    "gauss_newton": "-.",
    "adam": "--",
    "adam_minibatches": (0, (3, 1, 1, 1, 1, 1)),
    "lbfgs": ":",
    "levenberg_marquardt": (0, (5, 1, 1, 1, 1, 1)),
    "sklearn": (0, (1, 1)),
    "curvature": (0, (6, 2)),
    "linear": (0, (1, 3)),
}
MARKS = {
    "ills": "o",
    "gauss_newton": "^",
    "adam": "s",
    "adam_minibatches": "D",
    "lbfgs": "v",
    "levenberg_marquardt": "P",
    "sklearn": "X",
    "curvature": "*",
    "linear": "_",
}


def draw_all(folder: Path, dataset: xr.Dataset, series: Dataset | None) -> None:
    """Writes every figure that the results allow, as PNG; predictions only of a time series."""
    drawings = {"loss": loss_curves(dataset, "train_loss", "training loss")}
    drawings["stability"] = stability(dataset)
    if "distance" in dataset:
        drawings["distance"] = loss_curves(dataset, "distance", "relative distance to the true parameters")
    if series is not None and series.persistence is not None and "predictions" in dataset:
        drawings["predictions"] = predictions(dataset, series)
    for name, figure in drawings.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        plt.close(figure)


def loss_curves(dataset: xr.Dataset, variable: str, label: str) -> Figure:
    """A curve against step and against seconds: median over seeds and the band between the quartiles."""
    algorithms = list(dataset.algorithm.values)
    size = (4.2 * len(algorithms) + 0.8, 6.4)
    figure, axes = plt.subplots(
        2, len(algorithms), figsize=size, sharey=True, sharex="row", squeeze=False, layout="constrained"
    )
    for column, name in enumerate(algorithms):
        one = dataset.sel(algorithm=name)
        step, seconds = one.step.values, np.asarray(one.seconds)
        for index, colour, text in _rates(one):
            curves = np.asarray(one[variable][index], float)
            low, middle, high = _quartiles(curves)
            # The logarithmic axis of seconds has no place for step 0.
            for axis, across, first in ((axes[0, column], step, 0), (axes[1, column], seconds, 1)):
                axis.plot(across[first:], middle[first:], color=colour, label=text, linewidth=1.6)
                axis.fill_between(across[first:], low[first:], high[first:], color=colour, alpha=0.18, linewidth=0)
        axes[0, column].set(title=NAMES[name], xlabel="step", xscale="symlog")
        axes[0, column].set_xlim(0, step[-1])
        axes[1, column].set(xlabel="seconds a network, without compilation", xscale="log")
        title = "learning rate" if _has_rate(one) else None
        axes[0, column].legend(title=title, fontsize=8, title_fontsize=8)
    for axis in axes[:, 0]:
        axis.set(ylabel=label, yscale="log")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(f"{dataset.attrs['title']}: median of {dataset.sizes['seed']} seeds, band between quartiles")
    return figure


def stability(dataset: xr.Dataset) -> Figure:
    """Final training loss against learning rate for all algorithms; crosses on top: members that diverged."""
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name in dataset.algorithm.values:
        one = dataset.sel(algorithm=name)
        indices = [index for index, _, _ in _rates(one)]
        rates = np.asarray(one.hparam_learning_rate)[indices]
        low, middle, high = _quartiles(one.final_loss.values[indices].T)
        band = [middle - low, high - middle]
        line = axis.errorbar(rates, middle, band, capsize=3, label=NAMES[name], color=COLOURS[name])
        line.lines[0].set(linestyle=LINES[name], marker=MARKS[name])
        diverged = np.mean(one.word.values[indices] == "diverged", axis=1)
        for rate, share in zip(rates[diverged > 0], diverged[diverged > 0], strict=True):
            text = f"{share:.0%}\ndiverged"
            axis.annotate(text, (rate, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final training loss")
    axis.set_title(f"{dataset.attrs['title']}\nmedian of {dataset.sizes['seed']} seeds and quartiles", fontsize=10)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure


def predictions(dataset: xr.Dataset, series: Dataset, longest: int = 336) -> Figure:
    """The test part: observed, the naive forecast, and each algorithm's median prediction and quartiles."""
    figure, axis = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    rows = series.test.rows[:longest]

    def units(scaled):
        return (scaled * series.target_scale + series.target_mean)[..., :longest, 0]

    axis.plot(rows, units(series.test.targets), color="black", linewidth=1.8, label="observed")
    axis.plot(rows, units(series.persistence), color="0.6", linewidth=1, linestyle=":", label="persistence")
    for name in dataset.algorithm.values:
        low, middle, high = _quartiles(units(dataset.predictions.sel(algorithm=name).values))
        axis.plot(rows, middle, color=COLOURS[name], linestyle=LINES[name], linewidth=1.4, label=NAMES[name])
        axis.fill_between(rows, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
    axis.set(xlabel=series.row_name, ylabel=series.unit)
    axis.set_title(
        f"{dataset.attrs['title']}: test part, best learning rate by training loss, median of seeds", fontsize=10
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _rates(one):
    """(index, colour, label) of the sets of numbers, a darker shade for a higher rate."""
    name = str(one.algorithm.values)
    rates = np.asarray(one.hparam_learning_rate)
    indices = np.flatnonzero(np.isfinite(rates))
    ramp = LinearSegmentedColormap.from_list(name, [_mix(COLOURS[name], "white", 0.65), COLOURS[name], "black"])
    shades = np.linspace(0.0, 0.75, len(indices)) if len(indices) > 1 else [0.5]
    others = [v for v in one.data_vars if v.startswith("hparam_") and len(np.unique(one[v].values[indices])) > 1]
    for shade, index in zip(shades, indices, strict=True):
        extra = [f"{v.removeprefix('hparam_')} {float(one[v][index]):g}" for v in others if v != "hparam_learning_rate"]
        yield index, ramp(shade), ", ".join([f"{rates[index]:g}"] * _has_rate(one) + extra) or NAMES[name]


def _has_rate(one):
    """Whether the learning rate means anything: on a full batch that of Gauss–Newton does not."""
    return str(one.algorithm.values) != "gauss_newton"


def _mix(colour, other, share):
    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(colour), to_rgb(other), strict=True))


def _quartiles(values):
    """Quartiles over the first axis; NaN, which is not drawn, where they are infinite or nothing was recorded."""
    return [np.where(np.isfinite(line), line, np.nan) for line in quartiles(values)]
