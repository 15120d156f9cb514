"""Rows of arrays in memory, and of files mapped into it."""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from jills.arrays import check_array
from jills.training.streams.rows import BUFFER_BYTES, Rows, checked_buffer, default_weights, rows_of
from jills.types import Batch

BLOCKS = 32  # of a buffer


def batches(
    inputs: Any,
    targets: Any,
    batch_size: int,
    weights: Any = None,
    *,
    seed: int = 0,
    shuffle: bool = True,
    buffer_rows: int | None = None,
    drop_last: bool = False,
) -> Rows:
    """Rows of arrays, or of files mapped into memory, as batches of one length in another order each epoch.

    A `np.memmap` (also of `np.load(path, mmap_mode="r")`) is read from front to back in pieces of some MiB, and what
    was read is handed back: no more of it than a buffer is in memory at a time.

    Args:
        inputs: `(n, d)`, an array of NumPy or JAX, or a `np.memmap`; all columns of a file in which inputs and targets
            stand side by side are two views, `table[:, :d]` and `table[:, d:]`.
        targets: `(n, k)`, the same.
        batch_size: rows of a batch, B. The last batch of an epoch is filled up with rows of weight zero, so that one
            compiled program serves all.
        weights: `(n,)` not negative, or None for ones.
        seed: of the orders.
        shuffle: whether to change the order at all.
        buffer_rows: rows in memory at a time, shuffled among each other; None: as many as fill 64 MiB.
        drop_last: whether an epoch leaves out the rows that are too few for a whole batch, others each time. To train
            on: a Gauss–Newton step on a handful of rows leads anywhere.

    Returns:
        An iterable of `Batch`, with weights, of NumPy arrays in the dtypes given; memory for one buffer and a few
        batches, however many rows there are.

    Raises:
        ValueError: no arrays, or shapes that do not fit.
    """
    inputs, targets, weights = _checked(inputs, targets, weights)
    num_rows = len(inputs)
    bytes_of_row = sum(array.nbytes for array in (inputs, targets)) // num_rows or 1
    buffer_rows = checked_buffer(buffer_rows, max(1, BUFFER_BYTES // bytes_of_row))
    length = -(-buffer_rows // BLOCKS)
    ends = [*range(length, num_rows, length), num_rows]
    sizes = tuple(np.diff([0, *ends]).tolist())

    def read(block):
        where = slice(ends[block] - sizes[block], ends[block])
        piece = [np.array(array[where]) for array in (inputs, targets)]
        piece.append(default_weights(inputs, sizes[block]) if weights is None else np.array(weights[where]))
        for array in (inputs, targets, weights):
            _release(array)
        return Batch(*piece)

    return rows_of(sizes, read, batch_size, seed, shuffle, buffer_rows, drop_last)


def _release(array):
    """Lets the system have back what it has read of a file: it would keep it in the memory of this process."""
    # Not of a copy-on-write mapping, where what somebody wrote would be lost.
    mapped = getattr(array, "_mmap", None) if getattr(array, "mode", "c") != "c" else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _checked(inputs, targets, weights) -> Sequence[Any]:
    names = ("inputs", "targets", "weights")
    given = [(name, array) for name, array in zip(names, (inputs, targets, weights), strict=True) if array is not None]
    for name, array in given:
        check_array(name, array)
    shapes = [array.shape for _, array in given]
    fits = len(given) >= 2 and [len(shape) for shape in shapes] == [2, 2, 1][: len(shapes)]
    if not fits or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
        told = ", ".join(f"{name} {array.shape}" for name, array in given)
        raise ValueError(
            f"streams.batches: shapes are {told}; they must be (n, d), (n, k) and (n,) with one n ≥ 1; give one output "
            "as targets[:, None]"
        )
    on_host = [array if isinstance(array, np.ndarray) else np.asarray(array) for _, array in given]
    return on_host if len(on_host) == 3 else [*on_host, None]
