"""Losses, row by row, with the derivatives in the prediction that least squares needs.

A loss is a frozen dataclass of plain functions. Each takes predictions and targets `(n, k)`; the
mean over the rows, by weight, is taken in one place, `Loss.__call__`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jills.activations import Activation


@dataclass(frozen=True)
class Loss:
    """A loss of the prediction `z` for the target `y`, one value a row.

    Attributes:
        value: `(z (n, k), y (n, k)) → (n,)`.
        gradient: `∂ value / ∂ z`, `(n, k)`.
        curvature: `∂² value / ∂ z²`, or a positive semidefinite stand-in, `(n, k, k)`.
        ideal_input: `(y, f_L, margin) → (n, k)`, the total input of the output layer at which the
            loss is least; None where it is infinite.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    gradient: Callable[[jax.Array, jax.Array], jax.Array]
    curvature: Callable[[jax.Array, jax.Array], jax.Array]
    ideal_input: Callable[[jax.Array, Activation, float | None], jax.Array] | None = None

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


def _squared_error(predictions, targets):
    return jnp.mean(jnp.square(predictions - targets), axis=1)


def _squared_error_gradient(predictions, targets):
    return (predictions - targets) * (2.0 / predictions.shape[1])


def _squared_error_curvature(predictions, targets):
    n, k = predictions.shape
    return jnp.broadcast_to((2.0 / k) * jnp.eye(k, dtype=predictions.dtype), (n, k, k))


def _squared_error_ideal_input(targets, activation, margin):
    return activation.inverse(activation.project(targets, margin))


squared_error = Loss(_squared_error, _squared_error_gradient, _squared_error_curvature, _squared_error_ideal_input)
"""`mean_k (z_k - y_k)²`: the mean square over rows and outputs, without a factor ½.

Its ideal total input is `f_L⁻¹(y)`, with `y` projected into the open image of `f_L`.
"""
