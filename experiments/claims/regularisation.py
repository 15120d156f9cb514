"""Does a network that chooses its own regularisation choose well?

Tables with noise, random splits of which a tenth is tested, the same for all methods. Series are split by time, and of
large tables some rows are drawn, to train on and to test on. Every method of jills is the mean
of as many networks; no number is chosen by a table's test rows:

* evidence with one α for all parameters; and `NetworkRegressor` as it comes: evidence with one for each input column;
* Gauss–Newton without regularisation; with a stop by a fifth of its training rows; with the weight decay that has the
  lowest out-of-fold error in five folds; with the decay of the largest marginal likelihood, by the package laplax;
* scikit-learn: ridge regression (by cross-validation); its MLP as it comes, and with lbfgs and the best of four
  alphas; gradient boosting as it comes, and the best of four settings; a Gaussian process with a length an input.

Evidence and the Gaussian process tell the distribution of a target themselves. The others are given a Gaussian with the
mean square of residuals on rows that they were not trained on (validation rows, or five folds), to which ensembles of
networks add their spread. Seconds are of fitting one split, compilation apart.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import data, figures
from experiments.claims.base import Experiment, Piece, Row
from experiments.claims.fitting import Split, count_of, pieces_of, timed
from experiments.claims.laplace import by_laplax
from experiments.claims.regressors import MODELS, NETWORKS, Config
from experiments.claims.statistics import parts
from experiments.data.splits import shuffled

COMPILED = NETWORKS | {"laplace": by_laplax}
SERIES = ("sunspots", "electricity")  # split by time
NAMES = {
    "evidence": "evidence",
    "estimator": "NetworkRegressor as it comes",
    "no_regularisation": "Gauss–Newton, no regularisation",
    "validation": "Gauss–Newton, validation stop",
    "decay": "Gauss–Newton, decay by folds",
    "laplace": "Gauss–Newton, decay by laplax",
    "ridge": "ridge regression",
    "mlp": "MLP as it comes",
    "mlp_lbfgs": "MLP, lbfgs, alpha by folds",
    "boosting": "boosting as it comes",
    "boosting_tuned": "boosting, tuned by folds",
    "gaussian_process": "Gaussian process",
}


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each table and method."""
    return pieces_of(config, folder, measure)


def split_of(config: Config, table: str, number: int, folder: str) -> Split:
    """Random, but that of a series is its own: later rows are tested. Of many rows some, drawn anew each time."""
    options: dict[str, Any] = {} if table in SERIES else {"test_fraction": 0.1, "split_seed": number}
    dataset = data.load(table, folder, **options)
    train, test = (
        shuffled(part, number).take(slice(config.most_rows)) if len(part.rows) > config.most_rows else part
        for part in (dataset.train, dataset.test)
    )
    return Split.of(train, test, config.dtype, number, float(np.ravel(dataset.target_scale)[0]))


def measure(config: Config, table: str, method: str, folder: str) -> list[Row]:
    """A method on all splits of a table."""
    rows = []
    for number in range(count_of(config, table, method)):
        split = split_of(config, table, number, folder)
        told, seconds = timed(COMPILED | MODELS, COMPILED, method, config, split)
        truth = split.test_targets[:, 0]
        inside = [
            np.mean((low <= truth) & (truth <= high))
            for low, high in zip(told.quantiles[1::-1], told.quantiles[2:], strict=True)
        ]
        row = {"data": table, "method": method, "seed": number, "seconds": seconds}
        row |= {"rmse": split.unit * np.sqrt(np.mean((told.mean - truth) ** 2))}
        row |= {"log_likelihood": np.mean(told.log_density) - np.log(split.unit)}
        rows.append(row | {"within_50": inside[0], "within_90": inside[1]})
    return rows


MEASURES = {  # title, what evidence has or intervals should, what is drawn at the edge
    "rmse": ("test RMSE, over that of evidence", 1.0, 0.0, 3.0),
    "log_likelihood": ("log-likelihood, less that of evidence, in nats", 0.0, -2.0, np.inf),
    "within_90": ("share of the test rows in 90 % intervals", 0.9, 0.0, 1.0),
}


def beside_evidence(table: pd.DataFrame) -> pd.DataFrame:
    """Every row against evidence on the same splits: its RMSE over their mean, its log-likelihood less that.

    Means of `rmse` are ratios of means; their standard errors are those of the difference, split by split.
    """
    own = pd.DataFrame(table[table["method"] == "evidence"])
    both = table.merge(own[["data", "seed", "rmse", "log_likelihood"]], on=["data", "seed"], suffixes=("", "_evidence"))
    usual = both.groupby(["data", "method"])["rmse_evidence"].transform("mean")
    return both.assign(
        rmse=1.0 + (both["rmse"] - both["rmse_evidence"]) / usual,
        log_likelihood=both["log_likelihood"] - both["log_likelihood_evidence"],
    )


def draw(table: pd.DataFrame) -> Figure:
    """A column for each measure, a line for each table and method: means over splits with standard errors."""
    methods, tables = list(table["method"].unique()), list(table["data"].unique())
    both = beside_evidence(table)
    size = (4.4 * len(MEASURES), 1.2 + 0.06 * (4 + len(tables)) * len(methods))
    figure, panels = figures.subplots(1, len(MEASURES), figsize=size)
    for panel, (measure, (title, reference, low, high)) in zip(panels[0], MEASURES.items(), strict=True):
        wide = both.pivot_table(index=["data", "seed"], columns="method", values=measure)
        for shift, name in enumerate(tables):
            values = wide.loc[name].reindex(columns=methods)
            places = np.arange(len(methods)) + 0.8 * ((shift + 0.5) / len(tables) - 0.5)
            middle, error = values.mean(), values.sem().fillna(0.0)  # of one split no error is known
            panel.errorbar(
                middle.clip(low, high), places, xerr=error, linestyle="", marker="o", markersize=3, label=name
            )
        panel.axvline(reference, color="black", linewidth=0.8)
        panel.set(xlabel=title, yticks=np.arange(len(methods)))
        panel.set_yticklabels([NAMES[method] for method in methods] if panel is panels[0, 0] else [])
        panel.invert_yaxis()
        panel.grid(alpha=0.3)
    panels[0, 0].set_xlim(right=min(panels[0, 0].get_xlim()[1], 3.0))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(tables))
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Means over splits, with standard errors."""
    ratios = {key: part["rmse"] for key, part in parts(beside_evidence(table), "data", "method")}
    rows = []
    for (name, method), part in parts(table, "data", "method"):
        row = {"data": name, "method": NAMES[method], "splits": len(part)}
        row |= {"test RMSE": show(part["rmse"], ".3g"), "over evidence": show(ratios[name, method], ".2f")}
        row |= {"log-likelihood": f"{part['log_likelihood'].mean():.3g}"}
        row |= {"in 50 %": f"{part['within_50'].mean():.2f}", "in 90 %": f"{part['within_90'].mean():.2f}"}
        rows.append(row | {"seconds": f"{part['seconds'].median():.2g}"})
    return pd.DataFrame(rows)


def show(values: Any, digits: str) -> str:
    """A mean with its standard error, which of one split is not known, and of evidence over itself is zero."""
    error = f" ± {values.sem():.2g}" if len(values) > 1 and values.sem() > 0 else ""
    return f"{values.mean():{digits}}{error}"


EXPERIMENT = Experiment("regularisation", Config, pieces, draw, summarize)
