"""Rows that lie in blocks, in memory or on disk, as batches in another order each epoch.

A file is slow to read row by row, so it is read in blocks: all blocks in a random order, as many at a time as fill a
buffer, and the rows of a buffer are shuffled among each other. So two rows of one block end up in the same buffer, and
nothing else tells where a row comes; with 32 blocks in a buffer, that is hardly less random than a shuffle of all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from jills import checks
from jills.arrays import brief
from jills.types import Batch

BUFFER_BYTES = 2**26


@dataclass(frozen=True)
class Rows:
    """Batches of one length, epoch after epoch; made by `batches` or `files`.

    Attributes:
        sizes: rows of each block.
        read: `block → Batch` of NumPy arrays, with weights.
        num_rows: of all blocks.
        batch_size: rows of a batch; the last one of an epoch is filled up with rows of weight zero.
        seed: of the order.
        shuffle: whether rows come in another order than they lie in.
        buffer_rows: about as many are in memory at a time, and shuffled among each other.
        drop_last: whether an epoch leaves out the rows that are too few for a whole batch.
    """

    sizes: tuple[int, ...] = field(repr=False)
    read: Callable[[int], Batch] = field(repr=False)
    num_rows: int
    batch_size: int
    seed: int
    shuffle: bool
    buffer_rows: int
    drop_last: bool

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.num_rows // self.batch_size if self.drop_last else -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch zero."""
        return self.epoch(0)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            number: of the epoch, from zero; each has an order of its own, the same whenever it is asked for.
            first: batches to leave out, of which no more is read than the buffer in which the next one begins.
        """
        skip, left = first * self.batch_size, None
        for place, group in enumerate(self._groups(number)):
            count = sum(self.sizes[block] for block in group)
            if skip >= count:
                skip -= count
                continue
            order = self._order(number, place, count)[skip:]
            skip, rows = 0, self._gather(group, count)
            for start in _starts(left, len(order), self.batch_size):
                picked = order[max(start, 0) : start + self.batch_size]
                taken = _map(partial(np.take, indices=picked, axis=0), rows)
                left = taken if start >= 0 else _map(lambda *pieces: np.concatenate(pieces), left, taken)
                if len(left.inputs) == self.batch_size:
                    yield left
                    left = None
            del rows  # before the next buffer is read, so that there is one at a time
        if left is not None and not self.drop_last:
            yield _map(lambda array: _filled(array, self.batch_size), left)

    def _groups(self, number):
        """The blocks of each buffer."""
        if not self.shuffle:
            return [[block] for block in range(len(self.sizes))]
        groups, room = [], 0
        for block in np.random.default_rng([self.seed, number]).permutation(len(self.sizes)).tolist():
            if room <= 0:
                groups.append([])
                room = self.buffer_rows
            groups[-1].append(block)
            room -= self.sizes[block]
        return [sorted(group) for group in groups]  # a disk reads best from front to back

    def _order(self, number, place, count):
        """In which the rows of a buffer come."""
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng([self.seed, number, place + 1]).permutation(count)

    def _gather(self, group, count):
        """The rows of some blocks, copied."""
        buffer: Any = None
        end = 0
        for block in group:
            piece = self.read(block)
            if buffer is None:
                buffer = _map(lambda array: np.empty((count, *array.shape[1:]), array.dtype), piece)
            start, end = end, end + self.sizes[block]
            for target, source in zip(buffer, piece, strict=True):
                target[start:end] = source
        return buffer


def _starts(left, count, batch_size):
    """Where batches begin among `count` rows; below zero by the rows that a first one has already."""
    return range(0 if left is None else -len(left.inputs), count, batch_size)


def _map(function, *batches):
    return Batch(*(function(*arrays) for arrays in zip(*batches, strict=True)))


def _filled(array, length):
    filled = np.zeros((length, *array.shape[1:]), array.dtype)
    filled[: len(array)] = array
    return filled


def rows_of(
    sizes: Sequence[int],
    read: Callable[[int], Batch],
    batch_size: Any,
    seed: Any,
    shuffle: Any,
    buffer_rows: int,
    drop_last: Any,
) -> Rows:
    """`Rows` of blocks; raises ValueError where a number is no count, or no seed, or there are too few rows."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed is {brief(seed)}, but must be an integer, zero or more")
    batch_size, num_rows = checks.checked_count("batch_size", batch_size), sum(sizes)
    if drop_last and num_rows < batch_size:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {num_rows} rows, and drop_last=True would leave out all of "
            "them; give a smaller batch_size, or leave drop_last out"
        )
    return Rows(tuple(sizes), read, num_rows, batch_size, int(seed), bool(shuffle), buffer_rows, bool(drop_last))


def default_weights(inputs: np.ndarray, count: int) -> np.ndarray:
    """Ones, in the dtype of the inputs."""
    return np.ones(count, inputs.dtype if inputs.dtype.kind == "f" else np.float32)


def checked_buffer(buffer_rows: Any, default: int) -> int:
    """Rows in memory at a time."""
    return default if buffer_rows is None else checks.checked_count("buffer_rows", buffer_rows)
