"""When to use it: who reaches a given error first, who generalises best, who fails? Four algorithms on a clock.

Planes: rows a parameter × noise; depth × width at equal rows; and an axis, the condition of the inputs. The teacher is
a random tanh network twice as wide as the student, so that no student is exact. It sees independent normal features;
the student sees them scaled from 1 down to 1 / condition and rotated, and nothing standardises them. Labels have
variance 1 on the training rows. Noise is on training targets only; test rows are clean.

Defined before the run, for each seed:

* the error to reach: the lowest training loss of Adam within `adam_steps` steps on all rows;
* the cap: three times the seconds that takes, at least 0.05. Seconds are run time of one network, without compilation.
  Every algorithm runs for the whole cap, so that all have equal seconds;
* fails: the error is not reached within the cap, or the loss is not finite before. A failure is slower than any time;
* test loss: of the parameters with the lowest training loss within the cap. No validation rows, no early stop: who
  trains further may fit more noise, and that counts;
* first, best: the lowest median over seeds; clearly so if the 95 % interval of the median ratio, seed by seed, of the
  next algorithm to it lies above 1.

The rates of Adam and ILLS are tuned in every cell by training loss, on seeds that are not measured; L-BFGS and
Gauss–Newton are as they come. ILLS is left out where a step of it would take seconds.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import jills
from experiments import figures
from experiments.claims import races
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row
from experiments.claims.statistics import median_interval, parts, where
from experiments.config import Positive
from experiments.figures import LOOKS, NAMES
from experiments.peers import Budget, Problem
from experiments.records import diverged_last

TEST_ROWS = 1000
TUNING_SEED = 1_000_000  # the first one; none that is measured
Plane = Literal["data", "network", "condition"]


class Config(ClaimConfig):
    """Which cells, which rates."""

    tuning_seeds: Positive
    inputs: Positive
    depth: Positive
    width: Positive
    rows_per_parameter: list[float]
    noise: list[float]
    depths: list[Positive]
    widths: list[Positive]
    network_rows: Positive
    conditions: list[float]
    condition_rows: Positive
    adam_steps: Positive
    adam_rates: list[float]
    rho: list[float]


class Cell(NamedTuple):
    """A place on the map."""

    plane: Plane
    depth: int
    width: int
    rows: int
    rows_per_parameter: float
    noise: float = 0.0
    condition: float = 1.0


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each cell; cells of one shape follow each other and share what is compiled."""
    for cell in cells(config):
        name = f"{cell.plane}-{cell.depth}x{cell.width}-{cell.rows}-{cell.noise:g}-{cell.condition:g}"
        yield Piece(name, partial(measure, config, cell))


def cells(config: Config) -> Iterator[Cell]:
    """Rows × noise, depth × width, condition."""
    count = student(config, config.depth, config.width).num_params
    for ratio in config.rows_per_parameter:
        for noise in config.noise:
            yield Cell("data", config.depth, config.width, round(ratio * count), ratio, noise)
    for depth in config.depths:
        for width in config.widths:
            ratio = config.network_rows / student(config, depth, width).num_params
            yield Cell("network", depth, width, config.network_rows, ratio)
    for condition in config.conditions:
        rows = config.condition_rows
        yield Cell("condition", config.depth, config.width, rows, rows / count, condition=condition)


def student(config: Config, depth: int, width: int) -> jills.Network:
    """The network that is trained."""
    return jills.Network((config.inputs, *[width] * depth, 1), jills.activations.tanh)


def measure(config: Config, cell: Cell) -> list[Row]:
    """A row per algorithm and seed; the algorithms in turn begin."""
    network = student(config, cell.depth, cell.width)
    samples = [sample(config, network, cell, TUNING_SEED + seed)[0] for seed in range(config.tuning_seeds)]
    trainers, rates = races.tune(samples, config.adam_steps, config.adam_rates, config.rho)
    names, rows = list(trainers), []
    for seed in range(config.seeds):
        problem, test = sample(config, network, cell, seed)
        reference = trainers["adam"](problem, Budget(math.inf, config.adam_steps))
        shift = seed % len(names)
        for name in [*names[shift:], *names[:shift]]:
            known = cell._asdict() | {"net": "-".join(map(str, network.sizes)), "parameters": network.num_params}
            known |= {"seed": seed, "algorithm": name, "learning_rate": rates.get(name, math.nan)}
            rows.append(known | races.race(trainers[name], problem, reference, test))
    return rows


def sample(config: Config, network: jills.Network, cell: Cell, seed: int) -> tuple[Problem, jills.Batch]:
    """The problem of a seed, and its test rows."""
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    params, batch, test = draw_rows(network, cell.rows, config.dtype, cell.noise, cell.condition, key)
    return Problem(network, races.LOSS, params, batch, seed), test


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw_rows(network, rows, dtype, noise, condition, key) -> tuple[jills.Params, jills.Batch, jills.Batch]:
    """Start, training rows and test rows. Other values of noise and condition compile nothing anew."""
    keys = jax.random.split(key, 5)
    inputs, *hidden, outputs = network.sizes
    teacher = jills.Network((inputs, *(2 * width for width in hidden), outputs), network.activation)
    features = jax.random.normal(keys[0], (rows + TEST_ROWS, inputs), dtype)
    labels = teacher.predict(teacher.init(keys[1], dtype), features)
    known = labels[:rows]
    labels = (labels - jnp.mean(known, axis=0, keepdims=True)) / jnp.std(known, axis=0, keepdims=True)
    scales = condition ** -jnp.linspace(0, 1, inputs, dtype=dtype)
    rotation = jnp.linalg.qr(jax.random.normal(keys[2], (inputs, inputs), dtype))[0]
    seen = (features * scales[None, :]) @ rotation
    targets = labels[:rows] + noise * jax.random.normal(keys[3], known.shape, dtype)
    return network.init(keys[4], dtype), jills.Batch(seen[:rows], targets), jills.Batch(seen[rows:], labels[rows:])


class Verdict(NamedTuple):
    """Who is ahead in a cell."""

    name: str  # "" where nobody gets there
    value: float  # its median
    following: str
    ratio: float  # median over seeds, of the next one's to its own
    clear: bool


def judge(part: pd.DataFrame, measure: str) -> Verdict:
    """Who has the lowest median of a measure in the rows of a cell."""
    judged = part.assign(judged=diverged_last(part[measure]))
    values = judged.pivot(index="seed", columns="algorithm", values="judged")
    medians = values.median().sort_values()
    name, following = map(str, medians.index[:2])
    if not np.isfinite(medians.iloc[0]):
        return Verdict("", math.inf, "", math.nan, False)
    own, other = (values[each].to_numpy(float) for each in (name, following))
    both_fail = np.isinf(own) & np.isinf(other)  # none is ahead there
    ratios = np.where(both_fail, 1.0, other) / np.where(both_fail, 1.0, own)
    low, ratio, _ = median_interval(ratios)
    return Verdict(name, float(medians.iloc[0]), following, ratio, low > 1)


MAPS = {"data": ("rows_per_parameter", "noise"), "network": ("width", "depth")}
LABELS = {
    "rows_per_parameter": "training rows a parameter",
    "noise": "noise, share of the labels' deviation",
    "width": "width of the hidden layers",
    "depth": "hidden layers",
}
MEASURES = {"seconds": "first at the error", "test_loss": "best test loss"}


def draw(table: pd.DataFrame) -> Figure:
    """Above who is first, below who has the best test loss: both planes as maps, the condition as curves."""
    shape = {"figsize": (15.5, 8), "width_ratios": (4, 3, 3)}
    figure, panels = figures.subplots(2, 3, **shape)
    for row, (measure, title) in enumerate(MEASURES.items()):
        for column, (plane, (across, up)) in enumerate(MAPS.items()):
            panel = panels[row, column]
            draw_map(panel, where(table, plane=plane), measure, across, up)
            panel.set(title=title, xlabel=LABELS[across], ylabel=LABELS[up])
        draw_condition(panels[row, 2], where(table, plane="condition"), measure)
    handles = [Patch(color=LOOKS[name].colour, label=NAMES[name]) for name in races.ALGORITHMS]
    title = "in a tile: who is ahead, its median, and how many times that the next one has; pale: not clearly"
    figure.legend(handles=handles, loc="outside upper center", ncols=4, title=title)
    return figure


def draw_map(panel: Axes, part: pd.DataFrame, measure: str, across: str, up: str) -> None:
    """A tile per cell, in the colour of who is ahead."""
    columns, lines = (sorted(part[name].unique()) for name in (across, up))
    for (x, y), cell in parts(part, across, up):
        verdict = judge(cell, measure)
        place = (columns.index(x), lines.index(y))
        colour = LOOKS[verdict.name].colour if verdict.name else "white"
        panel.bar(place[0], 0.96, 0.96, place[1] - 0.48, color=colour, alpha=0.75 if verdict.clear else 0.25)
        panel.text(*place, describe(verdict, measure, "\n"), ha="center", va="center", fontsize=8)
    panel.set(xlim=(-0.5, max(len(columns), 1) - 0.5), ylim=(-0.5, max(len(lines), 1) - 0.5))
    panel.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    panel.set_yticks(range(len(lines)), [f"{value:g}" for value in lines])


def describe(verdict: Verdict, measure: str, between: str) -> str:
    """A verdict as text: who, its median, how far ahead of whom."""
    if not verdict.name:
        return "none"
    value = f"{1e3 * verdict.value:.3g} ms" if measure == "seconds" else f"{verdict.value:.2g}"
    if not np.isfinite(verdict.ratio):
        return between.join((NAMES[verdict.name], value, "the others fail"))
    return between.join((NAMES[verdict.name], value, f"then {NAMES[verdict.following]}", f"{verdict.ratio:.3g} ×"))


def draw_condition(panel: Axes, part: pd.DataFrame, measure: str) -> None:
    """Ratios to Adam, seed by seed, against the condition of the inputs."""
    for name in races.ALGORITHMS:
        line = [(key[0], *ratio_to_adam(cell, name, measure)) for key, cell in parts(part, "condition")]
        kept = [point for point in line if np.isfinite(point[2])]
        if kept:
            x, low, middle, high = np.array(kept).T
            figures.band(panel, x, low, middle, np.where(np.isfinite(high), high, middle), **figures.style(name))
    what = "seconds to the error" if measure == "seconds" else "test loss"
    panel.set(xscale="log", yscale="log", xlabel="condition of the inputs", ylabel=f"{what}, ratio to Adam's")
    panel.set_title("no mark: left out" + (" or fails" if measure == "seconds" else ""))
    panel.grid(alpha=0.3)


def ratio_to_adam(cell: pd.DataFrame, name: str, measure: str) -> tuple[float, float, float]:
    """The median ratio over seeds with its interval; inf where the algorithm fails or is left out."""
    values = cell.pivot(index="seed", columns="algorithm", values=measure)
    return median_interval(values[name] / values["adam"]) if name in values else (math.inf, math.inf, math.inf)


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per cell: milliseconds of every algorithm to the error, who is first, who has the best test loss."""
    rows, by = [], ["plane", "net", "rows", "noise", "condition"]
    for (_, net, count, noise, condition), cell in parts(table, *by):
        row = {"net": net, "parameters": cell["parameters"].iloc[0], "rows": count, "noise": noise}
        row |= {"condition": f"{condition:g}", "seeds": cell["seed"].nunique()}
        row |= {f"{NAMES[name]}, ms": show_seconds(where(cell, algorithm=name)["seconds"]) for name in races.ALGORITHMS}
        for title, measure in (("first", "seconds"), ("best test loss", "test_loss")):
            verdict = judge(cell, measure)
            row[title] = describe(verdict, measure, ", ") + ("" if verdict.clear else " (not clear)")
        rows.append(row)
    return pd.DataFrame(rows)


def show_seconds(seconds: Any) -> str:
    """Median milliseconds with their interval, and the share that fails if any."""
    if len(seconds) == 0:
        return "left out"
    failing = f"fails {np.mean(np.isinf(seconds)):.0%}" if np.any(np.isinf(seconds)) else ""
    low, middle, high = (1e3 * value for value in median_interval(seconds))
    if not np.isfinite(middle):
        return failing
    return f"{middle:.3g} ({low:.2g}–{high:.2g})" + (f", {failing}" if failing else "")


EXPERIMENT = Experiment("phase_map", Config, pieces, draw, summarize)
