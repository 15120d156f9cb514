"""Losses, row by row, with the derivatives in the prediction that least squares needs.

A loss is a frozen dataclass of plain functions. Each takes predictions and targets `(n, k)`; the
mean over the rows, by weight, is taken in one place, `Loss.__call__`. The cross-entropies take
logits as predictions: give the network `output=jills.activations.identity`, and see `jax.nn.softmax`
or `jax.nn.sigmoid` of a prediction for its probabilities.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.activations import Activation, sigmoid
from jills.linalg import HIGHEST

PerRow = Callable[[jax.Array, jax.Array], jax.Array]


class Allowed(NamedTuple):
    """The targets that a loss is made for."""

    holds: Callable[[np.ndarray], np.ndarray]  # known targets (n, k) → (n,) bool: which rows are allowed
    text: str  # ends the sentence "targets must …"


class Noise(NamedTuple):
    """The density `exp(−β c value) / Z(β)` of the difference between a target and its prediction, of one output."""

    log_normalizer: Callable[[jax.Array], jax.Array]  # β → log Z
    variance: Callable[[jax.Array], jax.Array]  # β → that of the difference


@dataclass(frozen=True)
class Loss:
    """A loss of the prediction `z` for the target `y`, one value for each row.

    Attributes:
        value: `(z (n, k), y (n, k)) → (n,)`.
        gradient: `∂ value / ∂ z`, `(n, k)`.
        curvature: `∂² value / ∂ z²`, or a positive semidefinite stand-in, `(n, k, k)`.
        ideal_input: `(y, f_L, margin) → (n, k)`, the total input of the output layer at which the
            loss is least; None where it is infinite.
        quadratic: whether `value` is exactly quadratic in `z`, so that a layer with the identity as
            output is one linear least-squares problem.
        product: `(z, y, v (n, k)) → (n, k)`, `curvature` times `v` without the matrix; None: the
            matrix is formed. Call `curvature_product`.
        bound: `k → β` such that no curvature of `value` anywhere exceeds `β I`; None where there is no such
            number. With it ILLS has the working response, see `jills.ills.working_response`.
        probabilities: `z → (n, k)`, the mean of the targets that a prediction stands for; None where
            targets are no probabilities.
        logits: the inverse of `probabilities`, finite for all of them, 0 and 1 included.
        allowed: the targets that the loss is made for, refused where they are known to be others.
        in_units: `s () → Loss`, the loss `value(s z, s y) / s²` of predictions and targets over s, where predictions
            are in the units of the targets: with it Gauss–Newton does the same in all units. None: they are not.
        likelihood: `k → c` such that `c value` is minus the logarithm of the probability of a row of k outputs, but for
            a constant; for `jills.evidence`. None: c is one.
        noise: of a loss that leaves the level β of the noise open, which `jills.evidence` then learns; None: β is one.

    The first three are all that most algorithms need. Define them at module level, so that the loss
    can be compared, hashed and pickled. Counts, for example, with the logarithm of their rate as prediction::

        def poisson(predictions, targets):
            return jnp.mean(jnp.exp(predictions) - targets * predictions, axis=1)

        def poisson_gradient(predictions, targets):
            return (jnp.exp(predictions) - targets) / predictions.shape[1]

        def poisson_curvature(predictions, targets):
            return jax.vmap(jnp.diag)(jnp.exp(predictions) / predictions.shape[1])

        loss = jills.Loss(poisson, poisson_gradient, poisson_curvature)
    """

    value: PerRow
    gradient: PerRow
    curvature: PerRow
    ideal_input: Callable[[jax.Array, Activation, float | None], jax.Array] | None = None
    quadratic: bool = False
    product: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    bound: Callable[[int], float] | None = None
    probabilities: Callable[[jax.Array], jax.Array] | None = None
    logits: Callable[[jax.Array], jax.Array] | None = None
    allowed: Allowed | None = None
    in_units: Callable[[jax.Array], "Loss"] | None = None
    likelihood: Callable[[int], float] | None = None
    noise: Noise | None = None

    def __call__(self, predictions: jax.Array, targets: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        """The mean of the row losses, `Σ w_n value_n / Σ w_n`; rows of weight zero do not count.

        Returns:
            `()`; zero where all weights are zero.
        """
        if weights is None:
            return jnp.mean(self.value(predictions, targets))
        # `where`, not a product: 0 · NaN is NaN, here and in the gradient, and a masked row may hold anything.
        used = (weights > 0)[:, None]
        predictions = jnp.where(used, predictions, jnp.zeros_like(predictions))
        targets = jnp.where(used, targets, jnp.zeros_like(targets))
        total = jnp.sum(weights)
        weighted = weights * self.value(predictions, targets)
        return jnp.sum(weighted) / jnp.where(total > 0, total, jnp.ones_like(total))

    def curvature_product(self, predictions: jax.Array, targets: jax.Array, vectors: jax.Array) -> jax.Array:
        """`Λ_n v_n` for every row, with `Λ = curvature` `(n, k, k)` and vectors `(n, k)`; `(n, k)`."""
        if self.product is not None:
            return self.product(predictions, targets, vectors)
        curvature = self.curvature(predictions, targets)
        return jnp.einsum("nij,nj->ni", curvature, vectors, precision=HIGHEST)


# Plain functions throughout, so that losses can be pickled.


def _squared_error(predictions, targets):
    return jnp.mean(jnp.square(predictions - targets), axis=1)


def _squared_error_gradient(predictions, targets):
    return (predictions - targets) * (2.0 / predictions.shape[1])


def _squared_error_curvature(predictions, targets):
    n, k = predictions.shape
    return jnp.broadcast_to((2.0 / k) * jnp.eye(k, dtype=predictions.dtype), (n, k, k))


def _squared_error_product(predictions, targets, vectors):
    return vectors * (2.0 / predictions.shape[1])


def _squared_error_ideal_input(targets, activation, margin):
    return activation.inverse(activation.project(targets, margin))


def _squared_error_bound(k):
    return 2.0 / k


def _squared_error_in_units(unit):
    return squared_error


def _half_of_each(k):
    return 0.5 * k


def _gaussian_log_normalizer(beta):
    return 0.5 * (math.log(2.0 * math.pi) - jnp.log(beta))


def _gaussian_variance(beta):
    return 1.0 / beta


squared_error = Loss(
    _squared_error,
    _squared_error_gradient,
    _squared_error_curvature,
    _squared_error_ideal_input,
    quadratic=True,
    product=_squared_error_product,
    bound=_squared_error_bound,
    in_units=_squared_error_in_units,
    likelihood=_half_of_each,
    noise=Noise(_gaussian_log_normalizer, _gaussian_variance),
)
"""`mean_k (z_k - y_k)²`: the mean square over rows and outputs, without a factor ½.

Its ideal total input is `f_L⁻¹(y)`, with `y` projected into the open range of `f_L`.
"""


def _diagonal(entries):
    """`(n, k)` as the diagonals of `(n, k, k)`."""
    return entries[:, :, None] * jnp.eye(entries.shape[1], dtype=entries.dtype)[None]


def _softmax(predictions):
    return jax.nn.softmax(predictions, axis=1)


def _mass(targets):
    # One in every allowed row. Carried along, so that gradient and curvature are those of the value for any row.
    return jnp.sum(targets, axis=1, keepdims=True)


def _softmax_cross_entropy(predictions, targets):
    return -jnp.sum(targets * jax.nn.log_softmax(predictions, axis=1), axis=1)


def _softmax_gradient(predictions, targets):
    return _mass(targets) * _softmax(predictions) - targets


def _softmax_curvature(predictions, targets):
    p = _softmax(predictions)
    return _mass(targets)[:, :, None] * (_diagonal(p) - p[:, :, None] * p[:, None, :])


def _softmax_product(predictions, targets, vectors):
    p = _softmax(predictions)
    return _mass(targets) * (p * vectors - p * jnp.sum(p * vectors, axis=1, keepdims=True))


def _softmax_logits(probabilities):
    smallest = float(jnp.finfo(probabilities.dtype).tiny)
    logarithms = jnp.log(jnp.maximum(probabilities, smallest))
    # The softmax does not see a constant added to a row; of all such rows the centred one is the shortest.
    return logarithms - jnp.mean(logarithms, axis=1, keepdims=True)


def _one_half(k):
    return 0.5


def _is_distribution(targets):
    return np.all(targets >= 0, axis=1) & (np.abs(np.sum(targets, axis=1) - 1) < 1e-3)


softmax_cross_entropy = Loss(
    _softmax_cross_entropy,
    _softmax_gradient,
    _softmax_curvature,
    product=_softmax_product,
    bound=_one_half,
    probabilities=_softmax,
    logits=_softmax_logits,
    allowed=Allowed(
        _is_distribution,
        "be distributions over the classes, at least 0 and with the sum 1 in each row; make them from "
        "integer labels with jax.nn.one_hot(labels, k); for independent outputs, or only one, take "
        "jills.losses.sigmoid_cross_entropy",
    ),
)
"""`-Σ_k y_k log p_k` with `p = softmax(z)`: one of k classes; the mean is over rows only.

Targets are one-hot rows (`jax.nn.one_hot` makes them from integer labels) or any distribution over the classes.
Gradient `p - y`, curvature `diag(p) - p pᵀ`, at most ½ (Böhning, Ann. Inst. Statist. Math. 44, 1992).
"""


def _sigmoid_cross_entropy(predictions, targets):
    # Each term keeps its digits: softplus(z) - y z would cancel for y = 1 and large z.
    return jnp.mean(targets * jax.nn.softplus(-predictions) + (1.0 - targets) * jax.nn.softplus(predictions), axis=1)


def _sigmoid_gradient(predictions, targets):
    p, rest = jax.nn.sigmoid(predictions), jax.nn.sigmoid(-predictions)
    return ((1.0 - targets) * p - targets * rest) / predictions.shape[1]  # p - y, which would cancel


def _sigmoid_slope(predictions):
    return sigmoid.derivative(predictions) / predictions.shape[1]


def _sigmoid_curvature(predictions, targets):
    return _diagonal(_sigmoid_slope(predictions))


def _sigmoid_product(predictions, targets, vectors):
    return _sigmoid_slope(predictions) * vectors


def _sigmoid(predictions):
    return jax.nn.sigmoid(predictions)


def _sigmoid_logits(probabilities):
    return _squared_error_ideal_input(probabilities, sigmoid, None)


def _one_quarter(k):
    return 0.25 / k


def _each(k):
    return float(k)


def _is_probability(targets):
    return np.all((targets >= 0) & (targets <= 1), axis=1)


sigmoid_cross_entropy = Loss(
    _sigmoid_cross_entropy,
    _sigmoid_gradient,
    _sigmoid_curvature,
    product=_sigmoid_product,
    bound=_one_quarter,
    likelihood=_each,
    probabilities=_sigmoid,
    logits=_sigmoid_logits,
    allowed=Allowed(
        _is_probability,
        "lie in [0, 1], one probability for each output; for integer labels of several classes "
        "take jax.nn.one_hot(labels, k)",
    ),
)
"""`mean_k [-y_k log p_k - (1 - y_k) log(1 - p_k)]` with `p = sigmoid(z)`: k independent yes or no.

The mean is over rows and outputs, as for squared error. Gradient `(p - y) / k`, curvature
`diag(p (1 - p)) / k`, at most `1 / (4 k)`.
"""


@dataclass(frozen=True)
class _WithDelta:
    """`function(delta, …)`; unlike `functools.partial` two equal ones compare equal."""

    function: Callable[..., Any]
    delta: Any

    def __call__(self, *arrays: jax.Array) -> Any:
        return self.function(self.delta, *arrays)


def _huber(delta, predictions, targets):
    residual = predictions - targets
    inner = jnp.clip(residual, -delta, delta)
    # r² inside and 2 δ |r| - δ² outside, in one expression, so that autodiff meets no branch.
    return jnp.mean(inner * (2.0 * residual - inner), axis=1)


def _huber_gradient(delta, predictions, targets):
    return jnp.clip(predictions - targets, -delta, delta) * (2.0 / predictions.shape[1])


def _huber_weights(delta, predictions, targets):
    """Gradient over residual: 1 inside and `δ / |r|` outside, times `2 / k`."""
    return (2.0 / predictions.shape[1]) * (delta / jnp.maximum(jnp.abs(predictions - targets), delta))


def _huber_curvature(delta, predictions, targets):
    return _diagonal(_huber_weights(delta, predictions, targets))


def _huber_product(delta, predictions, targets, vectors):
    return _huber_weights(delta, predictions, targets) * vectors


def _huber_log_normalizer(delta, beta):
    return jnp.log(_huber_mass(delta, beta)[0])


def _huber_variance(delta, beta):
    inside, edge = _huber_mass(delta, beta)[1:]
    outside = 2.0 * edge * (delta / beta + 2.0 / (beta**2 * delta) + 2.0 / (beta * delta) ** 3)
    return ((inside - 2.0 * delta * edge) / beta + outside) / _huber_mass(delta, beta)[0]


def _huber_mass(delta, beta):
    """`∫ exp(−½ β ρ)`: of all differences, of those within δ, and the density at δ before it is normalized."""
    inside = jnp.sqrt(2.0 * math.pi / beta) * jax.scipy.special.erf(delta * jnp.sqrt(0.5 * beta))
    edge = jnp.exp(-0.5 * beta * delta**2)
    return inside + 2.0 * edge / (beta * delta), inside, edge


def huber(delta: float = 1.0) -> Loss:
    """`mean_k ρ(z_k - y_k)`, with `ρ(r) = r²` for `|r| ≤ δ` and `2 δ |r| - δ²` beyond: outliers pull less.

    On the scale of squared error, without a factor ½. Its curvature is not the Hessian, which is zero
    for outliers, but the weight of iteratively reweighted least squares, gradient over residual:
    `2/k` within δ and `2 δ / (k |r|)` beyond, always positive. The quadratic with that curvature
    touches the loss and lies nowhere below it, so a step to its minimum never raises the loss.

    Args:
        delta: δ, in units of the targets; what lies further away counts linearly.

    Raises:
        ValueError: delta is not a positive finite number.
    """
    if not (0.0 < delta < math.inf):
        raise ValueError(
            f"huber: delta is {delta}, but must be positive and finite; without a limit take jills.losses.squared_error"
        )
    return _huber_loss(float(delta))


def _huber_loss(delta: Any) -> Loss:
    """Huber's loss for any δ, a traced one too."""
    value, gradient, curvature, product, in_units, log_normalizer, variance = (
        _WithDelta(function, delta)
        for function in (
            _huber,
            _huber_gradient,
            _huber_curvature,
            _huber_product,
            _huber_in_units,
            _huber_log_normalizer,
            _huber_variance,
        )
    )
    return Loss(
        value,
        gradient,
        curvature,
        _squared_error_ideal_input,
        product=product,
        bound=_squared_error_bound,
        in_units=in_units,
        likelihood=_half_of_each,
        noise=Noise(log_normalizer, variance),
    )


def _huber_in_units(delta, unit):
    return _huber_loss(delta / unit)


__all__ = ["Allowed", "Loss", "Noise", "huber", "sigmoid_cross_entropy", "softmax_cross_entropy", "squared_error"]
