"""What the runs of the benchmark say: ratios of times with their bounds, tables, and curves as labelled arrays.

A run that did not reach its target has a lower bound for its time. A ratio of times is therefore an interval
`[low, high]` around `point`, which takes bounds for times; medians and geometric means are those of all three. They
are never taken over the runs that succeeded only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from experiments.benchmark.config import FULL_BATCH, MINIBATCHES
from experiments.peers.base import FAST_TIER

BEST = "best peer"
OURS = ("jills gauss_newton", "jills ills")  # the first that was run is compared
FAMILIES: dict[str, tuple[str, ...]] = {
    FULL_BATCH: (FULL_BATCH,),
    MINIBATCHES: (MINIBATCHES,),
    "L-BFGS (Optax)": ("Optax L-BFGS",),
    "best LM": ("Optimistix", "SciPy LM", "SciPy TRF", "torch LM"),
    "L-BFGS (scikit-learn)": ("scikit-learn",),
    BEST: ("",),
}
"""Family → how the names of its peers begin. Where it has several, each problem is given the quickest one."""
SMALL = 500  # parameters
BOUNDS = ["low", "point", "high"]
GRID_POINTS = 200


def ours_in(runs: pd.DataFrame) -> str:
    """Which algorithm the peers are compared with.

    Raises:
        ValueError: none was run.
    """
    for name in OURS:
        if (runs.peer == name).any():
            return name
    raise ValueError(f"no run of {' or '.join(OURS)}: nothing to compare with")


def is_ours(names: pd.Series) -> pd.Series:
    """Which of some names are our own."""
    return names.str.startswith("jills")


def ratios(runs: pd.DataFrame, ours: str, compiled: bool = False) -> pd.DataFrame:
    """Time of a peer over that of ours on the same seed.

    Args:
        runs: one row per problem, seed and peer.
        ours: the peer whose time is the divisor.
        compiled: whether times include compilation; then ours is taken in the tier that is done sooner by the median
            over seeds, as a peer that was run in both is by `best_of`.

    Returns:
        One row for each run of a seed that ours was run on: problem, seed, peer, low, point, high.
    """
    times = runs.loc[:, ["problem", "seed", "peer", "reached"]]
    times["time"] = runs.seconds + (runs.compile_seconds.fillna(0.0) if compiled else 0.0)
    own = times.loc[times.peer.isin((ours, f"{ours}{FAST_TIER}") if compiled else (ours,))]
    medians = own.groupby(["problem", "peer"]).time.median()
    sooner = medians.loc[medians.groupby("problem").idxmin()].reset_index()[["problem", "peer"]]
    own = own.merge(sooner, on=["problem", "peer"]).drop(columns="peer")
    both = times.merge(own, on=["problem", "seed"], suffixes=("", "_ours"))
    both["point"] = both.time / both.time_ours
    both["low"] = both.point.where(both.reached_ours, 0.0)
    both["high"] = both.point.where(both.reached, np.inf)
    return both.loc[:, ["problem", "seed", "peer", *BOUNDS]]


def quartiles(values: pd.DataFrame) -> pd.DataFrame:
    """Quartiles of each bound: rows 0.25, 0.5 and 0.75, columns low, point and high."""
    array = values[BOUNDS].to_numpy(float)
    # Between a number and infinity there is nothing to interpolate.
    method = "linear" if np.isfinite(array).all() and np.array_equal(array[:, 0], array[:, 2]) else "nearest"
    return pd.DataFrame(np.percentile(array, [25, 50, 75], axis=0, method=method), [0.25, 0.5, 0.75], BOUNDS)


def sign(low: float, point: float, high: float) -> str:
    """What to write before `point`: nothing if exact, `≥` or `≤` if a bound, `?` if bounded on neither side."""
    if low == high:
        return ""
    if low == point:
        return "≥"
    return "≤" if high == point else "?"


def show(low: float, point: float, high: float) -> str:
    """A number with its sign, three digits."""
    return f"{sign(low, point, high)}{point:.3g}"


def geometric_mean(values: pd.DataFrame) -> dict[str, float]:
    """Of each bound; a bound of zero or infinity carries through."""
    with np.errstate(divide="ignore"):
        return dict(zip(BOUNDS, np.exp(np.mean(np.log(values[BOUNDS].to_numpy(float)), axis=0)), strict=True))


def loss_at(trace: dict, seconds: float) -> float:
    """The best loss until then; what it was at the end of a run that ended before. NaN if the run failed."""
    if not trace["seconds"]:
        return np.nan
    return trace["losses"][int(np.searchsorted(trace["seconds"], seconds, side="right")) - 1]


def with_losses(runs: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The runs with their best losses when ours reached the target, and when full-batch Adam had done its steps."""
    own = runs.loc[runs.peer == ours].set_index(["problem", "seed"]).seconds
    times = [own.get(pair, np.nan) for pair in zip(runs.problem, runs.seed, strict=True)]
    at_ours = [loss_at(trace, time) for trace, time in zip(runs.trace, times, strict=True)]
    at_budget = [loss_at(trace, time) for trace, time in zip(runs.trace, runs.budget, strict=True)]
    return runs.assign(loss_when_ours=at_ours, loss_at_budget=at_budget).drop(columns="trace")


def summarize(runs: pd.DataFrame, ours: str, memory: pd.DataFrame) -> pd.DataFrame:
    """One row per problem and peer: medians over seeds, quartiles of times and ratios, each with its bounds."""
    both = {"ratio": ratios(runs, ours), "ratio_compiled": ratios(runs, ours, compiled=True)}
    rows = []
    for _, part in runs.groupby(["parameters", "problem", "peer"]):
        problem, peer = part.problem.iloc[0], part.peer.iloc[0]
        row: dict = {"problem": problem, "peer": peer}
        row |= {name: part[name].iloc[0] for name in ("title", "loss", "parameters", "rows", "setting", "unit")}
        row |= {"seeds": len(part), "reached": int(part.reached.sum())}
        bounds = part.assign(low=part.seconds, point=part.seconds, high=part.seconds.where(part.reached, np.inf))
        row |= columns("seconds", quartiles(bounds))
        row |= {f"{name}_median": part[name].median() for name in MEDIANS if name in part}
        for name, table in both.items():
            chosen = table.loc[(table.problem == problem) & (table.peer == peer)]
            row |= columns(name, quartiles(chosen)) if len(chosen) else {}
        known = memory.loc[(memory.problem == problem) & (memory.peer == peer)].mebibytes
        rows.append(row | {"mebibytes": known.iloc[0] if len(known) else np.nan})
    table = pd.DataFrame(rows)
    return table.sort_values(["parameters", "problem", "seconds_point_median"], ignore_index=True)


MEDIANS = (
    "compile_seconds", "steps", "target", "budget", "loss_when_ours", "loss_at_budget", "test_loss", "test_accuracy"
)  # fmt: skip


def columns(name: str, table: pd.DataFrame) -> dict[str, float]:
    """Quartiles as columns `<name>_<bound>_<quartile>`."""
    words = {0.25: "q25", 0.5: "median", 0.75: "q75"}
    return {f"{name}_{bound}_{words[q]}": table.loc[q, bound] for bound in BOUNDS for q in words}  # pyright: ignore[reportReturnType] a scalar


def best_of(summary: pd.DataFrame, family: str, name: str = "seconds") -> pd.DataFrame:
    """The row of each problem whose peer is the quickest of a family, by the median of `seconds` or of a ratio.

    A bound competes as if it were a time: no member can be quicker than what is picked.
    """
    members = summary.loc[summary.peer.str.startswith(FAMILIES[family]) & ~is_ours(summary.peer)]
    members = members.loc[members[f"{name}_point_median"].notna()]
    return members.sort_values([f"{name}_point_median", "loss_at_budget_median"]).groupby("problem", sort=False).head(1)


def medians(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The median's three bounds of `ratio` or `ratio_compiled`, as columns low, point and high."""
    return rows.loc[:, [f"{name}_{bound}_median" for bound in BOUNDS]].set_axis(BOUNDS, axis=1)


def groups(summary: pd.DataFrame) -> dict[str, tuple[Sequence[str], str]]:
    """Group → its problems, and which ratio it is about."""
    problems = summary.drop_duplicates("problem").sort_values("parameters")
    classes = problems.loss.str.endswith("cross_entropy")
    regression = problems.loc[~classes]
    half = regression.problem.iloc[len(regression) // 2 :]
    return {
        "regression": (list(regression.problem), "ratio"),
        f"regression, below {SMALL} parameters": (list(regression.problem[regression.parameters < SMALL]), "ratio"),
        f"regression, {SMALL} and above": (list(regression.problem[regression.parameters >= SMALL]), "ratio"),
        "regression, larger half, with compilation": (list(half), "ratio_compiled"),
        "classes": (list(problems.problem[classes]), "ratio"),
        "classes, with compilation": (list(problems.problem[classes]), "ratio_compiled"),
    }


def overall(summary: pd.DataFrame) -> pd.DataFrame:
    """Geometric mean over problems of the median ratio, for each family and group of problems."""
    rows = []
    for group, (problems, name) in groups(summary).items():
        for family in FAMILIES:
            chosen = best_of(summary.loc[summary.problem.isin(list(problems))], family, name)
            values = medians(chosen, name)
            if len(values):
                bounds = geometric_mean(values)
                counts = {"problems": len(values), "not_exact": int((values.low < values.high).sum())}
                rows.append({"group": group, "family": family, **counts, **bounds})
    return pd.DataFrame(rows, columns=["group", "family", "problems", "not_exact", *BOUNDS])


def slower(summary: pd.DataFrame, name: str = "ratio") -> pd.DataFrame:
    """The problems on which ours takes longer than the quickest peer; or reaches the target no more than it does."""
    rows = best_of(summary, BEST, name)
    return rows.loc[(rows[f"{name}_low_median"] < 1) | (rows[f"{name}_point_median"] < 1)]


def curves(runs: pd.DataFrame) -> xr.Dataset:
    """Best loss so far on a grid of seconds for each problem: `loss[problem, peer, seed, point]`."""
    parts = []
    for problem, part in runs.groupby("problem", sort=False):
        spans = [trace["seconds"][1:] for trace in part.trace if len(trace["seconds"]) > 1]
        ends = [part.budget.max(), *part.seconds]
        first = min([*(span[0] for span in spans), part.budget.max()])
        grid = np.geomspace(first, max(ends), GRID_POINTS)
        names, seeds = sorted(set(part.peer)), sorted(set(part.seed))
        loss = np.full((len(names), len(seeds), GRID_POINTS), np.nan)
        for peer, seed, trace in zip(part.peer, part.seed, part.trace, strict=True):
            loss[names.index(peer), seeds.index(seed)] = [loss_at(trace, time) for time in grid]
        targets = part.drop_duplicates("seed").set_index("seed").target.reindex(seeds)
        variables = {"loss": (("peer", "seed", "point"), loss), "seconds": (("point",), grid)}
        coordinates = {"peer": names, "seed": seeds, "point": np.arange(GRID_POINTS)}
        one = xr.Dataset({**variables, "target": (("seed",), targets.to_numpy())}, coordinates)
        parts.append(one.expand_dims(problem=[str(problem)]))
    joined: Any = xr.concat(parts, dim="problem", join="outer", data_vars="all")
    return joined
