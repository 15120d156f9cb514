"""What the data say: the negative log likelihood of a loss, with its noise level β where it has one.

    −log p(y | z) = β e(z, y) − log of what normalises it,   e = c · value of the loss

`c` undoes the loss's mean over outputs (`Loss.likelihood`). Losses in the units of the targets (squared error, Huber's)
have a noise that is learnt; of the others (cross-entropies, counts) β is one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.losses import Loss


class Likelihood(NamedTuple):
    """Of standardised targets `(k, n)`; arrays are features × rows, as inside Gauss–Newton."""

    loss: Loss
    factor: float  # c
    targets: jax.Array  # (k, n)
    weights: jax.Array  # (n,) w_n, of sum N
    split: bool  # whether every output has its own β

    def energies(self, prediction: jax.Array) -> jax.Array:
        """`Σ_n w_n e(z_n, y_n)`, `(k,)` with a β for each output, else `(1,)`."""
        if self.split:
            single = jax.vmap(lambda z, y: self.loss.value(z[:, None], y[:, None]))(prediction, self.targets)
            return jnp.sum(self._weighed(self.factor / prediction.shape[0] * single), axis=1)
        value = self.factor * self.loss.value(prediction.T, self.targets.T)
        return jnp.sum(self._weighed(value[None, :]), axis=1)

    def slope(self, prediction: jax.Array, beta: jax.Array) -> jax.Array:
        """`∂ Σ β e / ∂ z`, `(k, n)`."""
        return self._weighed(self.factor * beta[:, None] * self.loss.gradient(prediction.T, self.targets.T).T)

    def curve(self, prediction: jax.Array, beta: jax.Array, vectors: jax.Array) -> jax.Array:
        """`Λ_n v_n` for vectors `(k, n)`."""
        product = self.loss.curvature_product(prediction.T, self.targets.T, vectors.T).T
        return self._weighed(self.factor * beta[:, None] * product)

    def _weighed(self, values):
        weights = self.weights[None, :]
        return jnp.where(weights > 0, weights * values, jnp.zeros_like(values))


def factor_of(loss: Loss, outputs: int) -> float:
    """c, for so many outputs; 1 for a loss that does not tell."""
    return 1.0 if loss.likelihood is None else float(loss.likelihood(outputs))
