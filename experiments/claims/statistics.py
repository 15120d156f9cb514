"""What is drawn from the tidy tables of the claims: groups, medians with intervals, best rates, curves."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.records import diverged_last


def parts(table: pd.DataFrame, *by: str) -> list[tuple[tuple, pd.DataFrame]]:
    """The rows with equal values in some columns: pairs of these values and the rows, in the order of the table."""
    groups = table.groupby(list(by), sort=False, dropna=False)
    return [(key if isinstance(key, tuple) else (key,), pd.DataFrame(part)) for key, part in groups]


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    mask = np.ones(len(table), bool)
    for name, value in values.items():
        mask &= table[name].to_numpy() == value
    return pd.DataFrame(table[mask])


def last(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last step."""
    return pd.DataFrame(table[table["status"].notna()])


def median_interval(values: Any, resamples: int = 1000) -> tuple[float, float, float]:
    """The median with its 95 % bootstrap interval, `(low, median, high)`; what diverged ranks last.

    The percentile bootstrap over the members, with a fixed seed.
    """
    values = diverged_last(values)
    picks = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5], method="nearest")
    return float(low), float(np.median(values)), float(high)


def show_interval(values: Any) -> str:
    """A median with its interval, as text: `0.12 (0.10–0.15)`."""
    low, middle, high = median_interval(values)
    return f"{middle:.3g} ({low:.2g}–{high:.2g})"


def best_of(rows: pd.DataFrame, by: list[str], fields: list[str], measure: str) -> pd.DataFrame:
    """The values of some fields whose median measure is lowest: one row for each group, columns `by` and `fields`."""
    judged = rows.assign(judged=diverged_last(rows[measure]))
    medians = judged.groupby([*by, *fields], dropna=False)["judged"].median().reset_index()
    best = medians.sort_values("judged", kind="stable").groupby(by, dropna=False, sort=False).head(1)
    return pd.DataFrame(best[[*by, *fields]])


def tuned(table: pd.DataFrame, by: list[str], measure: str = "loss", field: str = "learning_rate") -> pd.DataFrame:
    """The rows of the field, by default the learning rate, whose median measure at the end is lowest in its group.

    Args:
        table: of `train`.
        by: columns that make the groups, the algorithm among them.
        measure: lower is better.
        field: what is chosen.
    """
    return table.merge(best_of(last(table), by, [field], measure), on=[*by, field])


def curve(table: pd.DataFrame, measure: str, across: str = "step") -> pd.DataFrame:
    """Median and quartiles of a measure over seeds by step: columns `across`, low, middle, high."""
    rows = []
    for _, part in table.groupby("step"):
        low, middle, high = np.percentile(diverged_last(part[measure]), [25, 50, 75], method="nearest")
        rows.append({across: part[across].median(), "low": low, "middle": middle, "high": high})
    return pd.DataFrame(rows).replace(np.inf, np.nan)


def show_rate(name: str, rate: Any) -> str:
    """A learning rate as text; nothing for Gauss–Newton, which has none on a full batch."""
    return "" if name == "gauss_newton" else f"{rate:g}"
