"""Time to the training loss that the best of four rates of Adam has after 2000 steps, counted by the step.

    python -m experiments.studies.by_the_step [--starts N] [--data FOLDER] [--only WORD]

Networks of one hidden layer of 50 units in float32, on tables that are kept here and on drawn ones of other kinds
(a hundred rows or thousands, little noise or much, steps, products, bends). Seconds are steps times the seconds of a
step, which a run of many tells, compilation apart; so a target that is met between two looks costs nobody anything.
Gauss–Newton as it comes, and with its blocks solved one by one by conjugate gradients; all in turn, one process.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jills
from experiments import data
from experiments.measuring import clock, collect, command_line
from jills.gauss_newton import Automatic

HIDDEN = 50
ADAM_STEPS, STEPS = 2000, 150
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
KEPT = ("diabetes", "boston", "auto-mpg", "concrete")


class Table(NamedTuple):
    """Standardised rows."""

    name: str
    inputs: np.ndarray  # (n, d)
    targets: np.ndarray  # (n, 1)


def drawn() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Tables of other kinds than those that are kept."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(308, 6))
    yield "steep, hardly any noise", x, np.exp(1.5 * x[:, 0]) + 0.3 * x[:, 1] * x[:, 2] + 0.02 * rng.normal(size=308)
    x = rng.normal(size=(1599, 11))
    grades = x[:, 0] + 0.5 * np.tanh(x[:, 1] * x[:, 2]) - 0.4 * np.exp(0.5 * x[:, 3]) + 0.9 * rng.normal(size=1599)
    yield "grades, mostly noise", x, np.round(grades)
    x = rng.uniform(size=(2000, 8))
    waves = np.sin(6 * x[:, 0] * x[:, 1]) + 2 * (x[:, 2] - 0.5) ** 2 + x[:, 3] * x[:, 4] + 0.1 * np.cos(9 * x[:, 5])
    yield "waves, some noise", x, waves + 0.1 * rng.normal(size=2000)
    x = np.round(6 * rng.uniform(size=(768, 8))) / 6
    steps = 10 * (x[:, 0] > 0.5) * x[:, 1] + 5 * x[:, 2] ** 2 + 3 * x[:, 3] * x[:, 0]
    yield "steps, on a grid", x, steps + 0.3 * rng.normal(size=768)
    x = rng.normal(size=(1503, 5))
    yield "bends, noise", x, np.sin(2 * x[:, 0]) * x[:, 1] + np.abs(x[:, 2]) + 0.3 * rng.normal(size=1503)
    x = rng.normal(size=(8000, 8))
    yield (
        "many rows, noise",
        x,
        np.sin(2 * x[:, 0]) * x[:, 1] + np.tanh(x[:, 2] - x[:, 3]) + 0.3 * rng.normal(size=8000),
    )


def tables(folder: str) -> Iterator[Table]:
    """All of them; what was not fetched is left out with a word."""
    for name in KEPT:
        try:
            split = data.load(name, folder).train
        except data.MissingData as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        yield Table(name, standardised(split.inputs), standardised(split.targets))
    for name, inputs, targets in drawn():
        yield Table(name, standardised(inputs), standardised(targets))


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of mean zero and deviation one, in float32."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    spread = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def methods(network: jills.Network) -> dict[str, jills.Algorithm]:
    """What is compared with Adam."""
    build: Callable[..., Any] = jills.gauss_newton.build
    return {"as it comes": build(network), "block by block": build(network, linear_solver=Automatic(quasi_newton=None))}


def losses(algorithm: jills.Algorithm, hparams: Any, params: Any, batch: jills.Batch, steps: int) -> tuple:
    """Seconds of a step, compilation apart, and the loss after 0, 1, … steps."""
    train = partial(jills.run, algorithm, num_steps=steps, compile="full")
    train(hparams, params, batch)
    seconds, (state, info) = min(
        (clock(lambda: train(hparams, params, batch)) for _ in range(3)), key=lambda one: one[0]
    )
    return seconds / steps, np.append(np.asarray(info.loss, np.float64), float(state.loss))


def measured(table: Table, starts: int) -> dict[str, Any]:
    """A row: geometric means over the starts. A target that is not met counts as three times the steps of a run."""
    network = jills.Network((table.inputs.shape[1], HIDDEN, 1), jills.activations.tanh)
    batch = jills.Batch(jnp.asarray(table.inputs), jnp.asarray(table.targets))
    adam, logs = jills.adam.build(network), {}
    for seed in range(starts):
        params = network.init(jax.random.key(seed), "float32")
        tried = [losses(adam, jills.adam.Hparams(rate), params, batch, ADAM_STEPS) for rate in RATES]
        target, step = min(np.nanmin(each) for _, each in tried), float(np.median([seconds for seconds, _ in tried]))
        for name, algorithm in methods(network).items():
            seconds, each = losses(algorithm, algorithm.defaults, params, batch, STEPS)
            met = np.flatnonzero(each <= target)
            needed = max(1, met[0]) if len(met) else 3 * STEPS
            told = {"steps": needed, "step over Adam's": seconds / step}
            told["ratio"] = ADAM_STEPS * step / (needed * seconds)
            for column, value in told.items():
                logs.setdefault(f"{name}: {column}", []).append(np.log(value))
    row = {"table": table.name, "rows": len(table.inputs), "columns": table.inputs.shape[1]}
    return row | {column: float(np.exp(np.mean(values))) for column, values in logs.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = command_line("studies.by_the_step", __doc__, data=True)
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="of each table (default: 3)")
    parser.add_argument("--only", default="", metavar="WORD", help="tables with this in their name")
    options = parser.parse_args(arguments)
    chosen = [table for table in tables(options.data) if options.only in table.name]
    rows, stopped = collect((measured(one, options.starts) for one in chosen), len(chosen), lambda row: row["table"])
    found = pd.DataFrame(rows)
    print(found.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    for name in [column for column in found.columns if column.endswith("ratio")]:
        print(f"{name}: geometric mean {np.exp(np.mean(np.log(found[name]))):.1f}, lowest {found[name].min():.1f}")
    return 130 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
