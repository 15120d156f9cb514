"""Rows on their way into a compiled program: padded, so that tables of nearly equal length share one."""

from typing import NamedTuple

import numpy as np

from jills.types import Batch

FEWEST = 16


class Rows(NamedTuple):
    """Rows of a table, each once."""

    inputs: np.ndarray  # (n, d)
    targets: np.ndarray  # (n, k)
    weights: np.ndarray  # (n,) all positive
    places: np.ndarray  # (rows that were given,) which of these each was; -1 where its weight was zero


def merged(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Rows:
    """Rows in a fixed order, equal ones once with the sum of their weights, without those of weight zero.

    So a row twice is the same as one of weight two, to the last bit, and neither the order of rows nor rows without
    weight change anything; and no row stands both inside a fold and outside of it.
    """
    used = weights > 0
    both = np.column_stack([inputs, targets])[used]
    rows, which = np.unique(both, axis=0, return_inverse=True)
    places = np.full(len(weights), -1)
    places[used] = np.ravel(which)
    d = inputs.shape[1]
    return Rows(rows[:, :d], rows[:, d:], np.bincount(np.ravel(which), weights[used], len(rows)), places)


def padded_size(count: int) -> int:
    """The next eighth of a power of two: at most an eighth more rows, and eight programs for a factor of two."""
    step = max(FEWEST, 2 ** (max(count, 1).bit_length() - 1)) // 8
    return max(FEWEST, -(-count // step) * step)


def padded(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Filled up with zeros along an axis."""
    missing = padded_size(values.shape[axis]) - values.shape[axis]
    return np.pad(values, [(0, missing if at == axis % values.ndim else 0) for at in range(values.ndim)])


def as_batch(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, dtype: np.dtype) -> Batch:
    """A padded batch: rows that fill it up have weight zero.

    Args:
        inputs: `(n, d)`, standardised.
        targets: `(n, k)`, likewise.
        weights: `(n,)`, or `(M, n)` where members have their own.
        dtype: to train in.
    """
    rows = (padded(inputs), padded(targets), padded(weights, axis=-1))
    return Batch(*(np.ascontiguousarray(each, dtype) for each in rows))
