"""Rows in a file that is larger than what training holds in memory: rows a second, held-out losses, peak memory.

    python -m experiments.studies.streams [--rows N] [--columns D] [--seconds S] [--folder FOLDER]

Writes a table of N rows, D inputs and a target, float32, into a temporary folder (50 million rows of 10 columns:
2.2 GB), and reads it as a `np.memmap` in another order than it is written: Gauss–Newton and Adam on minibatches of 2048
rows, least squares and the evidence of a linear model and of the output layer of a random network in one pass; and
beside them `partial_fit` of scikit-learn's MLPRegressor and SGDRegressor on the same batches. One pass each, or as many
seconds as are given, in a process of its own. The target is smooth in three columns and linear in the others, with
noise of variance 0.01, which no held-out loss can go below. Seconds are those of training, without compilation; the
peak of memory is the process's, and beside it what the process held before it began to read.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import jills
from experiments.measuring import command_line, peak_bytes

BATCH, HELD_OUT, PIECE = 2048, 100_000, 500_000
HIDDEN, NOISE, RATE = 32, 0.1, 3e-3
BATCH_SEED, ROW_SEED, HELD_OUT_SEED = 0, 1, 2

streams = jills.training.streams


def drawn(rng: np.random.Generator, count: int, columns: int) -> np.ndarray:
    """Rows of inputs and a target, `(count, columns + 1)`."""
    inputs = rng.standard_normal((count, columns), np.float32)
    smooth = np.sin(2.0 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]
    noise = NOISE * rng.standard_normal(count, np.float32)
    target = smooth + 0.3 * np.sum(inputs[:, 3:], axis=1) + noise
    return np.column_stack([inputs, target])


def write(path: Path, num_rows: int, columns: int) -> None:
    """The file, piece by piece."""
    table = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, columns + 1))
    for piece, start in enumerate(range(0, num_rows, PIECE)):
        count = min(PIECE, num_rows - start)
        table[start : start + count] = drawn(np.random.default_rng([ROW_SEED, piece]), count, columns)
    table.flush()


class Timed:
    """The batches of one pass, up to so many seconds from the first on."""

    def __init__(self, rows: Any, seconds: float):
        self.rows, self.seconds, self.count = rows, seconds, 0

    def __iter__(self) -> Iterator[jills.Batch]:
        began = time.perf_counter()
        for batch in self.rows:
            self.count += int(np.count_nonzero(batch.weights))
            yield batch
            if time.perf_counter() - began > self.seconds:
                return


Predict = Callable[[np.ndarray], Any]
Train = Callable[[Any], Predict]
"""Trains on batches, and returns what predicts."""


def network_of(columns: int) -> tuple[jills.Network, jills.Params]:
    """The network, and its start."""
    network = jills.Network((columns, HIDDEN, 1), jills.activations.tanh)
    return network, network.init(jax.random.key(0))


def by_fit(algorithm: jills.Algorithm, hparams: Any, params: jills.Params, batches: Any) -> Predict:
    """Either algorithm."""
    state, _ = streams.fit(algorithm, hparams, params, batches, progress=False)
    return lambda inputs: algorithm.network.predict(state.params, jax.numpy.asarray(inputs))


def gauss_newton(columns: int) -> Train:
    """Three products a step, and the hyperparameters to start with."""
    network, params = network_of(columns)
    solver = jills.ConjugateGradients(max_steps=3)
    algorithm = jills.gauss_newton.build(network, linear_solver=solver, full_batch=False)
    hparams = jills.gauss_newton.minibatch_hparams(network, BATCH)
    return lambda batches: by_fit(algorithm, hparams, params, batches)


def adam(columns: int) -> Train:
    """At one rate."""
    network, params = network_of(columns)
    algorithm = jills.adam.build(network, full_batch=False)
    return lambda batches: by_fit(algorithm, jills.adam.Hparams(RATE), params, batches)


def linear(solve: Callable[..., Any]) -> Callable[[int], Train]:
    """A linear model in one pass."""

    def train(batches):
        layer = solve(streams.prefetch(batches)).layer
        return lambda inputs: inputs @ layer.weight + layer.bias

    return lambda columns: train


def output_layer(columns: int) -> Train:
    """Of a network whose hidden layer stays as it was drawn."""
    network, params = network_of(columns)
    hidden = jax.jit(lambda inputs: network.forward(params, inputs)[-2])

    def train(batches):
        layer = streams.least_squares(streams.prefetch(batches), features=hidden).layer
        return lambda inputs: np.asarray(hidden(inputs)) @ layer.weight + layer.bias

    return train


def scikit_learn(make: Callable[[], Any]) -> Callable[[int], Train]:
    """`partial_fit` on one batch after the other."""

    def train(batches):
        model = make()
        for batch in streams.prefetch(batches):
            model.partial_fit(batch.inputs, batch.targets[:, 0])
        return lambda inputs: model.predict(inputs)[:, None]

    return lambda columns: train


def mlp() -> Any:
    """The same network and rate."""
    from sklearn.neural_network import MLPRegressor

    options: Any = {"hidden_layer_sizes": (HIDDEN,), "activation": "tanh", "alpha": 0.0, "random_state": 0}
    options |= {"learning_rate_init": RATE, "batch_size": BATCH}  # a step for each batch
    return MLPRegressor(**options)


def sgd() -> Any:
    """A linear model, at its defaults."""
    from sklearn.linear_model import SGDRegressor

    return SGDRegressor(random_state=0)


METHODS: dict[str, Callable[[int], Train]] = {
    "Gauss–Newton": gauss_newton,
    "Adam": adam,
    "MLPRegressor.partial_fit": scikit_learn(mlp),
    "least squares, output layer": output_layer,
    "least squares": linear(streams.least_squares),
    "evidence, linear": linear(streams.evidence),
    "SGDRegressor.partial_fit": scikit_learn(sgd),
}


def measured(name: str, path: Path, seconds: float) -> dict[str, Any]:
    """A method's row, in this process."""
    table = np.load(path, mmap_mode="r")
    columns = table.shape[1] - 1
    train = METHODS[name](columns)
    # No few rows at the end: scikit-learn would take what fills a batch up for rows.
    rows = streams.batches(table[:, :columns], table[:, columns:], BATCH, seed=BATCH_SEED, drop_last=True)
    few = drawn(np.random.default_rng(HELD_OUT_SEED), HELD_OUT, columns)
    train(list(streams.batches(few[:BATCH, :columns], few[:BATCH, columns:], BATCH)))  # compiles
    before, batches = peak_bytes(), Timed(rows, seconds)
    began = time.perf_counter()
    predict = train(batches)
    taken = time.perf_counter() - began
    loss = float(np.mean(np.square(np.asarray(predict(few[:, :columns])) - few[:, columns:])))
    memory = {"MB before": before / 1e6, "peak MB": peak_bytes() / 1e6}
    return {"method": name, "rows": batches.count, "seconds": taken, "rows a second": batches.count / taken} | {
        "held-out loss": loss,
        **memory,
    }


def compare(path: Path, seconds: float, methods: Sequence[str] = tuple(METHODS)) -> Iterator[dict[str, Any]]:
    """A row for each method, of a process of its own."""
    for name in methods:
        command = [sys.executable, "-m", "experiments.studies.streams", "--one", name, "--file", str(path)]
        told = subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, check=False)
        if told.returncode:
            raise RuntimeError(f"{name} failed: {told.stderr[-2000:]}")
        yield json.loads(told.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table; returns 3 where the disk has no room for the file."""
    parser = command_line("studies.streams", __doc__)
    parser.add_argument("--rows", type=int, default=50_000_000, metavar="N", help="(default: 50 million)")
    parser.add_argument("--columns", type=int, default=10, metavar="D", help="at least 4 (default: 10)")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="at most, of each (default: 120)")
    parser.add_argument("--folder", metavar="FOLDER", help="for the file (default: a temporary one)")
    parser.add_argument("--one", choices=METHODS, help="measure this, in this process")
    parser.add_argument("--file", metavar="PATH", help="with --one: the table")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(options.one, Path(options.file), options.seconds)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        size, free = 4 * options.rows * (options.columns + 1), shutil.disk_usage(folder).free
        if size > 0.9 * free:
            print(f"the file takes {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {folder}", file=sys.stderr)
            return 3
        path = Path(folder) / "table.npy"
        began = time.perf_counter()
        write(path, options.rows, options.columns)
        print(f"{options.rows:,} rows, {size / 1e9:.2f} GB, written in {time.perf_counter() - began:.0f} s", flush=True)
        rows = []
        for row in compare(path, options.seconds):
            rows.append(row)
            print(f"{row['method']}: {row['rows']:,} rows in {row['seconds']:.1f} s", flush=True)
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
