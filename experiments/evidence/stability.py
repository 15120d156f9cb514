"""Is ILLS "more stable, especially with higher learning rates"? Rates × initial scales on a noiseless teacher.

Defined before the run, for the loss after the last step and the variance of the targets, which is the loss of the best
constant, a network that has learned nothing:

* diverged: not finite, or above ten times that of the start and above the variance;
* stalled: not diverged, but above a tenth of the variance;
* stable: neither.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jills
from experiments import problems
from experiments.config import Positive, Teacher
from experiments.evidence.base import (
    EvidenceConfig,
    Experiment,
    Piece,
    Row,
    keys_of,
    last,
    median_interval,
    numbers,
    parts,
    train,
    where,
)
from experiments.figures import NAMES
from experiments.reports import plt

NETWORK = jills.Network((3, 4, 1), jills.activations.tanh, jills.activations.tanh)
LEARNED = 0.1  # of the variance
RISE = 10.0


class Config(EvidenceConfig):
    """Which rates, which scales."""

    num_steps: Positive
    scales: list[float]  # of weights and biases of the start
    rho: list[float]  # of ILLS
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One a scale and algorithm."""
    table, loss = Teacher(name="teacher", inputs=3), jills.losses.squared_error
    teacher = problems.teacher_problem(NETWORK, loss, table, config.dtype)
    plans = {
        "ills": (jills.ills.build(NETWORK, solver=jills.solvers.qr), {"learning_rate": config.rho}),
        "gauss_newton": (jills.gauss_newton.build(NETWORK), {}),
        "adam": (jills.adam.build(NETWORK), {"learning_rate": config.adam_rates}),
    }
    for name, (algorithm, axes) in plans.items():
        hparams = numbers(type(algorithm.defaults), **axes)
        for scale in config.scales:
            yield Piece(f"{name}-{scale:g}", partial(measure, config, name, algorithm, hparams, teacher, scale))


def measure(config, name, algorithm, hparams, teacher, scale) -> list[Row]:
    """The ends of a sweep, with the loss of the start and the variance of the targets."""
    keys, problem = keys_of(config), problems.scaled_start(teacher, scale)
    rows = train(name, algorithm, hparams, problem, keys, config.num_steps, scale=scale)
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
    """The ends with the columns diverged and stalled."""
    ends = last(table)
    loss = ends["loss"].where(np.isfinite(ends["loss"]), np.inf)
    diverged = (loss == np.inf) | ((loss > RISE * ends["start"]) & (loss > ends["variance"]))
    return ends.assign(diverged=diverged, stalled=~diverged & (loss > LEARNED * ends["variance"]))


def draw(table: pd.DataFrame) -> Figure:
    """A map for each of ILLS and Adam and each of median loss, share diverged, share stalled."""
    ends = outcomes(table)
    figure, panels = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for row, name in enumerate(("ills", "adam")):
        part = where(ends, algorithm=name)
        for column, (measure, label) in enumerate(MEASURES.items()):
            # A median of infinity is drawn as the worst.
            cells = part.assign(value=np.nan_to_num(part[measure].to_numpy(float), nan=1e9, posinf=1e9))
            how = "median" if measure == "loss" else "mean"
            grid = cells.pivot_table(index="scale", columns="learning_rate", values="value", aggfunc=how)
            panel, values = panels[row, column], grid.to_numpy()
            shown = np.log10(np.clip(values, 1e-8, 1e2)) if measure == "loss" else values
            limits = (-8, 2) if measure == "loss" else (0, 1)
            panel.imshow(shown, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto", origin="lower")
            for (y, x), value in np.ndenumerate(values):
                text = f"{value:.0e}" if measure == "loss" else f"{value:.0%}"
                bright = (shown[y, x] - limits[0]) / (limits[1] - limits[0]) > 0.5
                panel.text(x, y, text, ha="center", va="center", fontsize=7, color="black" if bright else "white")
            panel.set_xticks(range(len(grid.columns)), [f"{rate:g}" for rate in grid.columns])
            panel.set_yticks(range(len(grid.index)), [f"{scale:g}" for scale in grid.index])
            panel.set(title=f"{NAMES[name]}: {label}", xlabel="learning rate" if name == "adam" else "learning rate ρ")
        panels[row, 0].set_ylabel("scale of the start")
    return figure


MEASURES = {"loss": "median final loss", "diverged": "share diverged", "stalled": "share stalled"}


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """By algorithm and scale: the share of stable members over all rates, and the loss at the best rate."""
    rows = []
    for (name, scale), part in parts(outcomes(table), "algorithm", "scale"):
        rates = part.groupby("learning_rate")["loss"].median()
        best = where(part, learning_rate=rates.idxmin())
        low, middle, high = median_interval(best["loss"])
        row = {"algorithm": NAMES[name], "scale": scale, "rates": len(rates)}
        row |= {word: f"{part[word].mean():.0%}" for word in ("diverged", "stalled")}
        row |= {"best rate": f"{rates.idxmin():g}", "loss there": f"{middle:.2g} ({low:.1g}–{high:.1g})"}
        rows.append(row)
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("stability", Config, pieces, draw, summarize)
