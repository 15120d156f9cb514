"""How algorithms look in all figures, and the figures of a comparison: a rate is a shade of an algorithm's colour."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from experiments.data import Dataset
from experiments.records import quartiles
from jills.training import write_whole


class Look(NamedTuple):
    """How an algorithm appears, the same in all figures."""

    name: str
    colour: str  # of Okabe and Ito's palette: told apart by all eyes
    line: Any
    mark: str


LOOKS = {
    "ills": Look("ILLS", "#0072B2", "-", "o"),
    "gauss_newton": Look("Gauss–Newton", "#009E73", "-.", "^"),
    "adam": Look("Adam", "#D55E00", "--", "s"),
    "evidence": Look("evidence", "#882255", (0, (4, 1)), "d"),
    "adam_minibatches": Look("Adam, minibatches", "#E69F00", (0, (3, 1, 1, 1, 1, 1)), "D"),
    "lbfgs": Look("L-BFGS", "#CC79A7", ":", "v"),
    "levenberg_marquardt": Look("Levenberg–Marquardt", "#56B4E9", (0, (5, 1, 1, 1, 1, 1)), "P"),
    "sklearn": Look("scikit-learn", "#000000", (0, (1, 1)), "X"),
    "curvature": Look("Somax", "#7A5C00", (0, (6, 2)), "*"),
    "linear": Look("linear", "#888888", (0, (1, 3)), "_"),
}
NAMES = {key: look.name for key, look in LOOKS.items()}


def style(name: str) -> dict[str, Any]:
    """Colour, line and mark of an algorithm, as arguments of `plot`."""
    look = LOOKS[name]
    return {"color": look.colour, "linestyle": look.line, "marker": look.mark, "markersize": 4}


def subplots(rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of that many panels, `panels[row, column]`; the options are those of `plt.subplots`."""
    options = {"figsize": (3.4 * columns + 0.6, 2.8 * rows + 0.4)} | options
    return plt.subplots(rows, columns, squeeze=False, layout="constrained", **options)


def legend(figure: Figure, panel: Axes, columns: int) -> None:
    """The legend of one panel, above all of them."""
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=columns)


def band(panel: Axes, across, low, middle, high, **look: Any) -> None:
    """A curve, and in its colour, paler, the band around it."""
    panel.plot(across, middle, **look)
    panel.fill_between(across, low, high, color=look["color"], alpha=0.15, linewidth=0)


def finite_quartiles(values) -> list[np.ndarray]:
    """Quartiles over the first axis; NaN, which is not drawn, where they are infinite or nothing was recorded."""
    return [np.where(np.isfinite(line), line, np.nan) for line in quartiles(values)]


def write(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG and frees it."""
    write_whole(path, partial(figure.savefig, dpi=120))
    plt.close(figure)


def draw_all(folder: Path, dataset: xr.Dataset, series: Dataset | None) -> None:
    """Writes every figure that the results allow, as PNG; predictions only of a time series."""
    drawings = {"loss": loss_curves(dataset, "train_loss", "training loss")}
    drawings["stability"] = stability(dataset)
    if "distance" in dataset:
        drawings["distance"] = loss_curves(dataset, "distance", "relative distance to the true parameters")
    if series is not None and series.persistence is not None and "predictions" in dataset:
        drawings["predictions"] = predictions(dataset, series)
    for name, figure in drawings.items():
        write(figure, folder / f"{name}.png")


def loss_curves(dataset: xr.Dataset, variable: str, label: str) -> Figure:
    """A curve against step and against seconds: median over seeds and the band between the quartiles."""
    algorithms = list(dataset.algorithm.values)
    size = (4.2 * len(algorithms) + 0.8, 6.4)
    figure, axes = subplots(2, len(algorithms), figsize=size, sharey=True, sharex="row")
    for column, name in enumerate(algorithms):
        one = dataset.sel(algorithm=name)
        step, seconds = one.step.values, np.asarray(one.seconds)
        for index, colour, text in _rates(one):
            curves = np.array(finite_quartiles(one[variable][index]))
            band(axes[0, column], step, *curves, color=colour, label=text)
            # The logarithmic axis of seconds has no place for step 0.
            band(axes[1, column], seconds[1:], *curves[:, 1:], color=colour)
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
    """Final training loss against learning rate for all algorithms; on top, the shares that diverged."""
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name in dataset.algorithm.values:
        one = dataset.sel(algorithm=name)
        indices = [index for index, _, _ in _rates(one)]
        low, middle, high = finite_quartiles(one.final_loss.values[indices].T)
        if not _has_rate(one):
            for index, level in enumerate(middle):
                look = style(name) | {"marker": "", "label": NAMES[name] if index == 0 else None}
                axis.axhline(level, **look)
            continue
        rates = _rates_of(one)[indices]
        axis.errorbar(rates, middle, [middle - low, high - middle], capsize=3, label=NAMES[name], **style(name))
        diverged = np.mean(one.status.values[indices] == "diverged", axis=1)
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
        curves = finite_quartiles(units(dataset.predictions.sel(algorithm=name).values))
        band(axis, rows, *curves, label=NAMES[name], **(style(name) | {"marker": ""}))
    axis.set(xlabel=series.row_name, ylabel=series.unit)
    axis.set_title(
        f"{dataset.attrs['title']}: test part, best learning rate by training loss, median of seeds", fontsize=10
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _rates(one):
    """(index, colour, label) of the settings of hyperparameters, a darker shade for a higher rate."""
    name, rates = str(one.algorithm.values), _rates_of(one)
    hparams = [v for v in one.data_vars if v.startswith("hparam_")]
    # Algorithms with fewer settings, or without a hyperparameter, are filled up with NaN.
    indices = np.flatnonzero(np.any([np.isfinite(one[v].values) for v in hparams], axis=0))
    colour = LOOKS[name].colour
    ramp = LinearSegmentedColormap.from_list(name, [_mix(colour, "white", 0.65), colour, "black"])
    shades = np.linspace(0.0, 0.75, len(indices)) if len(indices) > 1 else [0.5]
    others = [v for v in hparams if len(np.unique(one[v].values[indices])) > 1]
    for shade, index in zip(shades, indices, strict=True):
        extra = [f"{v.removeprefix('hparam_')} {float(one[v][index]):g}" for v in others if v != "hparam_learning_rate"]
        yield index, ramp(shade), ", ".join([f"{rates[index]:g}"] * _has_rate(one) + extra) or NAMES[name]


def _rates_of(one):
    """The learning rate of each setting; NaN where there is none, as for Gauss–Newton on a full batch."""
    return np.asarray(one.get("hparam_learning_rate", np.full(one.sizes["hparam"], np.nan)), float)


def _has_rate(one):
    return bool(np.isfinite(_rates_of(one)).any())


def _mix(colour, other, share):
    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(colour), to_rgb(other), strict=True))
