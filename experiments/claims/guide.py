"""Is log evidence a guide: to how long to train, and to how wide a network should be? And is the out-of-fold error?

The same random splits of noisy tables, a tenth tested, as in `regularisation`. On each, networks of several widths that
choose their own regularisation (`jills.evidence`, one α): as many on all training rows, whose mean is tested and whose
mean log evidence counts, as on all but a fold each. The out-of-fold error is the root mean square of what every
training row differs from the prediction of the network that it was left out of. All are looked at along one run.

A guide is judged by the networks that it picks after the last step, one on each split: by how often it picks
which, and by the mean test RMSE of its picks, beside that of the best on each split, which nobody knows beforehand.
"""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jills
from experiments import data, figures
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row
from experiments.claims.fitting import Split, first, predicted, starts
from experiments.claims.statistics import parts, where
from experiments.config import Positive

MEASURES = {
    "log_evidence": "log evidence a training row, nats",
    "out_of_fold": "out-of-fold RMSE",
    "rmse": "test RMSE",
}
SHORT = {"log_evidence": "evidence", "out_of_fold": "out-of-fold", "rmse": "test"}
GUIDES = {  # who picks: by what, and whether by its largest value
    "picked by evidence": ("log_evidence", True),
    "by out-of-fold": ("out_of_fold", False),
    "best": ("rmse", False),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")


class Config(ClaimConfig):
    """Which tables, which networks, for how long."""

    tables: list[str]
    widths: list[list[Positive]]  # of the hidden layers
    members: Positive  # on all rows, and as many folds
    every: Positive  # so many steps it is looked
    looks: Positive


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each table and network."""
    for table in config.tables:
        for hidden in config.widths:
            yield Piece(f"{table}-{'-'.join(map(str, hidden))}", partial(measure, config, table, hidden, folder))


def measure(config: Config, table: str, hidden: list[int], folder: str) -> list[Row]:
    """All splits, a row for each and each look."""
    rows = []
    for number in range(config.seeds):
        dataset = data.load(table, folder, test_fraction=0.1, split_seed=number)
        unit = float(np.ravel(dataset.target_scale)[0])
        split = Split.of(dataset.train, dataset.test, config.dtype, number, unit)
        for look in run(config, hidden, split):
            rows.append({"data": table, "hidden": "-".join(map(str, hidden)), "seed": number} | look)
    return rows


def run(config: Config, hidden: list[int], split: Split) -> Iterator[Row]:
    """Whole and folded networks in one sweep, which goes on from look to look."""
    n, m = len(split.inputs), config.members
    network = jills.Network((split.inputs.shape[1], *hidden, 1), jills.activations.tanh)
    algorithm = jills.evidence.build(network)
    folds = np.asarray(jills.folds(jax.random.key(split.number), n, m), config.dtype)
    batches = jills.Batch(split.inputs, split.targets, np.concatenate([np.ones_like(folds), folds]))
    start, keys = starts(config, network, split.number, 2 * m)
    result = None
    for look in range(config.looks):
        result = jills.sweep(
            algorithm, algorithm.defaults, start, keys, config.every, config.every, batches=batches, state=result
        )
        state = first(result.state)
        whole, folded = (jax.tree.map(lambda leaf, some=some: leaf[some], state) for some in (slice(m), slice(m, None)))
        batch = jills.Batch(split.inputs, split.targets)
        tested = predicted(algorithm, whole, batch, split.test_inputs).mean
        # Each with its own rows, since its units are theirs.
        each = _folded(algorithm, folded, batch._replace(weights=folds))
        yield {
            "steps": (look + 1) * config.every,
            "log_evidence": float(np.mean(np.asarray(whole.inner.course.log_evidence))) / n,
            "out_of_fold": split.unit * _rms(jills.out_of_fold(each, jax.numpy.asarray(folds)).mean - split.targets),
            "rmse": split.unit * _rms(tested - split.test_targets),
        }


@partial(jax.jit, static_argnums=0)
def _folded(algorithm, states, batches):
    """What each network predicts for all training rows."""
    one = lambda state, weights: jills.evidence.predict(  # noqa: E731 used at once
        algorithm, state, batches._replace(weights=weights), batches.inputs
    )
    return jax.vmap(one)(states, batches.weights)


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


def draw(table: pd.DataFrame) -> Figure:
    """A row for each table, a column for each measure along the run, a line for each network: means over splits."""
    tables, widths = list(table["data"].unique()), list(table["hidden"].unique())
    figure, panels = figures.subplots(
        len(tables), len(MEASURES), figsize=(4.2 * len(MEASURES), 0.6 + 2.8 * len(tables))
    )
    for line, name in zip(panels, tables, strict=True):
        for panel, (measure, title) in zip(line, MEASURES.items(), strict=True):
            for colour, hidden in zip(COLOURS, widths, strict=False):
                wide = where(table, data=name, hidden=hidden).pivot_table(index="steps", columns="seed", values=measure)
                error = wide.sem(axis=1).fillna(0.0)
                panel.errorbar(
                    wide.index, wide.mean(axis=1), error, color=colour, marker="o", markersize=3, label=hidden
                )
            panel.set(xlabel="steps", ylabel=title, title=name)
            panel.grid(alpha=0.3)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(widths), title="hidden units")
    return figure


def picks(table: pd.DataFrame, measure: str, largest: bool) -> pd.DataFrame:
    """The network that a measure picks after the last step, a row for each table and split."""
    end = pd.DataFrame(table[table["steps"] == table["steps"].max()])
    ordered = end.sort_values(measure, ascending=not largest, kind="stable")
    return pd.DataFrame(ordered.groupby(["data", "seed"], sort=False).head(1))


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Means over splits after some looks, and on how many splits a network is picked; last what the picks come to."""
    steps = sorted(table["steps"].unique())
    shown = sorted({steps[max(0, len(steps) // 4 - 1)], steps[len(steps) // 2 - 1], steps[-1]})
    picked = {name: picks(table, measure, largest) for name, (measure, largest) in GUIDES.items()}
    rows = []
    for (name,), own in parts(table, "data"):
        for (hidden,), part in parts(own, "hidden"):
            means = {step: part[part["steps"] == step].mean(numeric_only=True) for step in shown}
            row = {"data": name, "hidden": hidden}
            for measure, title in SHORT.items():
                row |= {f"{title} @{step}": f"{means[step][measure]:.3g}" for step in shown}
            rows.append(row | {text: str(len(where(best, data=name, hidden=hidden))) for text, best in picked.items()})
        own_picks = {text: f"{where(best, data=name)['rmse'].mean():.3g}" for text, best in picked.items()}
        rows.append({"data": name, "hidden": "test RMSE of the picks"} | own_picks)
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("guide", Config, pieces, draw, summarize)
