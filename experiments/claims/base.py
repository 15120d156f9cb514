"""What all experiments on the claims share: config, pieces, training as a tidy table, statistics.

An experiment is a list of pieces. A piece is some training that is written when it is complete; its rows are tidy:
one row a network and recorded step. Figure and summary are drawn from the rows of all pieces.
"""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

import jills
from experiments import problems
from experiments.config import ConfigError, Positive, Table
from experiments.records import worst_if_not_finite

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class ClaimConfig(Table):
    """What every experiment has in its config."""

    title: str
    dtype: Literal["float32", "float64"] = "float64"
    seeds: Positive = 20
    seed: int = 0  # of all random numbers


class Piece(NamedTuple):
    """A part of an experiment that is kept once it is complete."""

    name: str  # of its file
    run: Callable[[], list[Row]]


class Experiment(NamedTuple):
    """One question. Its name is that of its config, its figure and its section in experiments/README.md."""

    name: str
    config: type[ClaimConfig]
    pieces: Callable[[Any, str], Iterator[Piece]]  # config, folder of the data → in order
    draw: Callable[[pd.DataFrame], Figure]
    summarize: Callable[[pd.DataFrame], pd.DataFrame]  # the small table


def load_config(experiment: Experiment, quick: bool) -> Any:
    """The config of an experiment; with `quick` the keys of its table [quick] replace those above it.

    Raises:
        ConfigError: a key or value is not allowed.
    """
    path = ROOT / "configs" / "claims" / f"{experiment.name}.toml"
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    toy = raw.pop("quick", {})
    try:
        return experiment.config.model_validate(raw | (toy if quick else {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def keys_of(config: ClaimConfig) -> jax.Array:
    """One key a seed."""
    return jax.random.split(jax.random.key(config.seed), config.seeds)


def checkpoints(num_steps: int, points: int = 40) -> np.ndarray:
    """Steps at equal ratios, with 0, 1 and the last one."""
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, num_steps, points)).astype(int)]))


def train(
    name: str, algorithm: jills.Algorithm, hparams: Any, problem: Any, keys: jax.Array, num_steps: int, **labels: Any
) -> list[Row]:
    """A sweep as rows: labels, algorithm, the numbers that it varies, seed, step, seconds, losses, metrics.

    Args:
        name: the algorithm's, for colours and tables.
        algorithm: of a `build`.
        hparams: its numbers, leaves scalars or `(H,)`.
        problem: a `jax.tree_util.Partial`, `key → (params, batch)` or `(params, batch, metrics)`.
        keys: `(S,)`.
        num_steps: T.
        labels: columns that say what was trained.

    Returns:
        A row for each set of numbers, seed and one of `checkpoints(T)`. `seconds` is wall time of the sweep on all
        cores over its networks, without compilation; `word` is that of `jills.diagnose` after the last step.
    """
    result = jills.sweep(algorithm, hparams, problem, keys, num_steps, num_steps)
    if result.interrupted:
        raise KeyboardInterrupt
    final = problems.metrics_of(problem, result.state.params, keys) if result.info.metrics != () else {}
    loss = np.concatenate([result.info.loss, np.asarray(result.state.loss)[..., None]], axis=-1)
    best = np.fmin.accumulate(loss, axis=-1)
    measures = {
        name: np.concatenate([np.asarray(result.info.metrics[name]), np.asarray(last)[..., None]], axis=-1)
        for name, last in final.items()
    }
    words = jills.diagnose(result.state, result.info).word
    pace = result.run_seconds / (loss[..., 0].size * num_steps)
    numbers = {field: np.broadcast_to(values, (loss.shape[0],)) for field, values in hparams._asdict().items()}
    varied = {field: values for field, values in numbers.items() if len(np.unique(values)) > 1 or field in ALWAYS}
    rows = []
    for h, s in np.ndindex(loss.shape[:2]):
        member = labels | {"algorithm": name} | {field: float(values[h]) for field, values in varied.items()}
        for step in checkpoints(num_steps):
            row = member | {"seed": s, "step": int(step), "seconds": step * pace, "loss": float(loss[h, s, step])}
            row |= {"best_loss": float(best[h, s, step])}
            row |= {name: float(values[h, s, step]) for name, values in measures.items()}
            rows.append(row)
        rows[-1] |= {"word": str(words[h, s]), "compile_seconds": result.compile_seconds}
    return rows


ALWAYS = ("learning_rate",)  # also where all members have the same


def numbers(kind: type, **axes: Any) -> Any:
    """All combinations of lists as an `Hparams` with leaves `(H,)`; what is not named keeps its default.

    Args:
        kind: an `Hparams`, such as `jills.adam.Hparams`.
        axes: a number or a list for each field.
    """
    known = kind()._asdict() | axes
    columns = np.meshgrid(*(np.atleast_1d(np.asarray(value, float)) for value in known.values()), indexing="ij")
    return kind(*(column.ravel() for column in columns))


def compared(
    network: jills.Network, rho: list[float], adam_rates: list[float]
) -> dict[str, tuple[jills.Algorithm, Any]]:
    """ILLS at every ρ, Gauss–Newton as it comes, Adam at every rate, for squared error: name → algorithm, numbers."""
    return {
        "ills": (jills.ills.build(network, solver=jills.solvers.qr), numbers(jills.ills.Hparams, learning_rate=rho)),
        "gauss_newton": (jills.gauss_newton.build(network), numbers(jills.gauss_newton.Hparams)),
        "adam": (jills.adam.build(network), numbers(jills.adam.Hparams, learning_rate=adam_rates)),
    }


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
    return pd.DataFrame(table[table["word"].notna()])


def median_interval(values: Any, resamples: int = 1000) -> tuple[float, float, float]:
    """The median with its 95 % bootstrap interval, `(low, median, high)`; what is not finite is worse than any other.

    The percentile bootstrap over the members, with a fixed seed.
    """
    values = worst_if_not_finite(values)
    picks = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5], method="nearest")
    return float(low), float(np.median(values)), float(high)


def show_interval(values: Any) -> str:
    """A median with its interval, as text: `0.12 (0.10–0.15)`."""
    low, middle, high = median_interval(values)
    return f"{middle:.3g} ({low:.2g}–{high:.2g})"


def tuned(table: pd.DataFrame, by: list[str], measure: str = "loss", field: str = "learning_rate") -> pd.DataFrame:
    """Of each group the rows of that number, by default the learning rate, whose median measure is lowest at the end.

    Args:
        table: of `train`.
        by: columns that make the groups, the algorithm among them.
        measure: lower is better.
        field: what is chosen.
    """
    ends = last(table)
    judged = ends.assign(measure_=worst_if_not_finite(ends[measure]))
    known = judged.groupby([*by, field], dropna=False)["measure_"].median().reset_index()
    best = known.sort_values("measure_").groupby(by, dropna=False, sort=False).head(1)
    return table.merge(best[[*by, field]], on=[*by, field])


def curve(table: pd.DataFrame, measure: str, across: str = "step") -> pd.DataFrame:
    """Median and quartiles of a measure over seeds by step: columns `across`, low, middle, high."""
    rows = []
    for _, part in table.groupby("step"):
        low, middle, high = np.percentile(worst_if_not_finite(part[measure]), [25, 50, 75], method="nearest")
        rows.append({across: part[across].median(), "low": low, "middle": middle, "high": high})
    return pd.DataFrame(rows).replace(np.inf, np.nan)
