"""The rows of a step, and what is known of them before it: scaling, second moment, the unit of the targets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills import linearization
from jills.batches import uniform_weights
from jills.gauss_newton import kronecker
from jills.gauss_newton.coordinates import Scaling
from jills.gauss_newton.kronecker import Factor
from jills.linalg import HIGHEST, matmul, positive
from jills.types import Batch

LARGEST_EXPONENT = 60.0  # of a unit: its square must be a number in float32


class Rows(NamedTuple):
    """A prepared batch, with what is known of it before any step."""

    inputs: jax.Array  # (n, d)
    targets: jax.Array  # (n, k)
    weights: jax.Array | None  # (n,), sum 1; None: all alike
    omega: jax.Array  # ω, (n,), the weights in any case
    scaling: Scaling  # of the inputs
    scaled_inputs: jax.Array  # A' of the first layer, (d + 1, n)
    unit: jax.Array | None  # s, () a power of two: the targets are of this size; None: they are taken as they are
    targets_in_units: jax.Array  # y / s, (n, k)
    moment: Factor | None = None  # A of the first layer; None: it is taken where it is needed

    @classmethod
    def of(cls, batch: Batch, unit: jax.Array | None = None, exact: bool = False) -> "Rows":
        """Those of a prepared batch, with a unit of the targets; `exact`: for exact solves of the first layer."""
        inputs, omega = batch.inputs.T, uniform_weights(batch)
        scaling = Scaling.of(inputs, omega, exact)
        targets = batch.targets if unit is None else batch.targets / unit
        return cls(*batch, omega, scaling, scaling.below(linearization.with_ones(inputs)), unit, targets)

    @property
    def with_ones(self) -> jax.Array:
        """`[x; 1]` of every row, `(d + 1, n)`, in the units that they came in."""
        return linearization.with_ones(self.inputs.T)

    def with_moment(self, exact: bool) -> "Rows":
        """With the second moment of the inputs, see `kronecker.input_factor`."""
        return self._replace(moment=kronecker.input_factor(self.scaled_inputs, self.omega, exact))


def size_of(batch: Batch, robust: bool = False) -> jax.Array:
    """The power of two next to the size of the targets of a prepared batch.

    Their standard deviation, or with `robust`, which outliers do not change, the median distance from the median;
    of constant targets their largest.
    """
    targets, omega = batch.targets, uniform_weights(batch)
    largest = positive(jnp.max(jnp.abs(targets)))
    # By the largest first: squares of 1e-20 vanish in float32.
    relative = targets / largest
    apart = relative - matmul(omega[None, :], relative)
    size = jnp.sqrt(jnp.vdot(omega, jnp.mean(jnp.square(apart), axis=1), precision=HIGHEST))
    size = jnp.where(size <= 8 * float(jnp.finfo(targets.dtype).eps), jnp.ones_like(size), size)
    if robust:
        median = _median_distance(relative, omega)
        size = jnp.where(median > 0, median, size)
    exponent = jnp.clip(jnp.round(jnp.log2(largest * size)), -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return jnp.ldexp(jnp.ones_like(largest), exponent.astype(jnp.int32))  # exactly, as exp2 is not


def _median_distance(targets, omega):
    """Of rows of positive weight from their median, output by output; the mean over the outputs."""
    used = omega > 0
    middle = jnp.maximum(jnp.sum(used, dtype=jnp.int32) - 1, 0) // 2

    def median(values):
        return jnp.sort(jnp.where(used[:, None], values, jnp.inf), axis=0)[middle][None, :]

    return jnp.mean(median(jnp.abs(targets - median(targets))))
