"""What all experiments on the claims share: config, pieces, training as a tidy table.

An experiment is a list of pieces. A piece is some training that is written when it is complete; its rows are tidy:
one row for each network and recorded step. Figure and summary are drawn from the rows of all pieces.
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
from experiments.measuring import whole_sweep

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class ClaimConfig(Table):
    """What every experiment has in its config."""

    title: str
    dtype: Literal["float32", "float64"] = "float64"
    seeds: Positive = 20
    seed: int = 0  # of everything random


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
    """A sweep as rows: labels, algorithm, the hyperparameters that it varies, seed, step, seconds, losses, metrics.

    Args:
        name: the algorithm's, for colours and tables.
        algorithm: of a `build`.
        hparams: its hyperparameters, leaves scalars or `(H,)`.
        problem: a `jax.tree_util.Partial`, `key → (params, batch)` or `(params, batch, metrics)`.
        keys: `(S,)`.
        num_steps: T.
        labels: columns that say what was trained.

    Returns:
        A row for each setting, seed and one of `checkpoints(T)`. `seconds` is wall time of the sweep on all
        cores over its networks, without compilation; `status` is that of `jills.diagnose` after the last step.
    """
    result = whole_sweep(algorithm, hparams, problem, keys, num_steps, num_steps)
    final = problems.metrics_of(problem, result.state.params, keys) if result.info.metrics != () else {}
    loss = np.concatenate([result.info.loss, np.asarray(result.state.loss)[..., None]], axis=-1)
    best = np.fmin.accumulate(loss, axis=-1)
    measures = {
        name: np.concatenate([np.asarray(result.info.metrics[name]), np.asarray(last)[..., None]], axis=-1)
        for name, last in final.items()
    }
    statuses = jills.diagnose(result.state, result.info).word
    pace = result.run_seconds / (loss[..., 0].size * num_steps)
    known = {field: np.broadcast_to(values, (loss.shape[0],)) for field, values in hparams._asdict().items()}
    varied = {field: values for field, values in known.items() if len(np.unique(values)) > 1}
    varied["learning_rate"] = rates_of(hparams, loss.shape[0])
    rows = []
    for h, s in np.ndindex(loss.shape[:2]):
        member = labels | {"algorithm": name} | {field: float(values[h]) for field, values in varied.items()}
        for step in checkpoints(num_steps):
            row = member | {"seed": s, "step": int(step), "seconds": step * pace, "loss": float(loss[h, s, step])}
            row |= {"best_loss": float(best[h, s, step])}
            row |= {name: float(values[h, s, step]) for name, values in measures.items()}
            rows.append(row)
        rows[-1] |= {"status": str(statuses[h, s]), "compile_seconds": result.compile_seconds}
    return rows


def rates_of(hparams: Any, count: int) -> np.ndarray:
    """The learning rate of each setting, `(H,)`; 1 where there is none, as for Gauss–Newton on a full batch."""
    return np.broadcast_to(np.asarray(getattr(hparams, "learning_rate", 1.0), float), (count,))


def compared(
    network: jills.Network,
    rho: list[float],
    adam_rates: list[float],
    ridge: float | list[float] = 0.0,
    weight_decay: float | list[float] = 0.0,
    solver: jills.Solver = jills.solvers.qr,
) -> dict[str, tuple[jills.Algorithm, Any]]:
    """ILLS at every ρ and ridge, Gauss–Newton at every weight decay, Adam at every rate, for squared error.

    Returns:
        Name → algorithm, hyperparameters.
    """
    return {
        "ills": (
            jills.ills.build(network, solver=solver),
            jills.product(jills.ills.Hparams, learning_rate=rho, ridge=ridge),
        ),
        "gauss_newton": (
            jills.gauss_newton.build(network),
            jills.product(jills.gauss_newton.Hparams, weight_decay=weight_decay),
        ),
        "adam": (jills.adam.build(network), jills.product(jills.adam.Hparams, learning_rate=adam_rates)),
    }
