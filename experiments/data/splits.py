"""What every data set of the experiments is made of: two splits, scaled with training statistics only.

The loaders are in `series`, `tables`, `images` and `cifar`; their names in `catalogue`.
"""

import importlib
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class MissingData(Exception):
    """A data set is not on this machine; the message is one line and ends in how to get it."""


class Split(NamedTuple):
    """Some rows of a data set."""

    inputs: np.ndarray  # (n, d) scaled; float64, images float32
    targets: np.ndarray  # (n, k) float64: scaled numbers, or one-hot classes
    rows: np.ndarray  # (n,) which rows these are: years or datetime64 of a series, else positions in the source
    labels: np.ndarray | None = None  # (n,) int64, the classes; None for regression

    def take(self, rows: np.ndarray | slice) -> "Split":
        """Some of the rows, or all in another order."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(self.inputs[rows], self.targets[rows], self.rows[rows], labels)


class Dataset(NamedTuple):
    """A task. Regression: the original units are `scaled * target_scale + target_mean`."""

    name: str
    train: Split
    test: Split
    target_mean: np.ndarray  # (k,) in `unit`; 0 for classes
    target_scale: np.ndarray  # (k,) in `unit`; 1 for classes
    unit: str  # of the targets before scaling, for the axis of a figure
    row_name: str  # what `rows` count
    persistence: np.ndarray | None = None  # (n_test, k) a series' naive forecast, scaled like the targets; else None
    num_classes: int | None = None  # k for classification; None for regression


def require(folder: str | Path, name: str, file: str) -> Path:
    """The path of a file of the data set `name`, where `experiments.data.fetch` puts it.

    Raises:
        MissingData: the file is absent.
    """
    path = Path(folder) / file
    if not path.is_file():
        command = f"python -m experiments.data.fetch {shlex.quote(str(folder))} {name}"
        raise MissingData(f"the data set {name} is missing: there is no file {path}; get it with: {command}")
    return path


def require_package(name: str, module: str, package: str) -> Any:
    """The module of a package that brings the data set `name`; imported only here, since such packages are slow.

    Raises:
        MissingData: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Something else that is missing is a broken installation, and not for this message to hide.
        if str(error.name).split(".")[0] != module.split(".")[0]:
            raise
        message = f"the data set {name} comes with the package {package}, which is not installed"
        raise MissingData(f"{message}; get it with: python -m pip install {package}") from error


def shuffled(whole: Split, seed: int) -> Split:
    """The rows in a random order that depends on `seed` and their number alone.

    Of NumPy's random streams only the raw one is promised to stay the same in all versions, and with it the split
    that published numbers belong to.
    """
    order = np.argsort(np.random.PCG64(seed).random_raw(len(whole.rows)), kind="stable")
    return whole.take(order)


def cut_share(whole: Split, test_fraction: float) -> tuple[Split, Split]:
    """The rows to train on, and the last ones, the share `test_fraction` of all, to test on.

    Raises:
        ValueError: the fraction does not lie in (0, 1), or one part is empty.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction}: must lie between 0 and 1, both excluded")
    num_rows = len(whole.rows)
    return cut(whole, num_rows - round(test_fraction * num_rows), f"test_fraction={test_fraction}")


def cut(whole: Split, num_train: int, option: str) -> tuple[Split, Split]:
    """The first `num_train` rows and the others.

    Raises:
        ValueError: one part is empty, which is blamed on `option`, such as `"test_from=1950"`.
    """
    num_rows = len(whole.rows)
    if not 0 < num_train < num_rows:
        raise ValueError(
            f"{option} leaves {num_train} training rows and {num_rows - num_train} test rows, "
            f"both need at least one: the rows run from {whole.rows.min()} to {whole.rows.max()}"
        )
    return whole.take(slice(None, num_train)), whole.take(slice(num_train, None))


def regression(
    name: str, train: Split, test: Split, *, unit: str, row_name: str, persistence: np.ndarray | None = None
) -> Dataset:
    """Scales every column of inputs and targets to mean 0 and deviation 1 in training.

    Args:
        name: the data set.
        train: unscaled.
        test: unscaled; has no part in the statistics.
        unit: of the targets.
        row_name: what `rows` count.
        persistence: `(n_test, k)`, unscaled, of a series.

    Returns:
        The data set.
    """
    input_mean, input_scale = _statistics(train.inputs)
    mean, scale = _statistics(train.targets)
    train, test = (
        split._replace(inputs=(split.inputs - input_mean) / input_scale, targets=(split.targets - mean) / scale)
        for split in (train, test)
    )
    naive = None if persistence is None else (persistence - mean) / scale
    return Dataset(name, train, test, mean, scale, unit, row_name, persistence=naive)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, `(d,)` each."""
    # A column that is constant in training gets scale 1: its deviation is rounding, and dividing by it would be noise.
    return values.mean(axis=0), np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1.0)
