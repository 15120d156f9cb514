"""The time series of the experiments: loaded, cut into rows, split by time and scaled with training statistics.

A row asks for one value of the series and offers, as inputs, values from before its time. What is not part of an
installed package is read from a folder that `experiments.fetch_data` fills.
"""

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

DAY = 48  # half hours
ELECTRICITY_START = np.datetime64("2014-01-01T00:00", "m")


class MissingData(Exception):
    """A data set is not on this machine; the message is one line and ends in the command that gets it."""


class Split(NamedTuple):
    """Some rows of a data set, in the order of time."""

    inputs: np.ndarray  # (n, d) float64, scaled
    targets: np.ndarray  # (n, k) float64, scaled
    rows: np.ndarray  # (n,) when each target happened: years, or datetime64


class Dataset(NamedTuple):
    """A forecasting task. The original units are `scaled * target_scale + target_mean`."""

    name: str
    train: Split
    test: Split  # every row of it is later than every row of train
    persistence: np.ndarray  # (n_test, k) what a naive forecast says for the test rows, scaled like the targets
    target_mean: np.ndarray  # (k,) in `unit`
    target_scale: np.ndarray  # (k,) in `unit`
    unit: str  # of the targets before scaling, for the axis of a figure
    row_name: str  # what `rows` count


def require(folder: str | Path, name: str, file: str) -> Path:
    """The path of `file` in `folder`, if it is there.

    Args:
        folder: where `experiments.fetch_data` put its files.
        name: the data set, as `experiments.fetch_data` calls it.
        file: the file it consists of.

    Returns:
        The path of an existing file.

    Raises:
        MissingData: the file is absent.
    """
    path = Path(folder) / file
    if not path.is_file():
        command = f"python -m experiments.fetch_data {shlex.quote(str(folder))} {name}"
        raise MissingData(f"the data set {name} is missing: there is no file {path}; get it with: {command}")
    return path


def lag_windows(series: np.ndarray, lags: int, horizon: int = 1) -> np.ndarray:
    """For every time t that has them: series[t - horizon - lags + 1], …, series[t - horizon], the oldest first.

    Args:
        series: `(length,)`.
        lags: how many values a row holds.
        horizon: how many steps before t the newest of them lies; 1 is the value just before.

    Returns:
        `(length - horizon - lags + 1, lags)`. Its first row belongs to t = horizon + lags - 1.

    Raises:
        ValueError: `lags` or `horizon` is below 1, or the series is too short for a single row.
    """
    longest = len(series) - horizon
    if horizon < 1:
        raise ValueError(f"horizon={horizon}: must be at least 1, or a row would hold the value it asks for")
    if not 1 <= lags <= longest:
        raise ValueError(
            f"lags={lags}: must lie between 1 and {longest} for {len(series)} values, {horizon} steps ahead"
        )
    # The last `horizon` windows have their time t after the end of the series.
    return np.lib.stride_tricks.sliding_window_view(series, lags)[:-horizon]


def sunspots(folder: str | Path, *, lags: int = 8, test_from: int = 1950) -> Dataset:
    """Yearly sunspot numbers, 1700 to 2008: the last `lags` years → the next year. In the public domain.

    Args:
        folder: not read: the series comes with statsmodels.
        lags: how many years a row holds, the oldest first; the naive forecast repeats the newest.
        test_from: the first year that is tested; the years before it train.

    Returns:
        The data set, with `lags` inputs.

    Raises:
        ValueError: too many lags, or no row left on one side of the split.
    """
    from statsmodels import datasets  # slow to import, and the other data sets do without it

    table = pd.DataFrame(datasets.sunspots.load_pandas().data)
    series = table["SUNACTIVITY"].to_numpy(np.float64)
    inputs = lag_windows(series, lags)
    years = table["YEAR"].to_numpy(np.int64)[lags:]
    return _dataset(
        name="sunspots",
        whole=Split(inputs, series[lags:, None], years),
        persistence=inputs[:, -1:],
        num_train=int(np.searchsorted(years, test_from)),
        option=f"test_from={test_from}",
        unit="sunspots",
        row_name="year",
    )


def electricity(folder: str | Path, *, lags: int = DAY, test_fraction: float = 0.2) -> Dataset:
    """Electricity demand of Victoria in 2014, every half hour: yesterday's and older demand → this half hour's.

    Inputs: demand `lags + 47, …, 48` steps back, the oldest first; whether it is a working day; the temperature; sine
    and cosine of the time of day. The temperature is the one observed at the time of the target, not a forecast of
    it: errors are ex-post, smaller than a forecaster could have had. The calendar is known beforehand.
    Times are standard time all year: under daylight saving the same routine comes an hour earlier.

    Args:
        folder: holds the file that `python -m experiments.fetch_data FOLDER electricity` writes.
        lags: how many half hours of demand a row holds; the naive forecast repeats the newest, 24 hours old.
        test_fraction: the share of the rows, the latest, that is tested.

    Returns:
        The data set, with `lags + 4` inputs.

    Raises:
        MissingData: the file is absent.
        ValueError: too many lags, a fraction outside (0, 1), or no row left on one side of the split.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction}: must lie between 0 and 1, both excluded")
    path = require(folder, "electricity", "electricity.csv")
    table = pd.read_csv(path, usecols=["Demand", "WorkDay", "Temperature"])
    demand = table["Demand"].to_numpy(np.float64)
    windows = lag_windows(demand, lags, horizon=DAY)
    steps = np.arange(len(demand))[-len(windows) :]
    angle = 2 * np.pi * (steps % DAY) / DAY
    known = table[["WorkDay", "Temperature"]].to_numpy(np.float64)[steps]
    inputs = np.column_stack([windows, known, np.sin(angle), np.cos(angle)])
    times = ELECTRICITY_START + steps * np.timedelta64(30, "m")
    return _dataset(
        name="electricity",
        whole=Split(inputs, demand[steps, None], times),
        persistence=windows[:, -1:],
        num_train=len(steps) - round(test_fraction * len(steps)),
        option=f"test_fraction={test_fraction}",
        unit="GW",
        row_name="time",
    )


DATASETS: dict[str, Callable[..., Dataset]] = {"sunspots": sunspots, "electricity": electricity}
"""Name → loader(folder, **options)."""


def load(name: str, folder: str | Path, **options: Any) -> Dataset:
    """The data set called `name`.

    Args:
        name: a key of `DATASETS`.
        folder: where `experiments.fetch_data` put its files.
        options: the keyword arguments of that loader.

    Returns:
        The data set.

    Raises:
        MissingData: a file is absent.
        ValueError: the name or an option is unknown, or an option has a value that does not fit.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
    allowed = list(inspect.signature(DATASETS[name]).parameters)[1:]  # without the folder
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)} of {name}: choose from {', '.join(allowed)}")
    return DATASETS[name](folder, **options)


def _dataset(
    *, name: str, whole: Split, persistence: np.ndarray, num_train: int, option: str, unit: str, row_name: str
) -> Dataset:
    """Cuts unscaled rows after the first `num_train` and scales them; `option` is what a failed split is blamed on."""
    num_rows = len(whole.rows)
    if not 0 < num_train < num_rows:
        raise ValueError(
            f"{option} leaves {num_train} training rows and {num_rows - num_train} test rows, "
            f"both need at least one: the rows run from {whole.rows[0]} to {whole.rows[-1]}"
        )
    input_mean, input_scale = _statistics(whole.inputs[:num_train])
    target_mean, target_scale = _statistics(whole.targets[:num_train])
    inputs = (whole.inputs - input_mean) / input_scale
    targets = (whole.targets - target_mean) / target_scale
    return Dataset(
        name=name,
        train=Split(inputs[:num_train], targets[:num_train], whole.rows[:num_train]),
        test=Split(inputs[num_train:], targets[num_train:], whole.rows[num_train:]),
        persistence=(persistence[num_train:] - target_mean) / target_scale,
        target_mean=target_mean,
        target_scale=target_scale,
        unit=unit,
        row_name=row_name,
    )


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, `(d,)` each."""
    # A column that is constant in training gets scale 1: its deviation is rounding, and dividing by it would be noise.
    return values.mean(axis=0), np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1.0)
