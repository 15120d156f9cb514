"""Rows to train on, made ready once at the start of a run: dtype, row weights, and what tells them from other rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.types import Batch


def cast_known(batch: Batch, dtype) -> Batch:
    """The batch with its NumPy arrays in a dtype; arrays of JAX stay as they are.

    Here and not by JAX, which would first bring float64 and int64 to 32 bits where 64 are off.
    """
    inputs, targets = (_cast(array, dtype) if isinstance(array, np.ndarray) else array for array in batch[:2])
    weights: Any = batch.weights
    if isinstance(weights, np.ndarray):
        weights = _cast(_relative(weights), dtype)
    return Batch(inputs, targets, weights)


def clean(batch: Batch, dtype) -> Batch:
    """The batch in a dtype, its largest weight one, and zeros in the rows of weight zero (they may hold NaN)."""
    inputs, targets = (_cast(array, dtype) for array in batch[:2])
    if batch.weights is None:
        return Batch(inputs, targets)
    weights = _cast(_relative(batch.weights), dtype)
    used = (weights > 0)[:, None]
    inputs, targets = (jnp.where(used, array, jnp.zeros_like(array)) for array in (inputs, targets))
    return Batch(inputs, targets, weights)


def prepare(batch: Batch, dtype) -> Batch:
    """`clean`, and weights of sum one."""
    batch = clean(batch, dtype)
    if batch.weights is None:
        return batch
    total = jnp.sum(batch.weights)
    return batch._replace(weights=batch.weights / jnp.where(total > 0, total, jnp.ones_like(total)))


def _cast(array, dtype) -> Any:
    return jnp.asarray(array.astype(dtype) if isinstance(array, np.ndarray) else array, dtype)


def _relative(weights):
    """Weights over their largest, in the dtype they came in: all 1e-46 must not vanish in float32."""
    library: Any = np if isinstance(weights, np.ndarray) else jnp
    if not library.issubdtype(weights.dtype, library.floating):
        weights = weights.astype(np.float64 if library is np else jnp.zeros(()).dtype)
    largest = library.max(weights)
    return weights / library.where(largest > 0, largest, library.ones_like(largest))


def uniform_weights(batch: Batch) -> jax.Array:
    """The weights of a prepared batch, `(n,)` of sum one, also where it has none."""
    n = batch.inputs.shape[0]
    return jnp.full((n,), 1.0 / n, batch.inputs.dtype) if batch.weights is None else batch.weights


def has_weight(batch: Batch) -> jax.Array:
    """Whether the weights of a prepared batch are finite, none negative, and not all zero; `()` bool."""
    weights = uniform_weights(batch)
    return jnp.all(jnp.isfinite(weights) & (weights >= 0)) & (jnp.sum(weights) > 0)


def fingerprint(batch: Batch, dtype) -> jax.Array:
    """A hash of all rows as they are in a dtype, `()` uint32 and never 0: equal for equal rows in equal order.

    What rows of weight zero hold, and the scale of the weights, do not matter. Each number's bits are mixed with its
    place (the finalizer of MurmurHash3), and the results summed, so that rows may be spread over devices.
    """
    total = jnp.zeros((), jnp.uint32)
    for salt, array in enumerate(clean(batch, dtype)):
        if array is not None:
            bits = lax.bitcast_convert_type(array, jnp.uint32).ravel()  # two for each float64
            place = lax.iota(jnp.uint32, bits.size)
            total = total + jnp.sum(mix(bits + np.uint32(0x9E3779B9) * (place + _seed(salt, array))), dtype=jnp.uint32)
    return total | np.uint32(1)


def _seed(salt, array):
    """Tells inputs from targets, and shapes from each other."""
    mixed = salt
    for size in np.shape(array):
        mixed = (mixed * 1_000_003 + size) % 2**32
    return np.uint32(mixed)


def mix(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3, on uint32: every bit of it depends on every bit of what it is given."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return h ^ (h >> np.uint32(16))
