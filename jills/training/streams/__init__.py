"""Rows that do not fit into memory: read from files batch by batch, to train on or to solve in one pass.

    rows = streams.batches(inputs, targets, 2048)          arrays, files mapped into memory: another order each epoch
    rows = streams.files("table.parquet", ["x"], ["y"], 2048)                     columns of Parquet and Arrow files
    state, record = streams.fit(algorithm, hparams, params, rows, epochs=3, checkpoint="training.npz")
    found = streams.least_squares(rows)                    a linear model, or an output layer: exact, in one pass
    found = streams.evidence(rows)                         the same with its regularisation and noise chosen

Whatever gives one `jills.Batch` after another may stand in place of `rows`; `prefetch` reads ahead. Memory holds one
buffer of rows, 64 MiB unless asked for otherwise, and some batches, however long the files are.

The modules of this package are private; what is public stands here.
"""

from jills.training.streams.arrays import batches
from jills.training.streams.files import files
from jills.training.streams.fitting import fit
from jills.training.streams.linear_evidence import Posterior, evidence
from jills.training.streams.prefetching import prefetch
from jills.training.streams.rows import Rows
from jills.training.streams.setup import Checkpoint, Record
from jills.training.streams.triangle import LeastSquares, Triangle, least_squares, triangle

__all__ = [
    "Checkpoint",
    "LeastSquares",
    "Posterior",
    "Record",
    "Rows",
    "Triangle",
    "batches",
    "evidence",
    "files",
    "fit",
    "least_squares",
    "prefetch",
    "triangle",
]
