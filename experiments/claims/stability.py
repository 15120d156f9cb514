"""Is ILLS "more stable, especially with higher learning rates"? Rates × initial scales on teachers.

Defined before the run, for the loss after the last step and the variance of the targets, which is the loss of the best
constant, a network that has learned nothing:

* diverged: not finite, or above ten times that of the start and above the variance;
* slow: not diverged, above a tenth of the variance, and the loss still falls (the status "improving" of
  `jills.diagnose`): more steps would help;
* stalled: not diverged, above a tenth of the variance, and it falls no more;
* stable: none of these.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.tree_util import Partial
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jills
from experiments import figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, compared, keys_of, train
from experiments.claims.statistics import last, median_interval, parts, show_rate, where
from experiments.config import Positive, Teacher
from experiments.figures import NAMES
from experiments.records import diverged_last

LEARNED = 0.1  # of the variance
RISE = 10.0


class Config(ClaimConfig):
    """Which rates, which scales."""

    hidden: list[list[Positive]]
    noise: list[float]  # standard deviation, on the training targets; one per network
    num_steps: Positive
    scales: list[float]  # of weights and biases of the start
    rho: list[float]  # of ILLS
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each network, algorithm and scale."""
    tanh, loss = jills.activations.tanh, jills.losses.squared_error
    for hidden, noise in zip(config.hidden, config.noise, strict=True):
        network = jills.Network((3, *hidden, 1), tanh, tanh)
        teacher = problems.teacher_problem(network, loss, Teacher(name="teacher", inputs=3, noise=noise), config.dtype)
        label = "-".join(map(str, network.sizes)) + (f", noise {noise:g}" if noise else "")
        for name, (algorithm, hparams) in compared(network, config.rho, config.adam_rates).items():
            for scale in config.scales:
                run = partial(measure, config, label, name, algorithm, hparams, teacher, scale)
                yield Piece(f"{label}-{name}-{scale:g}".replace(", ", "-").replace(" ", "-"), run)


def measure(config, label, name, algorithm, hparams, teacher, scale) -> list[Row]:
    """The ends of a sweep, with the loss of the start and the variance of the targets."""
    keys, problem = keys_of(config), problems.scaled_start(teacher, scale)
    rows = train(name, algorithm, hparams, problem, keys, config.num_steps, case=label, scale=scale)
    starts = {(row["learning_rate"], row["seed"]): row["loss"] for row in rows if row["step"] == 0}
    known, ends = np.asarray(variances(problem, keys)), []
    for row in rows:
        if row["step"] == config.num_steps:
            start = starts[row["learning_rate"], row["seed"]]
            ends.append(row | {"start": start, "variance": float(known[row["seed"]])})
    return ends


@jax.jit
def variances(problem: Partial, keys: jax.Array) -> jax.Array:
    """The loss of the best constant for each key."""
    return jax.vmap(lambda key: jnp.var(problem(key)[1].targets))(keys)


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """The ends with the columns diverged, slow, stalled and unstable, which is any of them."""
    ends = last(table)
    loss = diverged_last(ends["loss"])
    diverged = (loss == np.inf) | ((loss > RISE * ends["start"]) & (loss > ends["variance"]))
    behind = ~diverged & (loss > LEARNED * ends["variance"])
    falling = ends["status"] == "improving"
    return ends.assign(diverged=diverged, slow=behind & falling, stalled=behind & ~falling, unstable=diverged | behind)


def draw(table: pd.DataFrame) -> Figure:
    """A row per problem: for ILLS and for Adam, the median loss and the share that is not stable."""
    ends = outcomes(table)
    names = list(ends["case"].unique())
    figure, panels = figures.subplots(len(names), 4, figsize=(15, 0.6 + 2.7 * len(names)))
    for row, label in enumerate(names):
        for column, name in enumerate(("ills", "adam")):
            part = where(ends, case=label, algorithm=name)
            for shift, (measure, title) in enumerate(MEASURES.items()):
                panel = panels[row, 2 * column + shift]
                draw_map(panel, part, measure)
                panel.set_title(f"{NAMES[name]}, {label}: {title}", fontsize=9)
        panels[row, 0].set_ylabel("scale of the start")
    for column in range(4):
        panels[-1, column].set_xlabel("learning rate" if column > 1 else "learning rate ρ")
    return figure


MEASURES = {"loss": "median final loss", "unstable": "share not stable"}


def draw_map(panel: Axes, part: pd.DataFrame, measure: str) -> None:
    """One map, rates across and scales upwards; dark is good."""
    # A median of infinity has the colour of the highest.
    cells = part.assign(value=np.nan_to_num(part[measure].to_numpy(float), nan=1e9, posinf=1e9))
    how = "median" if measure == "loss" else "mean"
    grid = cells.pivot_table(index="scale", columns="learning_rate", values="value", aggfunc=how)
    values = grid.to_numpy()
    shown = (np.log10(np.clip(values, 1e-8, 1e2)) + 8) / 10 if measure == "loss" else values
    panel.imshow(shown, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (y, x), value in np.ndenumerate(values):
        text = f"{value:.0e}".replace("e-0", "e-").replace("e+00", "") if measure == "loss" else f"{value:.0%}"
        panel.text(x, y, text, ha="center", va="center", fontsize=6.5, color="black" if shown[y, x] > 0.5 else "white")
    panel.set_xticks(range(len(grid.columns)), [f"{rate:g}" for rate in grid.columns], rotation=45)
    panel.set_yticks(range(len(grid.index)), [f"{scale:g}" for scale in grid.index])


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """By problem and algorithm, over all rates and scales: shares of the outcomes; and the loss at the best rate."""
    rows = []
    for (label, name), part in parts(outcomes(table), "case", "algorithm"):
        rates = part.groupby("learning_rate")["loss"].median()
        low, middle, high = median_interval(where(part, learning_rate=rates.idxmin())["loss"])
        row = {"case": label, "algorithm": NAMES[name], "networks": len(part)}
        row |= {outcome: f"{part[outcome].mean():.1%}" for outcome in ("diverged", "stalled", "slow")}
        spread = part.groupby(["learning_rate", "scale"])["loss"].median()
        row |= {"best rate": show_rate(name, rates.idxmin()), "loss there": f"{middle:.2g} ({low:.1g}–{high:.1g})"}
        rows.append(row | {"worst median of a rate and scale": f"{spread.max():.2g}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("stability", Config, pieces, draw, summarize)
