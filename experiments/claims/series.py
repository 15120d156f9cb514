"""Real series, a forecast each: do networks beat persistence, ridge and boosting on later times, and by which training?

Split by time, twice: the last fifth of the training rows validates, the others are what everything is fitted to. Each
method gets the setting and the step whose median validation loss over seeds is lowest ("stopped": early stopping among
the recorded steps, which lie at equal ratios); test losses are looked at only then. "At the end" is the last step with
the same setting. What has no network chooses its own by the same validation rows, and nothing is fitted anew with
them. Losses are mean squares in units of the variance of all training rows. Of electricity only every fifth of the
fitted rows is kept, since a step of ILLS is slow: five has no factor in common with the half hours of a day or week, so
that every time of the day is there. Validation and test keep all rows.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import ParameterGrid
from threadpoolctl import threadpool_limits

import jills
from experiments import figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, compared, keys_of, train
from experiments.claims.drawing import draw_seeds
from experiments.claims.statistics import best_of, parts, show_interval, where
from experiments.config import Positive, Table
from experiments.data import series
from experiments.data.splits import Dataset, Split
from experiments.figures import LOOKS, NAMES

LOADERS = {"sunspots": series.sunspots, "elnino": series.elnino, "electricity": series.electricity}
NETWORKS = ("ills", "gauss_newton", "adam")
BASELINES = {  # colour and line
    "persistence": ("#999999", ":"),
    "ridge regression": (LOOKS["linear"].colour, "-"),
    "boosting": (LOOKS["sklearn"].colour, "--"),
}
FIELDS = ("learning_rate", "ridge", "weight_decay")
VALIDATION = 0.2  # of the training rows
ALPHAS = {"alpha": np.geomspace(1e-3, 1e4, 22).tolist()}


class Series(Table):
    """A series, and what has to fit its size."""

    name: Literal["sunspots", "elnino", "electricity"]
    thin: Positive = 1  # every so manieth of the rows is fitted
    solver: Literal["lstsq", "qr", "cholesky"] = "qr"  # of ILLS
    rho: list[float]  # of ILLS
    ridge: list[float]  # of ILLS
    ills_steps: Positive
    newton_steps: Positive
    adam_steps: Positive


class Config(ClaimConfig):
    """Which series, which hyperparameters."""

    series: list[Series]
    hidden: Positive
    weight_decay: list[float]  # of Gauss–Newton
    adam_rates: list[float]
    boosting: dict[str, list[int | float]]  # lists for arguments of HistGradientBoostingRegressor


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each series and algorithm, and one for what has no network."""
    for one in config.series:
        yield Piece(f"{one.name}-baselines", partial(baselines, config.boosting, one, folder))
        for name in NETWORKS:
            yield Piece(f"{one.name}-{name}", partial(measure, config, one, name, folder))


def splits(one: Series, folder: str) -> tuple[Dataset, Split, Split]:
    """The data set, and its training rows as those to fit to and the later ones to validate with."""
    dataset = LOADERS[one.name](folder)
    num_fitted = len(dataset.train.rows) - round(VALIDATION * len(dataset.train.rows))
    return dataset, dataset.train.take(slice(0, num_fitted, one.thin)), dataset.train.take(slice(num_fitted, None))


def measure(config: Config, one: Series, name: str, folder: str) -> list[Row]:
    """The sweep of one algorithm on one series."""
    dataset, fitted, validation = splits(one, folder)
    network = jills.Network((fitted.inputs.shape[1], config.hidden, 1), jills.activations.tanh)
    problem = problems.held_out_problem(network, config.dtype, fitted, validation, dataset.test)
    solver = getattr(jills.solvers, one.solver)
    plan = compared(network, one.rho, config.adam_rates, one.ridge, config.weight_decay, solver)[name]
    steps = {"ills": one.ills_steps, "gauss_newton": one.newton_steps, "adam": one.adam_steps}[name]
    return train(name, *plan, problem, keys_of(config), steps, series=one.name)


def baselines(boosting: dict[str, list], one: Series, folder: str) -> list[Row]:
    """A row for each forecast without a network, with its setting as text."""
    dataset, fitted, validation = splits(one, folder)
    rows = [best_model("ridge regression", Ridge, ALPHAS, fitted, validation, dataset.test)]
    rows.append(best_model("boosting", HistGradientBoostingRegressor, boosting, fitted, validation, dataset.test))
    naive = np.mean((np.asarray(dataset.persistence) - dataset.test.targets) ** 2)
    rows.append({"algorithm": "persistence", "test_loss": float(naive), "setting": ""})
    return [{"series": one.name, "seed": 0, "step": 0} | row for row in rows]


def best_model(
    name: str,
    kind: type[Ridge] | type[HistGradientBoostingRegressor],
    grid: dict,
    fitted: Split,
    validation: Split,
    test: Split,
) -> Row:
    """The losses of the model that forecasts the validation rows best."""
    found = []
    for setting in ParameterGrid(grid):
        with threadpool_limits(1):  # threads of so small a task wait for one another most of the time
            model = kind(**setting).fit(fitted.inputs, fitted.targets[:, 0])
            guesses = [(model.predict(rows.inputs), rows.targets[:, 0]) for rows in (fitted, validation, test)]
        losses = [np.mean((guess - truth) ** 2) for guess, truth in guesses]
        text = ", ".join(f"{field} {value:.3g}" for field, value in setting.items() if len(grid[field]) > 1)
        found.append([*map(float, losses), text.replace("_", " ")])
    loss, validated, tested, text = min(found, key=lambda each: each[1])
    return {"algorithm": name, "loss": loss, "validation_loss": validated, "test_loss": tested, "setting": text}


def chosen(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each series and algorithm the rows of its best setting: at the step to stop at, and at the end."""
    by, fields = ["series", "algorithm"], [field for field in FIELDS if field in table]
    best = best_of(table, by, [*fields, "step"], "validation_loss")
    stopped = table.merge(best, on=list(best.columns))
    of_best = table.merge(best[[*by, *fields]], on=[*by, *fields])
    ends = of_best.groupby(by)["step"].transform("max")
    return stopped, pd.DataFrame(of_best[of_best["step"] == ends])


def draw(table: pd.DataFrame) -> Figure:
    """A panel per series: test losses where algorithms are stopped and at the end; baselines as lines."""
    stopped, ended = chosen(table)
    names = list(table["series"].unique())
    figure, panels = figures.subplots(1, len(names), figsize=(3.6 * len(names) + 0.8, 4.2))
    for panel, name in zip(panels[0], names, strict=True):
        for (label,), part in parts(where(stopped, series=name), "algorithm"):
            if label in BASELINES:
                color, line = BASELINES[label]
                panel.axhline(part["test_loss"].iloc[0], color=color, linestyle=line, label=label, zorder=1)
        for place, label in enumerate(NETWORKS):
            for shift, rows in ((-0.17, stopped), (0.17, ended)):
                values = where(rows, series=name, algorithm=label)["test_loss"]
                if len(values):
                    draw_seeds(panel, place + shift, values, label, place + shift + 0.09, rows is stopped)
        panel.set_xticks(range(len(NETWORKS)), [NAMES[label] for label in NETWORKS])
        panel.set(yscale="log", title=name, xlim=(-0.5, len(NETWORKS) - 0.5))
        panel.grid(alpha=0.3, which="both", axis="y")
    panels[0, 0].set_ylabel("test loss, in variances of the training rows")
    known = {"color": "black", "linestyle": "", "marker": "o"}
    panels[0, 0].plot([], [], label="stopped by validation", **known)
    panels[0, 0].plot([], [], label="at the last step", fillstyle="none", **known)
    figures.legend(figure, panels[0, 0], len(names) + 2)
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per series and method: losses where it is stopped, the test loss at the end, and what was chosen."""
    stopped, ended = chosen(table)
    rows = []
    for (name, method), part in parts(stopped, "series", "algorithm"):
        row = {"series": name, "method": NAMES.get(method, method), "training": show(part["loss"])}
        row |= {"validation": show(part["validation_loss"]), "test": show(part["test_loss"])}
        end = where(ended, series=name, algorithm=method)["test_loss"]
        row |= {"test at the end": show(end) if method in NETWORKS else ""}
        rows.append(row | {"chosen": setting_of(part.to_dict("records")[0])})
    return pd.DataFrame(rows)


def show(values: Any) -> str:
    """A median with its interval; a single value, or nothing if it is unknown, where there are no seeds."""
    values = np.asarray(values, float)
    if len(values) > 1:
        return show_interval(values)
    return "" if np.isnan(values[0]) else f"{values[0]:.3g}"


def setting_of(row: Row) -> str:
    """The chosen setting and step as text."""
    if row["algorithm"] in BASELINES:
        return row["setting"] if isinstance(row["setting"], str) else ""
    fields = FIELDS[2:] if row["algorithm"] == "gauss_newton" else FIELDS[:2]
    known = [f"{field} {row[field]:g}" for field in fields if np.isfinite(row.get(field, np.nan))]
    return ", ".join([*known, f"step {row['step']}"]).replace("_", " ")


EXPERIMENT = Experiment("series", Config, pieces, draw, summarize)
