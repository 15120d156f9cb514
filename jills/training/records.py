"""The records of a sweep on disk in place of memory: a folder of Zarr, which xarray opens lazily.

    zarr.json                  what it is of, and in the end `num_steps`, the steps that it has
    loss, update_norm, …       `Info`: arrays `[H, S, T, …]` under the names of `SweepResult.to_xarray`
    hparam, seed, step, …      coordinates: places, and each hyperparameter

An array lies in pieces of many steps. A piece is written once, when all its steps are known and one more; those after
it are in memory, and in the files of the checkpoints. So whatever ends a process, all pieces that a checkpoint counts
on are whole, and what came after them is written again in the same place. Until the end there is NaN (or zero) for
steps to come.
"""

import math
import os
import warnings
from contextlib import suppress
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jills.arrays import brief
from jills.training import tables
from jills.training.chunks import Progress
from jills.types import Info

NUMBERS = 2**18  # in a piece of an array with one number a step
OWNER = "jills_sweep"  # the attribute that tells of which checkpoints a folder is
COMPLETE = "num_steps"  # the one that tells how many steps are there in the end


class Records:
    """The records of one sweep. They are written to, and so never handed out."""

    def __init__(self, path: Any, owner: str, stored: int, shape: tuple[int, int], hparams: Any, algorithm: str):
        """Looks whether a folder may be written to.

        Args:
            path: the folder.
            owner: a name of the checkpoints that it goes with; empty: there are none.
            stored: steps that they count on.
            shape: (H, S).
            hparams: leaves `(H,)`.
            algorithm: its description.

        Raises:
            ImportError: Zarr is not installed.
            ValueError: `path` is none, or holds something else.
        """
        self._zarr = _zarr()
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"records is {brief(path)}, but must be the path of a folder")
        self._path = Path(path).absolute()
        self._about = {OWNER: owner, "algorithm": algorithm}
        self._shape, self._hparams, self._stored = shape, hparams, stored
        self._arrays: dict[str, Any] = {}
        self._num_steps = 0
        there = self._path.exists() and not (self._path.is_dir() and not any(self._path.iterdir()))
        if there and not (owner and self._attributes().get(OWNER) == owner):
            raise ValueError(f"records: {self._path} is there already, and not of this sweep; give another path")
        if stored and not there:
            raise ValueError(
                f"records: {self._path} is not there, but the first {stored} steps are in the folder that the sweep "
                "began with; give that one, or another checkpoint="
            )

    def _attributes(self):
        try:
            return self._zarr.open_group(self._path, mode="r", use_consolidated=False).attrs
        except Exception:  # it may hold anything
            return {}

    @property
    def length(self) -> int:
        """Steps in a piece."""
        first = next(iter(self._arrays.values()), None)
        return math.ceil(NUMBERS / math.prod(self._shape)) if first is None else first.chunks[2]

    def begin(self, num_steps: int) -> None:
        """Makes room for so many steps; raises OSError where the folder cannot be written."""
        self._num_steps = num_steps
        group = self._group()
        group.attrs.pop(COMPLETE, None)
        if self._stored:
            self._arrays = {name: array for name, array in group.arrays() if array.ndim >= 3}
            self._resize(group, num_steps)

    def _group(self):
        return self._zarr.open_group(self._path, mode="a", use_consolidated=False, attributes=self._about)

    def take(self, progress: Progress) -> Progress:
        """Writes the pieces that are complete, and leaves the steps after them in memory: one at least."""
        start = progress.stored or 0
        count = (progress.done - 1 - start) // self.length * self.length
        if count <= 0:
            return progress
        whole, done = _joined(progress.infos), start + count
        self._write(start, jax.tree.map(lambda leaf: leaf[:, :count], whole))
        self._sync(range(start // self.length, done // self.length))
        rest = jax.tree.map(lambda leaf: leaf[:, count:].copy(), whole)
        return progress._replace(infos=[rest], stored=done)

    def finish(self, progress: Progress, num_steps: int) -> tuple[Info, int]:
        """Writes the rest; after an early end its last column is repeated to the end, see `chunks.join_infos`.

        Returns:
            `Info` with arrays of Zarr, `[H, S, T, …]`, that read what is indexed; and T.
        """
        total = progress.done if progress.interrupted else num_steps
        rest = _joined(progress.infos)
        if self._attributes().get(COMPLETE) != total:
            if not self._num_steps:  # nothing was trained
                self.begin(total)
            self._write(progress.stored or 0, rest)
            for first in range(progress.done, total, self.length):
                count = min(self.length, total - first)
                self._write(first, jax.tree.map(lambda leaf, n=count: np.repeat(leaf[:, -1:], n, axis=1), rest))
            group = self._group()
            self._resize(group, total)
            group.attrs[COMPLETE] = total
            self._consolidate()
        group = self._zarr.open_group(self._path, mode="r", use_consolidated=False)
        return jax.tree.unflatten(jax.tree.structure(rest), [group[name] for name in self._named(rest)]), total

    def _named(self, info) -> dict[str, np.ndarray]:
        """`[H, S, n, …]` by name, in the order of its leaves `[M, n, …]`."""
        told = tables.records(jax.tree.map(lambda leaf: leaf.reshape(*self._shape, *leaf.shape[1:]), info))
        if len(told) != len(jax.tree.leaves(info)):
            raise ValueError("records: two metrics have the same name, or some are no numbers; give them other names")
        return told

    def _write(self, start, info):
        told = self._named(info)
        self._arrays = self._arrays or self._made(told)
        for name, values in told.items():
            self._arrays[name][:, :, start : start + values.shape[2]] = values

    def _made(self, told):
        """Arrays like those that are to be written, for all steps; and the coordinates."""
        group, length, made = self._group(), self.length, {}
        for name, like in told.items():
            made[name] = group.create_array(
                name,
                shape=(*self._shape, self._num_steps, *like.shape[3:]),
                chunks=(*self._shape, length, *like.shape[3:]),
                dtype=like.dtype,
                fill_value=np.nan if like.dtype.kind in "fc" else 0,
                dimension_names=tables.dimensions(name, like),
                overwrite=True,
            )
        settings = tables.settings(self._hparams, told)
        group.attrs["coordinates"] = " ".join(settings)
        for name, values in settings.items():
            group.create_array(name, data=values, dimension_names=tables.AXES[:1], overwrite=True)
        for name, size in zip(tables.AXES, (*self._shape, self._num_steps), strict=True):
            _count(group, name, size)
        self._consolidate()
        return made

    def _resize(self, group, num_steps):
        for array in self._arrays.values():
            array.resize((*array.shape[:2], num_steps, *array.shape[3:]))
        _count(group, tables.AXES[2], num_steps)
        self._consolidate()

    def _consolidate(self):
        """Writes what xarray looks for, and warns where it does not find it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other readers of Zarr may not look for it
            self._zarr.consolidate_metadata(self._path)

    def _sync(self, pieces):
        """Brings pieces to the disk, since checkpoints will count on them."""
        for (name, array), piece in product(self._arrays.items(), pieces):
            key = array.metadata.encode_chunk_key((0, 0, piece, *[0] * (array.ndim - 3)))
            # Where all of it is NaN there is no file.
            with suppress(FileNotFoundError), (self._path / name / key).open("r+b") as file:
                os.fsync(file.fileno())


def _joined(infos):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *infos)


def _count(group, name, size):
    group.create_array(name, data=np.arange(size), dimension_names=(name,), overwrite=True)


def _zarr() -> Any:
    try:
        return import_module("zarr")
    except ImportError as error:
        raise ImportError("records= needs zarr: pip install zarr (or jills with its extra, records)") from error
