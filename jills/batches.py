"""Rows to train on, made ready once at the start of a run: dtype, row weights, and what tells them from other rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.arrays import cast
from jills.types import Batch

LARGEST_EXPONENT = 60  # of weights whose sum means something


def total_weight(batch: Batch, dtype) -> jax.Array:
    """The sum of the weights as they were given, `()`: the number of rows, where each has weight one."""
    if batch.weights is None:
        return jnp.asarray(batch.inputs.shape[0], dtype)
    return jnp.sum(cast(_relative(batch.weights, dtype, LARGEST_EXPONENT), dtype))


def cast_known(batch: Batch, dtype) -> Batch:
    """The batch in a dtype, for a program that is compiled once for it; arrays of JAX that are in it stay as they are.

    NumPy's are cast here and not by JAX, which would first bring float64 and int64 to 32 bits where 64 are off.
    Weights stay as large as they are, for algorithms to which their sum tells the number of rows, unless they are so
    large or small that no dtype would hold it.
    """
    inputs, targets = (array if _is_ready(array, dtype) else cast(array, dtype) for array in batch[:2])
    weights: Any = batch.weights
    if not (weights is None or _is_ready(weights, dtype)):
        weights = cast(_relative(weights, dtype, LARGEST_EXPONENT), dtype)
    return Batch(inputs, targets, weights)


def _is_ready(array, dtype):
    return isinstance(array, jax.Array) and array.dtype == dtype


def clean(batch: Batch, dtype) -> Batch:
    """The batch in a dtype, its largest weight near one, and zeros in the rows of weight zero (they may hold NaN)."""
    inputs, targets = (cast(array, dtype) for array in batch[:2])
    if batch.weights is None:
        return Batch(inputs, targets)
    weights = cast(_relative(batch.weights, dtype), dtype)
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


def _relative(weights, dtype, spared=0):
    """Weights times the power of two that brings their largest near one: all 1e-46 must not vanish in float32.

    Not where its exponent is no more than `spared`.

    A power of two changes no digit, so that NumPy and every program of JAX agree on the result. Weights of fewer bits
    than a dtype are brought to it first.
    """
    library: Any = jnp
    if isinstance(weights, np.ndarray):
        library, floats = np, weights.dtype.kind == "f"
        weights = weights.astype(np.longdouble if floats and weights.dtype.itemsize > 8 else np.float64)
    elif not jnp.issubdtype(weights.dtype, jnp.floating) or weights.dtype.itemsize < np.dtype(dtype).itemsize:
        weights = weights.astype(dtype)
    _, exponent = library.frexp(library.max(weights))
    exponent = library.where(abs(exponent) > spared, exponent, 0)
    return library.ldexp(weights, -exponent)


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


def of_other_rows(mark) -> Any:
    """A fingerprint that no batch has, for a state that is to be seen anew on its rows; 0, of none, stays 0."""
    return jnp.where(jnp.asarray(mark, jnp.uint32) == 0, np.uint32(0), np.uint32(2))


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
