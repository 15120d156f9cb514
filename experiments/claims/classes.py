"""Does a network that chooses its own regularisation choose well among classes?

Random splits of which a tenth is tested, the same for all methods. Every method of jills is the mean of the
probabilities of as many networks with the cross-entropy of a softmax; no number is chosen by test rows:

* evidence: its probabilities at the mode, and the "moderated" ones, which average over the uncertain logits;
* Gauss–Newton without regularisation, and with a stop by a fifth of its training rows;
* scikit-learn: logistic regression, its C by five folds; its MLP as it comes, and with lbfgs, the units of the networks
  and the best of four alphas by folds; gradient boosting as it comes, and the best of four settings by folds.

Folds choose by log loss. Log loss is the mean of −log p of the true class, in nats, with p at least 1e-7, for all
alike. Seconds are of fitting one split, compilation apart.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import jills
from experiments import data, figures
from experiments.claims import fitting
from experiments.claims.base import Experiment, Piece, Row
from experiments.claims.fitting import FitConfig, Split, count_of, first, newton, pieces_of, timed
from experiments.claims.statistics import parts, where

LOSS = jills.losses.softmax_cross_entropy
LEAST = 1e-7  # probability that counts
FOLDS = 3
NAMES = {
    "evidence": "evidence",
    "moderated": "evidence, moderated",
    "no_regularisation": "Gauss–Newton, no regularisation",
    "validation": "Gauss–Newton, validation stop",
    "logistic": "logistic regression",
    "mlp": "MLP as it comes",
    "mlp_lbfgs": "MLP, lbfgs, alpha by folds",
    "boosting": "boosting as it comes",
    "boosting_tuned": "boosting, tuned by folds",
}
Told = dict[str, np.ndarray]  # key of NAMES → probabilities of the test rows, (n, k)


def pieces(config: FitConfig, folder: str) -> Iterator[Piece]:
    """One for each table and method."""
    return pieces_of(config, folder, measure)


def measure(config: FitConfig, table: str, method: str, folder: str) -> list[Row]:
    """A method on all splits of a table."""
    rows = []
    for number in range(count_of(config, table, method)):
        dataset = data.load(table, folder, test_fraction=0.1, split_seed=number)
        split = Split.of(dataset.train, dataset.test, config.dtype, number)
        told, seconds = timed(METHODS, NETWORKS, method, config, split)
        for name, probabilities in told.items():
            row = {"data": table, "method": name, "seed": number, "seconds": seconds}
            rows.append(row | scores(probabilities, np.argmax(split.test_targets, axis=1)))
    return rows


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and log loss of probabilities `(n, k)` for the true classes `(n,)`."""
    own = probabilities[np.arange(len(labels)), labels].astype(float)
    right = np.argmax(probabilities, axis=1) == labels
    return {"accuracy": float(np.mean(right)), "log_loss": float(-np.mean(np.log(np.maximum(own, LEAST))))}


def by_evidence(config: FitConfig, split: Split) -> Told:
    """Both kinds of probabilities, from one fit."""
    told = fitting.evidence(config, split, LOSS)
    return {"evidence": np.asarray(told.mean), "moderated": np.mean(np.asarray(told.members.moderated), axis=0)}


def together(name: str, config: FitConfig, split: Split, params: Any) -> Told:
    """The mean of the networks' probabilities."""
    each = jax.nn.softmax(fitting.outputs(config, split, params, split.test_inputs), axis=-1)
    return {name: np.mean(np.asarray(each), axis=0)}


def unregularised(config: FitConfig, split: Split) -> Told:
    """All rows, all steps."""
    result = newton(config, split, [0.0], jills.Batch(split.inputs, split.targets), LOSS)
    return together("no_regularisation", config, split, first(result.state.params))


def stopped(config: FitConfig, split: Split) -> Told:
    """Each network keeps the parameters of its lowest validation loss."""
    return together("validation", config, split, fitting.stopped(config, split, LOSS)[0])


def by_sklearn(name: str, model: Callable[[FitConfig, Split], Any], config: FitConfig, split: Split) -> Told:
    """A model of scikit-learn."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of iterations that did not converge, and of options that will change
        fitted = model(config, split).fit(split.inputs, np.argmax(split.targets, axis=1))
    return {name: fitted.predict_proba(split.test_inputs)}


def logistic(config: FitConfig, split: Split) -> Any:
    """Its C by folds."""
    del config
    return LogisticRegressionCV(Cs=10, cv=FOLDS, scoring="neg_log_loss", max_iter=500, random_state=split.number)


def mlp(config: FitConfig, split: Split) -> Any:
    """Adam, 100 units, as scikit-learn has it."""
    del config
    return MLPClassifier(random_state=split.number, max_iter=500)


def mlp_lbfgs(config: FitConfig, split: Split) -> Any:
    """The units of the networks, tanh, lbfgs, alpha by folds."""
    options: dict[str, Any] = {"hidden_layer_sizes": tuple(config.hidden), "activation": "tanh", "solver": "lbfgs"}
    model = MLPClassifier(**options, max_iter=500, random_state=split.number)
    return GridSearchCV(model, {"alpha": [0.1, 1.0, 10.0, 30.0]}, cv=FOLDS, scoring="neg_log_loss")


def boosting(config: FitConfig, split: Split) -> Any:
    """As scikit-learn has it."""
    del config
    return HistGradientBoostingClassifier(random_state=split.number)


def boosting_tuned(config: FitConfig, split: Split) -> Any:
    """Leaves and rate by folds, 100 trees a class."""
    grid = {"learning_rate": [0.05, 0.2], "max_leaf_nodes": [7, 31]}
    return GridSearchCV(boosting(config, split), grid, cv=FOLDS, scoring="neg_log_loss")


NETWORKS: dict[str, Callable[[Any, Split], Told]] = {
    "evidence": by_evidence,
    "no_regularisation": unregularised,
    "validation": stopped,
}
MODELS = {
    "logistic": logistic,
    "mlp": mlp,
    "mlp_lbfgs": mlp_lbfgs,
    "boosting": boosting,
    "boosting_tuned": boosting_tuned,
}
METHODS = NETWORKS | {name: partial(by_sklearn, name, model) for name, model in MODELS.items()}
MEASURES = {"accuracy": "test accuracy", "log_loss": "test log loss, nats"}


def draw(table: pd.DataFrame) -> Figure:
    """A row of panels for each table: means over splits with standard errors, a line for each method."""
    methods, tables = list(table["method"].unique()), list(table["data"].unique())
    size = (4.4 * len(MEASURES) + 2, len(tables) * (0.8 + 0.3 * len(methods)))
    figure, panels = figures.subplots(len(tables), len(MEASURES), figsize=size)
    for line, name in zip(panels, tables, strict=True):
        for panel, (measured, title) in zip(line, MEASURES.items(), strict=True):
            for place, method in enumerate(methods):
                values = where(table, data=name, method=method)[measured]
                error = values.sem() if len(values) > 1 else 0.0
                colour = "#009E73" if method in ("evidence", "moderated") else "#000000"
                panel.errorbar(values.mean(), place, xerr=error, marker="o", markersize=4, color=colour)
            panel.set(xlabel=title, title=name, yticks=np.arange(len(methods)))
            panel.set_yticklabels([NAMES[method] for method in methods] if panel is line[0] else [])
            panel.invert_yaxis()
            panel.grid(alpha=0.3)
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Means over splits, with their standard errors."""
    rows = []
    for (name, method), part in parts(table, "data", "method"):
        row: Row = {"data": name, "method": NAMES[method], "splits": len(part)}
        for measured, text in MEASURES.items():
            error = f" ± {part[measured].sem():.1g}" if len(part) > 1 else ""
            row[text] = f"{part[measured].mean():.3f}{error}"
        rows.append(row | {"seconds": f"{part['seconds'].median():.2g}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("classes", FitConfig, pieces, draw, summarize)
