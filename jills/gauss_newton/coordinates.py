"""The inputs of a layer, centred and brought to one scale: the coordinates in which a block is solved."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.linalg import matmul

SPREAD = 30.0  # inputs whose deviations differ from the typical one by no more than this factor stay as they are


class Scaling(NamedTuple):
    """A layer in centred and scaled inputs: `A' = [(x − m) / s, 1] = A T`, so `Δ = T Δ'`.

    All inputs share one scale, the geometric mean of their deviations, but for those far from it: they are
    brought to within a factor `SPREAD`. (Each to its own deviation would free what is almost never
    seen, such as the corners of images, from its damping. An exact solve of full rank knows no damping.)
    """

    mean: jax.Array  # (d,) m
    scale: jax.Array  # (d,) s

    @classmethod
    def of(cls, inputs: jax.Array, weights: jax.Array, exact: bool = False) -> "Scaling":
        """From inputs `(d, n)` and their weights `(n,)` of sum 1.

        With `exact`, which is for exact solves, each to its own deviation, where there are more rows than inputs.
        """
        spread = 1.0 if exact and inputs.shape[1] > inputs.shape[0] else SPREAD
        mean, used = matmul(inputs, weights), weights[None, :] > 0
        # By the largest entry first: squares of 1e20 overflow float32.
        apart = jnp.where(used, jnp.abs(inputs - mean[:, None]), jnp.zeros_like(inputs))
        largest = jnp.max(apart, axis=1)
        # By the extremes: what rounding leaves of a mean over many rows is no deviation.
        highest, lowest = (
            jnp.max(inputs, 1, where=used, initial=-jnp.inf),
            jnp.min(inputs, 1, where=used, initial=jnp.inf),
        )
        constant = highest - lowest <= 8 * float(jnp.finfo(inputs.dtype).eps) * jnp.abs(mean)
        size = jnp.where(constant, jnp.ones_like(largest), largest)
        deviation = size * jnp.sqrt(matmul(jnp.square(apart / size[:, None]), weights))
        logarithm = jnp.where(constant, jnp.zeros_like(size), jnp.log(deviation))
        count = jnp.maximum(jnp.sum((~constant).astype(size.dtype)), 1.0)
        typical = jnp.exp(jnp.sum(logarithm) / count)
        ratio = jnp.where(constant, jnp.ones_like(size), deviation / typical)
        scale = typical * jnp.maximum(1.0, ratio / spread) * jnp.minimum(1.0, ratio * spread)
        # What rounding leaves of a constant input must vanish beside it, or its weight would move with the bias.
        return cls(mean, jnp.where(constant, jnp.maximum(scale, jnp.abs(mean)), scale))

    def below(self, below: jax.Array) -> jax.Array:
        """`A'` from `A`, both `(d + 1, n)`."""
        scaled = (below[:-1] - self.mean[:, None]) / self.scale[:, None]
        return jnp.concatenate([scaled, below[-1:]])

    def to_params(self, change: jax.Array) -> jax.Array:
        """`T Δ'`."""
        weight = change[:-1] / self.scale[:, None]
        return jnp.concatenate([weight, change[-1:] - matmul(self.mean[None, :], weight)])

    def from_params(self, change: jax.Array) -> jax.Array:
        """`Δ' = T⁻¹ Δ`."""
        weight = change[:-1]
        return jnp.concatenate([weight * self.scale[:, None], change[-1:] + matmul(self.mean[None, :], weight)])

    def transposed(self, vector: jax.Array) -> jax.Array:
        """`Tᵀ v`."""
        return jnp.concatenate([(vector[:-1] - self.mean[:, None] * vector[-1:]) / self.scale[:, None], vector[-1:]])

    def gradient(self, scaled: jax.Array) -> jax.Array:
        """The gradient in the parameters from that in Δ': `T⁻ᵀ g'`."""
        return jnp.concatenate([self.scale[:, None] * scaled[:-1] + self.mean[:, None] * scaled[-1:], scaled[-1:]])

    def square(self) -> "Square":
        """`TᵀT`."""
        per_input = 1 / jnp.square(self.scale)
        zero, one = jnp.zeros(1, per_input.dtype), jnp.ones(1, per_input.dtype)
        return Square(jnp.concatenate([per_input, zero]), jnp.concatenate([-self.mean / self.scale, one]))


class Square(NamedTuple):
    """`TᵀT = diag(c) + u uᵀ`, `(d + 1, d + 1)`, without the matrix."""

    diagonal: jax.Array  # (d + 1,) c
    vector: jax.Array  # (d + 1,) u

    def __call__(self, change: jax.Array) -> jax.Array:
        """`TᵀT Δ'`."""
        return self.diagonal[:, None] * change + self.vector[:, None] * matmul(self.vector[None, :], change)

    def matrix(self) -> jax.Array:
        """As an array, where it is small."""
        return jnp.diag(self.diagonal) + self.vector[:, None] * self.vector[None, :]
