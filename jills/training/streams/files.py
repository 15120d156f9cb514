"""Columns of Parquet and Arrow files, as batches in another order each epoch."""

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jills.arrays import brief
from jills.training.streams.rows import BUFFER_BYTES, Rows, checked_buffer, default_weights, rows_of
from jills.types import Batch


def files(
    paths: str | Path | Sequence[str | Path],
    inputs: Sequence[str],
    targets: Sequence[str],
    batch_size: int,
    weights: str | None = None,
    *,
    dtype: Any = "float32",
    seed: int = 0,
    shuffle: bool = True,
    buffer_rows: int | None = None,
    drop_last: bool = False,
) -> Rows:
    """Rows of Parquet or Arrow (Feather) files as batches of one length in another order each epoch.

    A block is a row group of a Parquet file, a record batch of an Arrow file. Both are read whole, and only the columns
    asked for; so a buffer is never less than one of them, and where the order matters files should have many.

    Args:
        paths: one or several, ending in `.parquet`, or `.arrow` or `.feather`.
        inputs: names of d columns of numbers.
        targets: names of k columns.
        batch_size: see `batches`, as for `seed`, `shuffle` and `drop_last`.
        weights: the name of a column of row weights, or None for ones.
        dtype: of the batches; a number that is missing is NaN in it.
        seed: of the orders.
        shuffle: whether to change the order at all.
        buffer_rows: about as many are in memory at a time; None: as many as fill 64 MiB.
        drop_last: whether an epoch leaves out the rows that are too few for a whole batch.

    Raises:
        ImportError: there is no pyarrow.
        ValueError: other files, columns that they do not have, or columns of no numbers.
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    names = [*_names("inputs", inputs), *_names("targets", targets), *([] if weights is None else [weights])]
    lengths = [_lengths(path, names) for path in paths]
    sizes = tuple(itertools.chain(*lengths))
    if not sum(sizes):
        raise ValueError(f"streams.files: paths are {brief(paths)}, which hold no rows; at least one is needed")
    ends = list(itertools.accumulate(len(each) for each in lengths))
    kind = np.dtype(dtype)
    first, second = len(inputs), len(inputs) + len(targets)

    def read(block):
        place = bisect.bisect_right(ends, block)
        within = block - (ends[place] - len(lengths[place]))
        table = _columns(paths[place], within, names, kind)
        own = default_weights(table, len(table)) if weights is None else table[:, -1]
        return Batch(table[:, :first], table[:, first:second], own)

    buffer_rows = checked_buffer(buffer_rows, max(1, BUFFER_BYTES // (kind.itemsize * len(names))))
    return rows_of(sizes, read, batch_size, seed, shuffle, buffer_rows, drop_last)


def _names(what, names):
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} are {brief(names)}, but must be names of columns, such as ['age', 'income']")
    return names


def _lengths(path, names):
    """Rows of each block of a file; raises ValueError where it lacks columns, or they are no numbers."""
    arrow = import_pyarrow()
    if path.suffix == ".parquet":
        with arrow.parquet.ParquetFile(path) as file:
            schema, groups = file.schema_arrow, file.metadata
            sizes = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
    elif path.suffix in (".arrow", ".feather"):
        with arrow.memory_map(str(path)) as mapped, arrow.ipc.open_file(mapped) as file:
            schema = file.schema
            sizes = [file.get_batch(index).num_rows for index in range(file.num_record_batches)]
    else:
        raise ValueError(f"streams.files: path is {path}, but must end in .parquet, .arrow or .feather")
    for name in names:
        if name not in schema.names:
            raise ValueError(f"{path} has no column {name!r}; its columns are {brief(schema.names)}")
        kind, known = schema.field(name).type, arrow.types
        if not any(is_kind(kind) for is_kind in (known.is_integer, known.is_floating, known.is_boolean)):
            raise ValueError(f"{path}: column {name!r} is of {kind}, but must be of numbers; encode it first")
    return sizes


def _columns(path, block, names, dtype):
    """Columns of a block, `(n, len(names))`."""
    arrow = import_pyarrow()
    if path.suffix == ".parquet":
        with arrow.parquet.ParquetFile(path) as file:
            table = file.read_row_group(block, columns=list(dict.fromkeys(names)))
    else:
        with arrow.memory_map(str(path)) as mapped, arrow.ipc.open_file(mapped) as file:
            table = arrow.Table.from_batches([file.get_batch(block)])
    values = np.empty((table.num_rows, len(names)), dtype)
    for place, name in enumerate(names):
        column = table.column(name).cast(arrow.from_numpy_dtype(dtype), safe=False)
        values[:, place] = column.to_numpy()
    return values


def import_pyarrow() -> Any:
    """Pyarrow; raises ImportError with the line to install it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet and Arrow files are read by pyarrow: pip install 'jills[streams]'") from error
    return pyarrow
