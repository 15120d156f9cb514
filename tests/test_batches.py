"""Rows as they are made ready, and the fingerprint that tells them from others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jills
from jills.batches import fingerprint, prepare

ROWS = np.random.default_rng(0)
ARRAYS: Any = (ROWS.standard_normal((11, 3)), ROWS.standard_normal((11, 2)), ROWS.uniform(0.5, 2.0, 11))
BATCH = jills.Batch(*ARRAYS)


@jax.jit(static_argnums=1)
def mark(batch, dtype="float64"):
    return fingerprint(batch, dtype)


def test_weights_have_sum_one_and_rows_of_weight_zero_are_zero(dtype):
    weights = np.linspace(0.0, 5.0, 11)
    batch = BATCH._replace(inputs=np.where(weights[:, None] > 0, BATCH.inputs, np.nan), weights=weights)
    ready: Any = jax.jit(lambda batch: prepare(batch, dtype))(batch)
    tolerance = 1e-6 if dtype == "float32" else 1e-15
    np.testing.assert_allclose(ready.weights, weights / weights.sum(), rtol=tolerance)
    np.testing.assert_allclose(ready.inputs[1:], BATCH.inputs[1:], rtol=tolerance)
    np.testing.assert_array_equal(ready.inputs[0], 0)
    assert all(leaf.dtype == dtype for leaf in ready)
    assert prepare(BATCH._replace(weights=None), dtype).weights is None


@pytest.mark.parametrize("size", [1e-46, 1e-300, 1e37, 1e300])
def test_weights_of_any_size_mean_the_same_in_float32(size):
    """Right: as ones. Cast first, they would vanish or overflow."""
    ready: Any = prepare(BATCH._replace(weights=np.full(11, size)), "float32")
    np.testing.assert_allclose(ready.weights, 1 / 11, rtol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "int8", "bool"])
def test_weights_of_few_bits_are_rounded_to_no_fewer(kind, dtype):
    """A third used to be .334 in bfloat16, and the last bit to depend on who divided."""
    weights = jnp.asarray(np.arange(11) % 4, kind)
    ready: Any = jax.jit(lambda batch: prepare(batch, dtype))(BATCH._replace(weights=weights))
    expected = np.asarray(weights).astype(float) / np.asarray(weights).astype(float).sum()
    np.testing.assert_allclose(ready.weights, expected, rtol=1e-6 if dtype == "float32" else 1e-15)
    numpys: Any = np.asarray(weights)
    np.testing.assert_array_equal(ready.weights, prepare(BATCH._replace(weights=numpys), dtype).weights)
    assert mark(BATCH._replace(weights=weights), dtype) == mark(BATCH._replace(weights=numpys), dtype)


def test_all_weights_zero_stay_zero():
    ready: Any = prepare(BATCH._replace(weights=np.zeros(11)), "float32")
    np.testing.assert_array_equal(ready.weights, 0)


def test_equal_rows_have_equal_fingerprints(dtype):
    """NumPy or JAX, inside or outside of jit; never the one that stands for no batch."""
    marks = {
        int(mark(BATCH, dtype)),
        int(fingerprint(BATCH, dtype)),
        int(mark(jax.tree.map(jnp.asarray, BATCH), dtype)),
    }
    assert len(marks) == 1
    assert marks != {0}


CHANGES = {
    "a sign": lambda batch: batch._replace(targets=np.where(np.arange(22).reshape(11, 2) == 7, -1, 1) * batch.targets),
    "all signs": lambda batch: batch._replace(targets=-batch.targets),
    "two rows exchanged": lambda batch: jax.tree.map(lambda leaf: leaf[[1, 0, *range(2, 11)]], batch),
    "columns exchanged": lambda batch: batch._replace(inputs=batch.inputs[:, [1, 0, 2]]),
    "no weights": lambda batch: batch._replace(weights=None),
    "weights": lambda batch: batch._replace(weights=batch.weights * np.r_[2.0, np.ones(10)]),
    "tiny weights": lambda batch: batch._replace(weights=1e-300 * batch.weights[::-1]),
    "fewer rows": lambda batch: jax.tree.map(lambda leaf: leaf[:10], batch),
    "rounding": lambda batch: batch._replace(inputs=batch.inputs * (1 + 1e-15)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_rows_have_another_fingerprint(change):
    assert mark(BATCH) != mark(change(BATCH))


def test_the_shapes_count():
    wide, narrow = np.zeros((11, 3)), np.zeros((11, 2))
    assert mark(jills.Batch(wide, narrow)) != mark(jills.Batch(narrow, wide))  # pyright: ignore[reportArgumentType]


SAME = {
    "weights doubled": lambda batch: batch._replace(weights=2 * batch.weights),
    "what a row of weight zero holds": lambda batch: batch._replace(
        inputs=np.where(np.arange(11)[:, None] == 4, np.nan, batch.inputs)
    ),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_means_the_same_has_the_same_fingerprint(change):
    batch = BATCH._replace(weights=np.where(np.arange(11) == 4, 0.0, ARRAYS[2]))
    assert mark(batch) == mark(change(batch))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.integers(0, 32), bit=st.integers(0, 63))
def test_any_single_bit_changes_it(place, bit):
    inputs = BATCH.inputs.copy()
    flat = inputs.view(np.uint64).ravel()
    flat[place] ^= np.uint64(1) << np.uint64(bit)
    assert mark(BATCH._replace(inputs=inputs)) != mark(BATCH)
