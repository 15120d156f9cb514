"""The methods of the claim on regularisation: networks of jills, and what scikit-learn has, for one numeric target.

Each takes the config and a split, and tells the distribution of the targets of the test rows.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

import jills
from experiments.claims import fitting
from experiments.claims.fitting import FOLDS, FitConfig, Split, first, newton
from experiments.config import Positive
from jills.estimators import NetworkRegressor

MOST_LENGTHS, MOST_KERNEL_ROWS = 20, 1000  # of the Gaussian process: its gradient is rows² × lengths numbers
LEVELS = np.array([0.05, 0.25, 0.75, 0.95])


class Config(FitConfig):
    """Of tables with one numeric target."""

    weight_decay: list[float]  # of Gauss–Newton, of which folds choose one
    most_rows: Positive  # to train on, and to test on, drawn at random where a table has more


class Told(NamedTuple):
    """What a method says of the test rows."""

    mean: np.ndarray  # (n,)
    log_density: np.ndarray  # (n,) of the targets
    quantiles: np.ndarray  # (4, n) at LEVELS


def by_evidence(config: Config, split: Split) -> Told:
    """One α for all parameters."""
    return mixture(fitting.evidence(config, split), split)


def mixture(told: jills.Ensemble, split: Split) -> Told:
    """Of networks that know how sure they are."""
    density, quantiles = told.log_density(jnp.asarray(split.test_targets)), told.quantiles(jnp.asarray(LEVELS))
    return Told(*map(np.asarray, (told.mean[:, 0], density[:, 0], quantiles[:, :, 0])))


def estimator(config: Config, split: Split) -> Told:
    """`NetworkRegressor` as it comes: evidence, with an α for each input."""
    sizes = {"hidden": tuple(config.hidden), "members": config.members, "max_steps": config.steps}  # its defaults
    model = NetworkRegressor(random_state=split.number, **sizes).fit(split.inputs, split.targets[:, 0])
    return mixture(model.fitted_.distribution(split.test_inputs), split)


def gaussian(mean: np.ndarray, variance: Any, split: Split) -> Told:
    """A Gaussian about the mean."""
    deviation = np.sqrt(np.broadcast_to(variance, mean.shape))
    quantiles = stats.norm.ppf(LEVELS[:, None], mean[None], deviation[None])
    return Told(mean, stats.norm.logpdf(split.test_targets[:, 0], mean, deviation), quantiles)


def together(config: Config, split: Split, params: Any, residual: float) -> Told:
    """The mean of networks, with their spread and a mean square residual of rows that they do not know."""
    each = fitting.outputs(config, split, params, split.test_inputs)[:, :, 0]
    return gaussian(np.mean(each, axis=0), np.var(each, axis=0) + residual, split)


def unregularised(config: Config, split: Split) -> Told:
    """The residual is that of the training rows: nothing else is known."""
    result = newton(config, split, [0.0], jills.Batch(split.inputs, split.targets))
    return together(config, split, first(result.state.params), float(np.mean(np.asarray(result.state.loss))))


def stopped(config: Config, split: Split) -> Told:
    """Each network keeps the parameters of its lowest validation loss."""
    params, held = fitting.stopped(config, split)
    mean = np.mean(fitting.outputs(config, split, params, split.inputs[held]), axis=0)
    return together(config, split, params, float(np.mean((mean - split.targets[held]) ** 2)))


def decayed(config: Config, split: Split) -> Told:
    """The decay of the lowest error in five folds, two networks for each, then trained on all rows."""
    n, repeats = len(split.inputs), max(1, config.members // FOLDS)
    weights = np.tile(np.asarray(jills.folds(jax.random.key(split.number), n, FOLDS), config.dtype), (repeats, 1))
    batch = jills.Batch(split.inputs, split.targets, weights)
    folded = newton(config, split, config.weight_decay, batch, members=len(weights))
    errors = []
    for place in range(len(config.weight_decay)):
        each = fitting.outputs(config, split, first(folded.state.params, place), split.inputs)[:, :, 0]
        unseen = np.sum(np.where(weights == 0, each, 0.0), axis=0) / repeats
        errors.append(float(np.mean((unseen - split.targets[:, 0]) ** 2)))
    best = int(np.argmin(errors))
    whole = newton(config, split, [config.weight_decay[best]], jills.Batch(split.inputs, split.targets))
    return together(config, split, first(whole.state.params), errors[best])


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
    """Leaves, and few trees or many with less weight, by folds."""
    leaves = {"max_leaf_nodes": [7, 31]}
    grid = [leaves | {"learning_rate": [rate], "max_iter": [trees]} for rate, trees in ((0.1, 200), (0.03, 600))]
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
            as_it_is: Any = None
            fitted = GaussianProcessRegressor(fitted.kernel_, optimizer=as_it_is).fit(inputs, targets)
        told: Any = fitted.predict(split.test_inputs, return_std=True)
    mean, deviation = told
    return gaussian(mean, deviation**2, split)


NETWORKS: dict[str, Callable[[Config, Split], Told]] = {
    "evidence": by_evidence,
    "estimator": estimator,
    "no_regularisation": unregularised,
    "validation": stopped,
    "decay": decayed,
}
MODELS: dict[str, Callable[[Config, Split], Told]] = {
    "ridge": partial(by_folds, ridge),
    "mlp": partial(by_folds, mlp),
    "mlp_lbfgs": partial(by_folds, mlp_lbfgs),
    "boosting": partial(by_folds, boosting),
    "boosting_tuned": partial(by_folds, boosting_tuned),
    "gaussian_process": gaussian_process,
}
