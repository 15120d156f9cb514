"""The coordinates that the prior means: inputs, and targets where they have a unit, of mean zero and variance one."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.linalg import matmul
from jills.linearization import with_ones
from jills.types import Batch


class Column(NamedTuple):
    """Mean and deviation of each of m columns; of a constant column the size stands for it."""

    mean: jax.Array  # (m,)
    scale: jax.Array  # (m,)

    @classmethod
    def of(cls, values: jax.Array, shares: jax.Array) -> "Column":
        """Those of values `(n, m)` by weights `(n,)` of sum one."""
        used = (shares > 0)[:, None]
        high = jnp.max(values, 0, where=used, initial=-jnp.inf)
        low = jnp.min(values, 0, where=used, initial=jnp.inf)
        middle = low + 0.5 * (high - low)
        # By the extremes first: squares of 1e20 overflow float32, and so that no digit of raw years is lost.
        apart = jnp.where(used, values - middle[None, :], jnp.zeros_like(values))
        largest = jnp.max(jnp.abs(apart), axis=0)
        size = jnp.maximum(jnp.abs(low), jnp.abs(high))
        constant = ~(largest > 4 * float(jnp.finfo(values.dtype).eps) * size)
        largest = jnp.where(constant, jnp.ones_like(largest), largest)
        apart = apart / largest[None, :]
        offset = matmul(shares[None, :], apart)[0]
        deviation = jnp.sqrt(matmul(shares[None, :], jnp.square(apart - offset[None, :]))[0])
        mean = jnp.where(jnp.isfinite(middle), middle + largest * offset, jnp.zeros_like(middle))
        # A constant one has no unit of its own: its size, so that its weight is no more than another bias.
        still = jnp.where(size > 0, size, jnp.ones_like(size))
        return cls(mean, jnp.where(constant, jnp.where(jnp.isfinite(still), still, 1.0), largest * deviation))

    @classmethod
    def robust(cls, values: jax.Array, shares: jax.Array) -> "Column":
        """With the median of the rows of positive weight, and 1.48 of the median distance from it."""
        plain, used = cls.of(values, shares), shares > 0
        middle = jnp.maximum(jnp.sum(used, dtype=jnp.int32) - 1, 0) // 2
        median = lambda each: jnp.sort(jnp.where(used[:, None], each, jnp.inf), axis=0)[middle]  # noqa: E731
        center = median(values)
        distance = 1.4826 * median(jnp.abs(values - center[None, :]))
        usable = jnp.isfinite(distance) & (distance > 1e-3 * plain.scale)
        return cls(jnp.where(usable, center, plain.mean), jnp.where(usable, distance, plain.scale))

    @classmethod
    def identity(cls, size: int, dtype) -> "Column":
        """That of columns which are taken as they are."""
        return cls(jnp.zeros(size, dtype), jnp.ones(size, dtype))

    def applied(self, values: jax.Array) -> jax.Array:
        """`(x − m) / s` of `(n, m)`."""
        return (values - self.mean[None, :]) / self.scale[None, :]


class Standard(NamedTuple):
    """How inputs, targets and parameters are standardised."""

    inputs: Column
    targets: Column

    @classmethod
    def of(cls, batch: Batch, shares: jax.Array, has_units: bool, alike: bool) -> "Standard":
        """That of a prepared batch.

        Args:
            batch: n rows.
            shares: weights `(n,)` of sum one.
            has_units: whether targets have a unit; else they are taken as they are.
            alike: whether all outputs share one scale, which outliers do not change.
        """
        d, k = batch.inputs.shape[1], batch.targets.shape[1]
        if has_units and not alike:
            both = Column.of(jnp.concatenate([batch.inputs, batch.targets], axis=1), shares)
            return cls(*(Column(both.mean[own], both.scale[own]) for own in (slice(d), slice(d, d + k))))
        inputs = Column.of(batch.inputs, shares)
        if not has_units:
            return cls(inputs, Column.identity(k, batch.targets.dtype))
        targets = Column.robust(batch.targets, shares)
        common = jnp.exp(jnp.mean(jnp.log(targets.scale)))
        return cls(inputs, targets._replace(scale=jnp.full_like(targets.scale, common)))

    def rows(self, inputs: jax.Array) -> jax.Array:
        """Inputs `(n, d)` standardised, features × rows and with ones, `(d + 1, n)`."""
        return with_ones(self.inputs.applied(inputs).T)

    def enter(self, matrices: Sequence[jax.Array]) -> list[jax.Array]:
        """`θ^l` of the network of standardised inputs and targets that is the same function."""
        first, *others = matrices
        bias = first[-1:] + matmul(self.inputs.mean[None, :], first[:-1])
        entered = [jnp.concatenate([first[:-1] * self.inputs.scale[:, None], bias]), *others]
        last = entered[-1]
        entered[-1] = jnp.concatenate([last[:-1], last[-1:] - self.targets.mean[None, :]]) / self.targets.scale[None, :]
        return entered

    def leave(self, matrices: Sequence[jax.Array]) -> list[jax.Array]:
        """The inverse of `enter`."""
        *others, last = matrices
        last = last * self.targets.scale[None, :]
        first, *others = [*others, jnp.concatenate([last[:-1], last[-1:] + self.targets.mean[None, :]])]
        weight = first[:-1] / self.inputs.scale[:, None]
        return [jnp.concatenate([weight, first[-1:] - matmul(self.inputs.mean[None, :], weight)]), *others]
