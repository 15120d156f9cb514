"""Predictions with their uncertainty, of one network and of an ensemble of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.linalg import HIGHEST
from jills.transformations import exported

BISECTIONS = 60


@exported
class Prediction(NamedTuple):
    """What one network predicts, in the units of the targets; of several, leaves lead with `[M]`."""

    mean: jax.Array  # (n, k) of the targets; of classes their probabilities, at the mode of the posterior
    variance: jax.Array  # (n, k) of the function, which more rows would lower; of classes that of the logits
    noise: jax.Array  # (k,) variance of the targets about the function; of classes zero
    moderated: jax.Array  # (n, k) of classes: probabilities with the variance averaged out; else the mean once more


@exported
class Ensemble(NamedTuple):
    """What several networks predict together: a mixture with equal shares. In the units of the targets."""

    mean: jax.Array  # (n, k)
    within: jax.Array  # (n, k) mean over the members of the variance of their functions
    between: jax.Array  # (n, k) variance of the members' means
    noise: jax.Array  # (k,) mean over the members
    members: Prediction  # leaves [M, …]

    @property
    def variance(self) -> jax.Array:
        """Of a new target, `(n, k)`: within, between and noise together."""
        return self.within + self.between + self.noise[None, :]

    def log_density(self, targets: Any) -> jax.Array:
        """The logarithm of the mixture's density at targets `(n, k)`, of each output, `(n, k)`; in nats."""
        mean, deviation = self.components()
        apart = (targets[None] - mean) / deviation
        each = -0.5 * jnp.square(apart) - jnp.log(deviation) - 0.5 * np.log(2 * np.pi)
        largest = jnp.max(each, axis=0)
        return largest + jnp.log(jnp.mean(jnp.exp(each - largest[None]), axis=0))

    def quantiles(self, levels: Sequence[float] | jax.Array) -> jax.Array:
        """Where the mixture's distribution function reaches levels `(q,)` in (0, 1); `(q, n, k)`."""
        return _quantiles(jnp.asarray(levels, self.mean.dtype), *self.components())

    def calibrated(self, factor: jax.Array) -> "Ensemble":
        """With all variances times a factor, `()` or `(k,)`, such as `calibration` tells; the mean stays."""
        factor = jnp.broadcast_to(factor, self.noise.shape)
        root, each = jnp.sqrt(factor)[None, None], factor[None, None]
        members = self.members._replace(
            mean=self.mean[None] + root * (self.members.mean - self.mean[None]),
            variance=each * self.members.variance,
            noise=factor[None] * self.members.noise,
        )
        return self._replace(
            within=factor[None] * self.within,
            between=factor[None] * self.between,
            noise=factor * self.noise,
            members=members,
        )

    def components(self) -> tuple[jax.Array, jax.Array]:
        """Mean and deviation of a new target by each member, `(M, n, k)`: the mixture's normal distributions."""
        members = self.members
        return members.mean, jnp.sqrt(members.variance + members.noise[:, None, :])


@jax.jit
def _quantiles(levels, mean, deviation):
    """Of a mixture of normal distributions `[M, n, k]`, by bisection; `(q, n, k)`."""
    wanted = levels[:, None, None]
    # They lie between those of the components; nine deviations hold every one of those.
    low = jnp.broadcast_to(jnp.min(mean - 9 * deviation, axis=0)[None], (wanted.shape[0], *mean.shape[1:]))
    high = jnp.broadcast_to(jnp.max(mean + 9 * deviation, axis=0)[None], low.shape)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        apart = (middle[None] - mean[:, None]) / deviation[:, None]  # (M, q, n, k)
        share = 0.5 * jnp.mean(jax.scipy.special.erfc(-apart / math.sqrt(2.0)), axis=0)
        return jnp.where(share < wanted, middle, low), jnp.where(share < wanted, high, middle)

    low, high = lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return 0.5 * (low + high)


def ensemble(predictions: Prediction | Sequence[Prediction]) -> Ensemble:
    """The plain mean of several networks' predictions, and how sure they are together.

        mean = Σ_m mean_m / M,   within = Σ_m variance_m / M,   between = Σ_m (mean_m − mean)² / M

    Args:
        predictions: one whose leaves lead with `[M]`, as `jax.vmap` makes it, or a sequence of M single ones.

    Raises:
        ValueError: no prediction, or single ones of several shapes.

    Members are not weighed: evidence and test error of restarts are next to uncorrelated, and the plain mean gains
    most (Lakshminarayanan et al. 2017 for the mixture).
    """
    each: Any = predictions if isinstance(predictions, Prediction) else _stacked(predictions)
    if np.ndim(each.mean) != 3 or np.shape(each.mean)[0] < 1:
        raise ValueError(
            f"ensemble: the mean has shape {np.shape(each.mean)}, but must be (M, n, k) with M ≥ 1 members; "
            "make it with jax.vmap, or give a list of predictions"
        )
    mean = jnp.mean(each.mean, axis=0)
    return Ensemble(
        mean,
        jnp.mean(each.variance, axis=0),
        jnp.mean(jnp.square(each.mean - mean[None]), axis=0),
        jnp.mean(each.noise, axis=0),
        each,
    )


def _stacked(predictions):
    each = list(predictions)
    shapes = {np.shape(one.mean) for one in each if isinstance(one, Prediction)}
    if len(shapes) != 1 or not all(isinstance(one, Prediction) for one in each):
        raise ValueError(
            f"ensemble: was given {len(each)} predictions of shapes {sorted(shapes)}, but wants at least one "
            "jills.Prediction, all of one shape"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def calibration(predicted: Ensemble, targets: Any, weights: jax.Array | None = None) -> jax.Array:
    """The factor of the variance that makes known targets likeliest, `(k,)`: `mean (y − mean)² / variance`.

    Above one: the predictions were too sure. Take rows that none of the members was trained on, such as those left
    out of each in a fold ensemble (`out_of_fold`).

    Args:
        predicted: of those rows.
        targets: `(n, k)`.
        weights: of the rows, `(n,)`; None: all alike.
    """
    squares = jnp.square(targets - predicted.mean) / predicted.variance
    if weights is None:
        return jnp.mean(squares, axis=0)
    return jnp.matmul(weights / jnp.sum(weights), squares, precision=HIGHEST)  # (k,)


def folds(key: jax.Array, num_rows: int, num_folds: int) -> jax.Array:
    """Row weights of members that each leave a random fold out, `(num_folds, num_rows)` of ones and zeros.

    Give them as the stacked weights of a sweep, and all members train in one program::

        weights = jills.folds(key, n, 10)
        batches = jills.Batch(inputs, targets, weights)
        result = jills.sweep(algorithm, algorithm.defaults, network.init, keys, num_steps=40, batches=batches)

    Args:
        key: a JAX random key.
        num_rows: n.
        num_folds: F, from 2 to n; their sizes differ by one row at most.

    Raises:
        ValueError: fewer than two folds, or more folds than rows.
    """
    if not 2 <= num_folds <= num_rows:
        raise ValueError(f"folds: num_folds is {num_folds}, but must be from 2 to the number of rows, {num_rows}")
    fold = jax.random.permutation(key, jnp.arange(num_rows) % num_folds)
    return (fold[None, :] != jnp.arange(num_folds)[:, None]).astype(jnp.zeros(()).dtype)


def out_of_fold(predictions: Prediction, weights: jax.Array, repeats: int = 1) -> Ensemble:
    """Of each row the ensemble of those members that it was left out of: an honest look at the training rows.

    Its error estimates that of new rows, and `calibration` of it the factor that their variance wants.

    Args:
        predictions: of all rows by all members, leaves `[M, n, k]`.
        weights: that they were trained with, `(M, n)`: zero where a row was left out.
        repeats: by how many members each row was left out.
    """
    left_out = jnp.argsort(weights > 0, axis=0, stable=True)[:repeats]  # (repeats, n)
    of_rows = lambda values: jnp.take_along_axis(values, left_out[:, :, None], axis=0)  # noqa: E731 used at once
    mean, variance, moderated = map(of_rows, (predictions.mean, predictions.variance, predictions.moderated))
    noise = jnp.mean(predictions.noise[left_out], axis=1)  # (repeats, k)
    return ensemble(Prediction(mean, variance, noise, moderated))
