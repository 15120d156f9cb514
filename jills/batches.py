"""Rows to train on, made ready once at the start of a run: dtype, row weights, and what tells them from other rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.types import Batch


def prepare(batch: Batch, dtype) -> Batch:
    """The batch in a dtype, with weights of sum one, and zeros in the rows of weight zero (they may hold NaN)."""
    inputs, targets = (jnp.asarray(array, dtype) for array in batch[:2])
    if batch.weights is None:
        return Batch(inputs, targets)
    weights = _relative(batch.weights).astype(dtype)
    total = jnp.sum(weights)
    used = (weights > 0)[:, None]
    inputs, targets = (jnp.where(used, array, jnp.zeros_like(array)) for array in (inputs, targets))
    return Batch(inputs, targets, weights / jnp.where(total > 0, total, jnp.ones_like(total)))


def _relative(weights):
    """Weights over their largest, in the dtype they came in: all 1e-46 must not vanish in float32."""
    weights = jnp.asarray(weights)
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        weights = weights.astype(jnp.zeros(()).dtype)
    largest = jnp.max(weights)
    return weights / jnp.where(largest > 0, largest, jnp.ones_like(largest))


def uniform_weights(batch: Batch) -> jax.Array:
    """The weights of a prepared batch, `(n,)` of sum one, also where it has none."""
    n = batch.inputs.shape[0]
    return jnp.full((n,), 1.0 / n, batch.inputs.dtype) if batch.weights is None else batch.weights


def fingerprint(batch: Batch, dtype) -> jax.Array:
    """A hash of all rows as they are in a dtype, `()` uint32 and never 0: equal for equal rows in equal order.

    Each number's bits are mixed with its place (the finalizer of MurmurHash3), and the results summed, so
    that rows may be spread over devices.
    """
    total = jnp.zeros((), jnp.uint32)
    for salt, array in enumerate(batch):
        if array is not None:
            bits = _bits(jnp.asarray(array, dtype))
            place = lax.iota(jnp.uint32, bits.size)
            total = total + jnp.sum(_mix(bits + np.uint32(0x9E3779B9) * (place + _seed(salt, array))), dtype=jnp.uint32)
    return total | np.uint32(1)


def _bits(array):
    """The bits of every entry as uint32, flat; two a float64."""
    if array.dtype.itemsize == 2:
        return lax.bitcast_convert_type(array, jnp.uint16).astype(jnp.uint32).ravel()
    return lax.bitcast_convert_type(array, jnp.uint32).ravel()


def _seed(salt, array):
    """Tells inputs from targets, and shapes from each other."""
    mixed = salt
    for size in np.shape(array):
        mixed = (mixed * 1_000_003 + size) % 2**32
    return np.uint32(mixed)


def _mix(h):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return h ^ (h >> np.uint32(16))
