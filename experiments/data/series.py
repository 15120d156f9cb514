"""The time series of the experiments, cut into rows and split by time: every test row is later than all of training.

A row asks for one value of the series and offers, as inputs, values from before its time. Loaders raise MissingData
where a package or file is absent, and ValueError for too many lags or a split that leaves no row on one side.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.data.splits import Dataset, Split, cut, cut_share, regression, require, require_package

DAY = 48  # half hours
ELECTRICITY_START = np.datetime64("2014-01-01T00:00", "m")
ELNINO_START = np.datetime64("1950-01", "M")


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
    """
    datasets = require_package("sunspots", "statsmodels.datasets", "statsmodels")
    table = pd.DataFrame(datasets.sunspots.load_pandas().data)
    series = table["SUNACTIVITY"].to_numpy(np.float64)
    inputs = lag_windows(series, lags)
    years = table["YEAR"].to_numpy(np.int64)[lags:]
    num_train = int(np.searchsorted(years, test_from))
    train, test = cut(Split(inputs, series[lags:, None], years), num_train, f"test_from={test_from}")
    naive = test.inputs[:, -1:]
    return regression("sunspots", train, test, unit="sunspots", row_name="year", persistence=naive)


def elnino(folder: str | Path, *, lags: int = 12, horizon: int = 1, test_fraction: float = 0.2) -> Dataset:
    """Sea surface temperature of the Pacific off Peru, monthly, 1950 to 2010: `lags` months → a later one.

    El Niño is what makes it differ from one year to another. In the public domain.

    Args:
        folder: not read: the series comes with statsmodels.
        lags: how many months a row holds, the oldest first; the naive forecast repeats the newest.
        horizon: how many months before the target the newest of them lies; with 12 the naive forecast is last year's.
        test_fraction: the share of the rows, the latest, that is tested.
    """
    datasets = require_package("elnino", "statsmodels.datasets", "statsmodels")
    table = pd.DataFrame(datasets.elnino.load_pandas().data)  # a row a year, a column a month
    series = table.drop(columns="YEAR").to_numpy(np.float64).ravel()
    inputs = lag_windows(series, lags, horizon)
    months = ELNINO_START + np.arange(len(series))[-len(inputs) :]
    train, test = cut_share(Split(inputs, series[-len(inputs) :, None], months), test_fraction)
    naive = test.inputs[:, -1:]
    return regression("elnino", train, test, unit="°C", row_name="month", persistence=naive)


def electricity(folder: str | Path, *, lags: int = DAY, test_fraction: float = 0.2) -> Dataset:
    """Electricity demand of Victoria in 2014, every half hour: yesterday's and older demand → this half hour's.

    Inputs: demand `lags + 47, …, 48` steps back, the oldest first; whether it is a working day; the temperature; sine
    and cosine of the time of day. The temperature is the one observed at the time of the target, not a forecast of
    it: errors are ex-post, smaller than a forecaster could have had. The calendar is known beforehand.
    Times are standard time all year: under daylight saving the same routine comes an hour earlier.

    Args:
        folder: holds the file that `python -m experiments.data.fetch FOLDER electricity` writes.
        lags: how many half hours of demand a row holds; the naive forecast repeats the newest, 24 hours old.
        test_fraction: the share of the rows, the latest, that is tested.
    """
    path = require(folder, "electricity", "electricity.csv")
    table = pd.read_csv(path, usecols=["Demand", "WorkDay", "Temperature"])
    demand = table["Demand"].to_numpy(np.float64)
    windows = lag_windows(demand, lags, horizon=DAY)
    steps = np.arange(len(demand))[-len(windows) :]
    angle = 2 * np.pi * (steps % DAY) / DAY
    known = table[["WorkDay", "Temperature"]].to_numpy(np.float64)[steps]
    inputs = np.column_stack([windows, known, np.sin(angle), np.cos(angle)])
    times = ELECTRICITY_START + steps * np.timedelta64(30, "m")
    train, test = cut_share(Split(inputs, demand[steps, None], times), test_fraction)
    naive = test.inputs[:, lags - 1 : lags]  # the newest demand of the row
    return regression("electricity", train, test, unit="GW", row_name="time", persistence=naive)
