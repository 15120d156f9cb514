"""scikit-learn: MLPRegressor and MLPClassifier with their L-BFGS, from the same start."""

import warnings
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import jills
from experiments.peers.base import Budget, Peer, Problem, Recorder, Trace, fastest_threads, is_least_squares

ACTIVATIONS = {
    jills.activations.tanh: "tanh",
    jills.activations.relu: "relu",
    jills.activations.sigmoid: "logistic",
    jills.activations.identity: "identity",
}
SOFTMAX, SIGMOID = jills.losses.softmax_cross_entropy, jills.losses.sigmoid_cross_entropy


def run(problem: Problem, budget: Budget) -> Trace:
    """The trace of an estimator with solver="lbfgs" and no penalty.

    A step is an evaluation of loss and gradient, in float64 whatever the dtype of the data. Its solver stops when the
    loss falls by less than a fixed 2e-9 of itself; it is then called again, from where it is, while that helps.
    """
    model, inputs, targets = estimator(problem), np.asarray(problem.batch.inputs), labels(problem)
    fit(model, inputs, targets, 1)  # one iteration, thrown away, sets up what a warm start builds on
    threads = fastest_threads(partial(fit, model, inputs, targets))
    model.set_params(max_iter=10**9, max_fun=10**9)
    model.coefs_ = [np.array(layer.weight) for layer in problem.params]
    model.intercepts_ = [np.array(layer.bias) for layer in problem.params]

    factor = 2.0 if problem.loss == jills.losses.squared_error else 1.0  # theirs is half the mean square
    recorder, evaluate = Recorder(problem, budget), model._loss_grad_lbfgs

    def recorded(flat, *arguments):
        value, gradient = evaluate(flat, *arguments)
        recorder.note(factor * value, lambda: params_of(model, problem.dtype))
        return value, gradient

    model._loss_grad_lbfgs = recorded

    def solve() -> str:
        before = np.inf
        while recorder.best < before:
            before = recorder.best
            fit(model, inputs, targets, threads)
        return "no lower loss"

    return recorder.trace(f"{recorder.until_enough(solve)}; threads: {threads}")


def fit(model: Any, inputs: np.ndarray, targets: np.ndarray, threads: int) -> None:
    """Goes on from where the estimator is, without a warning that it has not converged."""
    with warnings.catch_warnings(), threadpool_limits(threads, user_api="blas"):
        warnings.simplefilter("ignore")
        model.fit(inputs, targets)


def estimator(problem: Problem) -> Any:
    """An estimator not yet fitted, of one iteration."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind: Any = MLPRegressor if problem.loss == jills.losses.squared_error else MLPClassifier
    return kind(
        hidden_layer_sizes=problem.network.sizes[1:-1],
        activation=ACTIVATIONS[problem.network.activations[0]],
        solver="lbfgs",
        alpha=0.0,
        tol=0.0,
        max_iter=1,
        warm_start=True,
    )


def labels(problem: Problem) -> np.ndarray:
    """The targets as scikit-learn wants them: one column as a vector, one-hot rows as integers."""
    targets = np.asarray(problem.batch.targets)
    if problem.loss == SOFTMAX:
        return np.argmax(targets, axis=1)
    return targets[:, 0] if targets.shape[1] == 1 else targets


def params_of(model: Any, dtype: np.dtype) -> jills.Params:
    """The parameters that an estimator holds."""
    layers = zip(model.coefs_, model.intercepts_, strict=True)
    return tuple(jills.Layer(jnp.asarray(weight, dtype), jnp.asarray(bias, dtype)) for weight, bias in layers)


def has_their_layers(problem: Problem) -> bool:
    """At least one hidden layer, one known activation for all of them, and an identity on top."""
    *hidden, output = problem.network.activations
    return bool(hidden) and len(set(hidden)) == 1 and hidden[0] in ACTIVATIONS and output == jills.activations.identity


def is_regression(problem: Problem) -> bool:
    """What MLPRegressor can train."""
    return has_their_layers(problem) and is_least_squares(problem)


def is_classification(problem: Problem) -> bool:
    """What MLPClassifier can train: 0 and 1 with one output, or one-hot rows of at least three classes, all present."""
    if problem.loss not in {SOFTMAX, SIGMOID} or problem.batch.weights is not None or not has_their_layers(problem):
        return False
    targets = np.asarray(problem.batch.targets)
    is_hard = bool(np.all((targets == 0) | (targets == 1)))
    if problem.loss == SIGMOID:
        return is_hard and targets.shape[1] == 1 and len(np.unique(targets)) == 2
    return is_hard and targets.shape[1] > 2 and len(np.unique(labels(problem))) == targets.shape[1]


PEERS = tuple(
    Peer(name, run, applies, "sklearn", "scikit-learn", "evaluation")
    for name, applies in (
        ("scikit-learn MLPRegressor", is_regression),
        ("scikit-learn MLPClassifier", is_classification),
    )
)
