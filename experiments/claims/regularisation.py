"""Does a network that chooses its own regularisation choose well?

Tables with noise, random splits of which a tenth is tested, the same for all methods. Every method of jills is the mean
of as many networks; no number is chosen by a table's test rows:

* evidence, with one α, and with one for each input column;
* Gauss–Newton without regularisation; with a stop by a fifth of its training rows; with the weight decay that has the
  lowest out-of-fold error in five folds;
* scikit-learn: ridge regression (by cross-validation); its MLP as it comes, and with lbfgs and the best of four
  alphas; gradient boosting as it comes, and the best of eight settings; a Gaussian process with a length an input.

Evidence and the Gaussian process tell the distribution of a target themselves. The others are given a Gaussian with the
mean square of residuals on rows that they were not trained on (validation rows, or five folds), to which ensembles of
networks add their spread. Seconds are of fitting one split, compilation apart.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

import jills
from experiments import data, figures
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row
from experiments.claims.statistics import parts
from experiments.config import Positive
from experiments.data.splits import shuffled

SERIES = ("sunspots", "electricity")  # split by time
HELD_OUT = 0.2  # of the training rows, for validation
FOLDS = 5
MOST_LENGTHS, MOST_KERNEL_ROWS = 20, 1000  # of the Gaussian process: its gradient is rows² × lengths numbers
NAMES = {
    "evidence": "evidence",
    "evidence_by_input": "evidence, an α for each input",
    "no_regularisation": "Gauss–Newton, no regularisation",
    "validation": "Gauss–Newton, validation stop",
    "decay": "Gauss–Newton, decay by folds",
    "ridge": "ridge regression",
    "mlp": "MLP as it comes",
    "mlp_lbfgs": "MLP, lbfgs, alpha by folds",
    "boosting": "boosting as it comes",
    "boosting_tuned": "boosting, tuned by folds",
    "gaussian_process": "Gaussian process",
}


class Config(ClaimConfig):
    """Which data, which methods, for how long."""

    tables: list[str]
    members: Positive  # of every ensemble of networks
    hidden: list[Positive]
    steps: Positive
    newton_steps: Positive
    patience: Positive
    weight_decay: list[float]
    methods: list[str]
    most_rows: Positive  # to train on, and to test on, drawn at random where a table has more
    splits_of_tables: dict[str, Positive] = {}  # where they are fewer than `seeds`
    splits_of_methods: dict[str, Positive] = {}  # likewise, of methods that take long


class Split(NamedTuple):
    """Standardised by the training rows; NumPy."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    unit: float  # of the targets
    number: int


class Told(NamedTuple):
    """What a method says of the test rows."""

    mean: np.ndarray  # (n,)
    log_density: np.ndarray  # (n,) of the targets
    quantiles: np.ndarray  # (4, n) at LEVELS


LEVELS = np.array([0.05, 0.25, 0.75, 0.95])


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each table and method."""
    for table in config.tables:
        for method in config.methods:
            yield Piece(f"{table}-{method}", partial(measure, config, table, method, folder))


def count_of(config: Config, table: str, method: str) -> int:
    """How many splits are measured."""
    most = config.splits_of_tables.get(table), config.splits_of_methods.get(method)
    return min([config.seeds, *(count for count in most if count is not None)])


def split_of(config: Config, table: str, number: int, folder: str) -> Split:
    """Random, but that of a series is its own: later rows are tested. Of many rows some, drawn anew each time."""
    options: dict[str, Any] = {} if table in SERIES else {"test_fraction": 0.1, "split_seed": number}
    dataset = data.load(table, folder, **options)
    train, test = (
        shuffled(part, number).take(slice(config.most_rows)) if len(part.rows) > config.most_rows else part
        for part in (dataset.train, dataset.test)
    )
    arrays = (np.asarray(each, config.dtype) for each in (train.inputs, train.targets, test.inputs, test.targets))
    return Split(*arrays, float(np.ravel(dataset.target_scale)[0]), number)


def measure(config: Config, table: str, method: str, folder: str) -> list[Row]:
    """A method on all splits of a table."""
    rows = []
    for number in range(count_of(config, table, method)):
        split = split_of(config, table, number, folder)
        unit = split.unit
        if number == 0 and method in NETWORKS:  # compiles
            METHODS[method](config, split)
        began = time.perf_counter()
        told = METHODS[method](config, split)
        seconds = time.perf_counter() - began
        truth = split.test_targets[:, 0]
        inside = [
            np.mean((low <= truth) & (truth <= high))
            for low, high in zip(told.quantiles[1::-1], told.quantiles[2:], strict=True)
        ]
        row = {"data": table, "method": method, "seed": number, "seconds": seconds}
        row |= {"rmse": unit * np.sqrt(np.mean((told.mean - truth) ** 2))}
        row |= {"log_likelihood": np.mean(told.log_density) - np.log(unit)}
        rows.append(row | {"within_50": inside[0], "within_90": inside[1]})
    return rows


def network_of(config: Config, split: Split) -> jills.Network:
    """One output, tanh."""
    return jills.Network((split.inputs.shape[1], *config.hidden, 1), jills.activations.tanh)


def starts(config: Config, split: Split) -> tuple[Any, jax.Array]:
    """A problem for `batches=`, and its keys."""
    network = network_of(config, split)
    start = jax.tree_util.Partial(partial(_start, network, config.dtype))
    return start, jax.random.split(jax.random.key(config.seed + split.number), config.members)


def _start(network, dtype, key):
    return network.init(key, dtype)


def by_evidence(prior: Any, config: Config, split: Split) -> Told:
    """The mixture of the networks' own predictions."""
    algorithm = jills.evidence.build(network_of(config, split), prior=prior)
    batch = jills.Batch(split.inputs, split.targets)
    start, keys = starts(config, split)
    result = jills.sweep(algorithm, algorithm.defaults, start, keys, config.steps, 20, batches=batch)
    told = _predicted(algorithm, jax.tree.map(lambda leaf: leaf[0], result.state), batch, split.test_inputs)
    quantiles = told.quantiles(LEVELS)[:, :, 0]
    return Told(*map(np.asarray, (told.mean[:, 0], told.log_density(jnp.asarray(split.test_targets))[:, 0], quantiles)))


@partial(jax.jit, static_argnums=0)
def _predicted(algorithm, states, batch, inputs):
    return jills.ensemble(jax.vmap(lambda state: jills.evidence.predict(algorithm, state, batch, inputs))(states))


def gaussian(mean: np.ndarray, variance: Any, split: Split) -> Told:
    """A Gaussian about the mean."""
    deviation = np.sqrt(np.broadcast_to(variance, mean.shape))
    quantiles = stats.norm.ppf(LEVELS[:, None], mean[None], deviation[None])
    return Told(mean, stats.norm.logpdf(split.test_targets[:, 0], mean, deviation), quantiles)


def newton(config: Config, split: Split, decays: list[float], steps: int, batch: jills.Batch, **options: Any):
    """A sweep of Gauss–Newton over weight decays."""
    algorithm = jills.gauss_newton.build(network_of(config, split))
    start, keys = starts(config, split)
    hparams = jills.gauss_newton.Hparams(weight_decay=jnp.asarray(decays, config.dtype))
    return jills.sweep(algorithm, hparams, start, keys, steps, 20, batches=batch, **options)


def predictions(config: Config, split: Split, params: Any, inputs: np.ndarray) -> np.ndarray:
    """Of networks whose params lead with `[M]`, `(M, n)`."""
    network = network_of(config, split)
    return np.asarray(jax.vmap(network.predict, in_axes=(0, None))(params, jnp.asarray(inputs)))[:, :, 0]


def together(config: Config, split: Split, params: Any, residual: float) -> Told:
    """The mean of networks, with their spread and a mean square residual of rows that they do not know."""
    each = predictions(config, split, params, split.test_inputs)
    return gaussian(np.mean(each, axis=0), np.var(each, axis=0) + residual, split)


def unregularised(config: Config, split: Split) -> Told:
    """The residual is that of the training rows: nothing else is known."""
    batch = jills.Batch(split.inputs, split.targets)
    result = newton(config, split, [0.0], config.newton_steps, batch)
    residual = float(np.mean(np.asarray(result.state.loss)))
    return together(config, split, jax.tree.map(lambda leaf: leaf[0], result.state.params), residual)


def stopped(config: Config, split: Split) -> Told:
    """Each network keeps the parameters of its lowest validation loss."""
    count = round(HELD_OUT * len(split.inputs))
    held, used = slice(-count, None), slice(None, -count)  # of a series the latest rows
    batch = jills.Batch(split.inputs[used], split.targets[used])
    validation = jills.Batch(split.inputs[held], split.targets[held])
    options: dict[str, Any] = {"validation": validation, "patience": config.patience}
    result = newton(config, split, [0.0], config.newton_steps, batch, **options)
    params = jax.tree.map(lambda leaf: leaf[0], result.state.best_params)
    each = np.mean(predictions(config, split, params, split.inputs[held]), axis=0)
    return together(config, split, params, float(np.mean((each - split.targets[held, 0]) ** 2)))


def decayed(config: Config, split: Split) -> Told:
    """The decay of the lowest error in five folds, two networks for each, then trained on all rows."""
    n, repeats = len(split.inputs), max(1, config.members // FOLDS)
    weights = np.tile(np.asarray(jills.folds(jax.random.key(split.number), n, FOLDS), config.dtype), (repeats, 1))
    algorithm_config = config.model_copy(update={"members": len(weights)})
    batch = jills.Batch(split.inputs, split.targets, weights)
    folded = newton(algorithm_config, split, config.weight_decay, config.newton_steps, batch)
    errors = []
    for place in range(len(config.weight_decay)):
        each = predictions(
            config, split, jax.tree.map(lambda leaf, at=place: leaf[at], folded.state.params), split.inputs
        )
        unseen = np.sum(np.where(weights == 0, each, 0.0), axis=0) / repeats
        errors.append(np.mean((unseen - split.targets[:, 0]) ** 2))
    best = int(np.argmin(errors))
    whole = newton(
        config, split, [config.weight_decay[best]], config.newton_steps, jills.Batch(split.inputs, split.targets)
    )
    return together(config, split, jax.tree.map(lambda leaf: leaf[0], whole.state.params), float(errors[best]))


def by_folds(model: Callable[[Split], Any], config: Config, split: Split) -> Told:
    """A model of scikit-learn, with the mean square residual of five folds."""
    del config
    # One thread: those of boosting wait for each other where JAX's are about.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of iterations that did not converge
        fitted = model(split).fit(split.inputs, split.targets[:, 0])
        chosen = getattr(fitted, "best_estimator_", fitted)
        unseen = cross_val_predict(chosen, split.inputs, split.targets[:, 0], cv=FOLDS)
    residual = np.mean((unseen - split.targets[:, 0]) ** 2)
    return gaussian(fitted.predict(split.test_inputs), residual, split)


def ridge(split: Split) -> Any:
    """Its alpha by leave-one-out."""
    return RidgeCV(np.geomspace(1e-2, 1e3, 11))


def mlp(split: Split) -> Any:
    """Adam, 100 units, as scikit-learn has it."""
    return MLPRegressor(random_state=split.number, max_iter=500)


def mlp_lbfgs(split: Split) -> Any:
    """50 tanh units, lbfgs, alpha by folds."""
    options: dict[str, Any] = {"hidden_layer_sizes": (50,), "activation": "tanh", "solver": "lbfgs"}
    model = MLPRegressor(**options, max_iter=1000, random_state=split.number)
    return GridSearchCV(model, {"alpha": [0.1, 1.0, 10.0, 30.0]}, cv=FOLDS)


def boosting(split: Split) -> Any:
    """As scikit-learn has it."""
    return HistGradientBoostingRegressor(random_state=split.number)


def boosting_tuned(split: Split) -> Any:
    """Rate, leaves and trees by folds."""
    grid = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [7, 31], "max_iter": [200, 600]}
    return GridSearchCV(boosting(split), grid, cv=FOLDS)


def gaussian_process(config: Config, split: Split) -> Told:
    """A length for each input, or one where they are many, and a noise level, by the marginal likelihood.

    Of many rows the kernel is chosen by some; then all are fitted.
    """
    del config
    inputs, targets = split.inputs, split.targets[:, 0]
    lengths: Any = np.ones(inputs.shape[1] if inputs.shape[1] <= MOST_LENGTHS else 1)
    kernel = ConstantKernel(1.0) * RBF(lengths) + WhiteKernel(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths at their bounds
        some = slice(MOST_KERNEL_ROWS)
        fitted = GaussianProcessRegressor(kernel, random_state=split.number).fit(inputs[some], targets[some])
        if len(targets) > MOST_KERNEL_ROWS:
            fitted = GaussianProcessRegressor(fitted.kernel_, optimizer=None).fit(inputs, targets)
        told: Any = fitted.predict(split.test_inputs, return_std=True)
    mean, deviation = told
    return gaussian(mean, deviation**2, split)


NETWORKS: dict[str, Callable[[Config, Split], Told]] = {
    "evidence": partial(by_evidence, jills.evidence.one_group),
    "evidence_by_input": partial(by_evidence, jills.evidence.by_input),
    "no_regularisation": unregularised,
    "validation": stopped,
    "decay": decayed,
}
METHODS = NETWORKS | {
    "ridge": partial(by_folds, ridge),
    "mlp": partial(by_folds, mlp),
    "mlp_lbfgs": partial(by_folds, mlp_lbfgs),
    "boosting": partial(by_folds, boosting),
    "boosting_tuned": partial(by_folds, boosting_tuned),
    "gaussian_process": gaussian_process,
}
MEASURES = {
    "rmse": "test RMSE, over that of evidence",
    "log_likelihood": "log-likelihood, less that of evidence, in nats",
    "within_90": "share of the test rows in 90 % intervals",
}


def draw(table: pd.DataFrame) -> Figure:
    """A column for each measure, a line for each table and method: means over splits with standard errors."""
    methods, tables = list(table["method"].unique()), list(table["data"].unique())
    figure, panels = figures.subplots(1, len(MEASURES), figsize=(4.4 * len(MEASURES), 1.2 + 0.42 * len(methods)))
    for panel, (measure, title) in zip(panels[0], MEASURES.items(), strict=True):
        wide = table.pivot_table(index=["data", "seed"], columns="method", values=measure)
        for shift, name in enumerate(tables):
            values = wide.loc[name]
            if measure == "rmse":
                values = values.div(values["evidence"].mean())
            elif measure == "log_likelihood":
                values = values.sub(values["evidence"], axis=0).clip(lower=-2.0)
            places = np.arange(len(methods)) + 0.16 * (shift - 0.5 * (len(tables) - 1))
            middle, error = values[methods].mean(), values[methods].sem().fillna(0.0)
            panel.errorbar(middle, places, xerr=error, linestyle="", marker="o", markersize=4, label=name)
        reference = {"rmse": 1.0, "log_likelihood": 0.0, "within_90": 0.9}[measure]
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
    """Means over splits, with the standard error of the RMSE."""
    rows = []
    for (name, method), part in parts(table, "data", "method"):
        error = part["rmse"].sem() if len(part) > 1 else 0.0
        row = {"data": name, "method": NAMES[method], "test RMSE": f"{part['rmse'].mean():.3g} ± {error:.2g}"}
        row |= {"log-likelihood": f"{part['log_likelihood'].mean():.3g}"}
        row |= {"in 50 %": f"{part['within_50'].mean():.2f}", "in 90 %": f"{part['within_90'].mean():.2f}"}
        rows.append(row | {"seconds": f"{part['seconds'].median():.2g}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("regularisation", Config, pieces, draw, summarize)
