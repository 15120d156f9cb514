"""Images at three and four hidden layers: does Gauss–Newton train them sooner, and do they classify as well?

Every trainer gets the same start and the same seconds of run time on a clock that stands still while losses are
computed and programs compiled. Gauss–Newton on minibatches has the setting of `minibatch_hparams`, fixed before the
run (its larger damping was chosen on MNIST and Fashion-MNIST with their test accuracy in view, on a start that is not
measured, which favours it there), and is run a second time with weight decay; it runs on all rows with its defaults
where `full_batch` says so. L-BFGS has all rows and a line search. Adam's rate and Somax's setting are those with the
lowest final training loss on a start that is not measured; those trials are in the table, with `tuning`. On
minibatches all rates fall to zero in proportion to the seconds left. "Final" is the last moment, of the parameters
then; "best test accuracy" is the highest of all moments, an optimistic value for every trainer alike.
"""

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jills
from experiments import figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, keys_of
from experiments.claims.drawing import draw_curve
from experiments.claims.statistics import median_interval, show_interval
from experiments.claims.trainers import LOSS, Place, Trainer, candidates, run, untuned
from experiments.config import Positive, Table
from experiments.data import MissingData, load
from experiments.peers import with_curvature
from experiments.records import diverged_last

TUNING = 1_000_000  # the start for tuning, far from those that are measured
NAMES = {
    "gauss_newton": "Gauss–Newton, all rows",
    "gauss_newton_minibatches": "Gauss–Newton, minibatches",
    "gauss_newton_decay": "Gauss–Newton, minibatches, weight decay",
    "adam_minibatches": "Adam, minibatches",
    "lbfgs": "L-BFGS",
    "curvature": "Somax",
}


class ProblemTable(Table):
    """A data set and a network."""

    data: Literal["digits", "mnist-10k", "fashion-mnist", "cifar-10"]
    hidden: list[Positive]
    seconds: float  # of each trainer
    full_batch: bool = False  # whether Gauss–Newton is run on all rows, too
    optional: bool = False  # left out where the data are not there


class Config(ClaimConfig):
    """Which problems, which hyperparameters."""

    moments: Positive
    weight_decay: float  # of a second Gauss–Newton on minibatches
    adam_rates: list[float]
    somax: list[str]  # of `with_curvature.SETTINGS`
    problems: list[ProblemTable]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each problem and seed; before them one for every family that is tuned."""
    if config.somax and with_curvature.PEERS[0].missing():
        print(with_curvature.PEERS[0].missing(), file=sys.stderr)
    for table in config.problems:
        if table.optional and is_missing(table.data, folder):
            continue
        name = f"{table.data}-{len(table.hidden)}"
        # A choice is made once in a process, and again where a killed one goes on.
        trials = lru_cache(partial(tune, config, table, folder))
        for family in families(config):
            yield Piece(f"{name}-tuning-{family}", partial(trials, family))
        for seed in range(config.seeds):
            yield Piece(f"{name}-{seed}", partial(measure, config, table, folder, trials, seed))


def is_missing(name: str, folder: str) -> bool:
    """Whether a data set is not there; says how to get it."""
    try:
        load(name, folder)
    except MissingData as error:
        print(error, file=sys.stderr)
        return True
    return False


def families(config: Config) -> list[str]:
    """What is tuned: Adam, and Somax where it is wanted and installed."""
    return ["adam_minibatches", *(["curvature"] if config.somax and not with_curvature.PEERS[0].missing() else [])]


@lru_cache(maxsize=1)
def task(name: str, folder: str, hidden: tuple[int, ...], dtype: str) -> tuple[jills.Network, Any]:
    """The network for a data set and the problem, `key → (params, batch, metrics)`."""
    dataset = load(name, folder)
    sizes = (dataset.train.inputs.shape[1], *hidden, dataset.train.targets.shape[1])
    network = jills.Network(sizes, jills.activations.relu)
    return network, problems.fixed_problem(network, LOSS, dtype, dataset)


def prepare(config: Config, table: ProblemTable, folder: str, key: jax.Array) -> Place:
    """The problem with the start of a key."""
    network, problem = task(table.data, folder, tuple(table.hidden), config.dtype)
    return Place(network, problem, key, *problem(key)[:2])


def tune(config: Config, table: ProblemTable, folder: str, family: str) -> list[Row]:
    """The rows of every setting of a family from the start for tuning."""
    place = prepare(config, table, folder, jax.random.fold_in(jax.random.key(config.seed), TUNING))
    return record(config, table, place, candidates(place, family, config.adam_rates, config.somax), TUNING)


def measure(config: Config, table: ProblemTable, folder: str, trials: Callable[[str], list[Row]], seed: int):
    """The rows of all trainers from one start, the tuned ones at the setting with the lowest final training loss."""
    place = prepare(config, table, folder, keys_of(config)[seed])
    trainers = untuned(place, table.full_batch, config.weight_decay)
    for family in families(config):
        ends = {row["setting"]: row["loss"] for row in trials(family)}  # the last moment comes last
        best = min(ends, key=lambda setting: diverged_last(ends[setting]))
        settings = candidates(place, family, config.adam_rates, config.somax)
        trainers += [each for each in settings if each.setting == best]
    return record(config, table, place, trainers, seed)


def record(config: Config, table: ProblemTable, place: Place, trainers: list[Trainer], seed: int) -> list[Row]:
    """The rows of some trainers from one start, with what was trained."""
    known = {"data": table.data, "depth": len(table.hidden), "hidden": "-".join(map(str, table.hidden))}
    known |= {"tuning": seed == TUNING}
    return [known | row for trainer in trainers for row in run(trainer, place, table.seconds, config.moments, seed)]


def style(name: str) -> dict[str, Any]:
    """Gauss–Newton has one colour, and on minibatches a line of its own."""
    if name in ("gauss_newton_minibatches", "gauss_newton_decay"):
        line, mark = ("-", "o") if name == "gauss_newton_minibatches" else (":", "<")
        return figures.style("gauss_newton") | {"linestyle": line, "marker": mark}
    return figures.style(name)


def draw(table: pd.DataFrame) -> Figure:
    """Training loss above, test accuracy below, against seconds: a column per data set, of its deepest network."""
    measured = table.loc[~table["tuning"].astype(bool)]
    names = list(measured["data"].unique())
    figure, panels = figures.subplots(2, len(names), figsize=(3.5 * len(names) + 0.6, 6.4), sharex="col")
    for column, data in enumerate(names):
        part = measured.loc[(measured["data"] == data) & (measured["epochs"] > 0)]
        part = part.loc[part["depth"] == part["depth"].max()]
        for name, each in part.groupby("algorithm", sort=False):
            draw_trainer(panels[:, column], str(name), each)
        ends = part[part["step"] == part["step"].max()].groupby("algorithm")["test_accuracy"].median()
        best = part["test_accuracy"].max()
        low = min(best - 0.1, ends.min() - 0.02)  # where every trainer ends must be seen
        panels[0, column].set(xscale="log", yscale="log", title=f"{data}, hidden {part['hidden'].iloc[0]}")
        panels[1, column].set(xlabel="seconds, without compilation", ylim=(low, best + 0.01))
    panels[0, 0].set_ylabel("training loss (cross-entropy)")
    panels[1, 0].set_ylabel("test accuracy")
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=3)
    return figure


def draw_trainer(panels: np.ndarray, name: str, part: pd.DataFrame) -> None:
    """Medians over seeds with the band between the quartiles."""
    for panel, measure in zip(panels, ("loss", "test_accuracy"), strict=True):
        draw_curve(panel, part, measure, "seconds", label=NAMES[name], **style(name))
        panel.grid(alpha=0.3)


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per problem and trainer: its setting, final training loss, test accuracy, and what was tried."""
    rows, by = [], ["data", "hidden", "algorithm"]
    ends = table.loc[table["step"] == table["step"].max()]
    is_trial = ends["tuning"].astype(bool)
    trials = dict(list(ends.loc[is_trial].groupby(by, sort=False)))
    highest: Any = table.loc[~table["tuning"].astype(bool)].groupby([*by, "seed"])["test_accuracy"].max()
    for group, part in ends.loc[~is_trial].groupby(by, sort=False):
        data, hidden, name = map(str, group)  # pyright: ignore[reportArgumentType] a tuple of three
        row = {"data": data, "hidden layers": hidden, "trainer": NAMES[name]}
        row |= {"setting": " or ".join(map(str, part["setting"].dropna().unique()))}
        row |= {"final training loss": show_interval(part["loss"])}
        row |= {"best test accuracy": percentages(highest.loc[data, hidden, name])}
        row |= {"final test accuracy": percentages(part["test_accuracy"])}
        row["tried: training loss, accuracy"] = show_trials(trials[group]) if group in trials else ""
        rows.append(row | {"epochs": f"{part['epochs'].median():.3g}"})
    return pd.DataFrame(rows)


def show_trials(ends: pd.DataFrame) -> str:
    """Every setting with its final training loss and test accuracy, as text."""
    columns = (ends["setting"], ends["loss"], ends["test_accuracy"])
    return "; ".join(f"{name}: {loss:.2g}, {100 * share:.1f} %" for name, loss, share in zip(*columns, strict=True))


def percentages(shares: Any) -> str:
    """A median with its interval, as text: `96.1 % (95.8–96.4)`."""
    low, middle, high = (100 * share for share in median_interval(shares))
    return f"{middle:.1f} % ({low:.1f}–{high:.1f})"


EXPERIMENT = Experiment("images", Config, pieces, draw, summarize)
