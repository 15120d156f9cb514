"""Minibatches of a large image set: Gauss–Newton against Adam at equal seconds.

    python -m experiments.studies.minibatches [--dataset NAME] [--hidden N …] [--seconds S] [--results F] [--data F]

Fashion-MNIST, 784-128-10, ReLU and softmax cross-entropy by default. Every trainer gets the same seconds of run time
(its number of epochs follows from the pace of its first one, which is thrown away), the same start, and a rate that
falls linearly to zero over its own epochs. They take turns: next is the one whose clock is behind. Adam: batches of
128, three rates. Gauss–Newton: batches of 2048, three conjugate-gradient products a step, `minibatch_hparams`.
Leaves `curves.csv` (with the peak memory of the process), a figure, versions and device. Ctrl-C keeps the epochs that
are complete.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax

import jills
from experiments import measuring, records
from experiments.data import MissingData, load
from experiments.peers import with_jills
from experiments.peers.base import clock

LOSS = jills.losses.softmax_cross_entropy


class Trainer(NamedTuple):
    """An algorithm on minibatches, with its numbers."""

    name: str
    family: str  # for its colour
    algorithm: jills.Algorithm
    hparams: tuple
    batch_size: int


def trainers(network: jills.Network) -> list[Trainer]:
    """Adam at three rates, and Gauss–Newton."""
    adam = jills.adam.build(network, LOSS, full_batch=False)
    newton = with_jills.for_minibatches(network, LOSS)
    numbers = jills.gauss_newton.minibatch_hparams(network, with_jills.MINIBATCH_ROWS)
    rates = [3e-4, 1e-3, 3e-3]
    return [
        *(Trainer(f"Adam {rate:g}", "adam", adam, jills.adam.Hparams(rate), 128) for rate in rates),
        Trainer("Gauss–Newton", "gauss_newton", newton, numbers, with_jills.MINIBATCH_ROWS),
    ]


@partial(jax.jit, static_argnums=(0, 1))
def epoch(algorithm, batch_size, hparams, num_steps, state, batch, key):
    """One pass over the rows in a new order; those that fill no batch wait for the next one."""
    count = batch.inputs.shape[0] // batch_size
    order = jax.random.permutation(key, batch.inputs.shape[0])[: count * batch_size].reshape(count, batch_size)

    def step(state, rows):
        left = jnp.maximum(0.0, 1.0 - state.step / num_steps)
        now = hparams._replace(learning_rate=hparams.learning_rate * left)
        state, _ = algorithm.step(now, state, jax.tree.map(lambda leaf: leaf[rows], batch))
        return state, None

    return lax.scan(step, state, order)[0]


@partial(jax.jit, static_argnums=0)
def judge(network, params, train, test):
    """Training loss, test loss and test accuracy of all rows."""
    predicted = network.predict(params, test.inputs)
    right = jnp.argmax(predicted, axis=1) == jnp.argmax(test.targets, axis=1)
    return LOSS(network.predict(params, train.inputs), train.targets), LOSS(predicted, test.targets), jnp.mean(right)


def measure(network: jills.Network, train: jills.Batch, test: jills.Batch, seconds: float, params: jills.Params):
    """Yields a row an epoch and trainer; the one whose clock is behind goes next."""
    runs = []
    for one in trainers(network):
        start = one.algorithm.init(params, jax.tree.map(lambda leaf, size=one.batch_size: leaf[:size], train))
        advance = partial(epoch, one.algorithm, one.batch_size, one.hparams)
        key = jax.random.key(0)
        compiling, _ = clock(lambda a=advance, s=start, k=key: a(1.0, s, train, k))
        pace, _ = clock(lambda a=advance, s=start, k=key: a(1.0, s, train, k))
        epochs = max(1, round(seconds / pace))
        steps = epochs * (train.inputs.shape[0] // one.batch_size)
        runs.append([0.0, 0, epochs, one, partial(advance, float(steps)), start, compiling - pace])
    while pending := [run for run in runs if run[1] < run[2]]:
        run = min(pending, key=lambda run: run[0])
        used, index, _, one, advance, state, compiling = run
        elapsed, state = clock(lambda a=advance, s=state, i=index: a(s, train, jax.random.key(i + 1)))
        run[:2], run[5] = (used + elapsed, index + 1), state
        values = [float(value) for value in judge(network, state.params, train, test)]
        names = ("train_loss", "test_loss", "test_accuracy")
        yield (
            {"trainer": one.name, "family": one.family, "epoch": index + 1, "seconds": used + elapsed}
            | dict(zip(names, values, strict=True))
            | {"compile_seconds": compiling, "peak_gigabytes": measuring.most_resident() / 1e9}
        )


def draw(table: pd.DataFrame, title: str):
    """Training loss and test accuracy against seconds."""
    figure, axes = measuring.plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    shades = iter((0.45, 0.75, 1.0))
    for name, part in table.groupby("trainer", sort=False):
        style = measuring.style(part["family"].iloc[0]) | {"label": name, "markersize": 3}
        style |= {"alpha": next(shades)} if part["family"].iloc[0] == "adam" else {}
        axes[0].plot(part["seconds"], part["train_loss"], **style)
        axes[1].plot(part["seconds"], part["test_accuracy"], **style)
    axes[0].set(yscale="log", xlabel="seconds, without compilation", ylabel="training loss (cross-entropy)")
    best = table["test_accuracy"].max()
    axes[1].set(xlabel="seconds, without compilation", ylabel="test accuracy", ylim=(best - 0.05, best + 0.005))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 3 for missing data, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.minibatches", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--dataset", default="fashion-mnist", metavar="NAME", help="any with classes")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128], metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each trainer (default: 30)")
    parser.add_argument("--results", default="results", metavar="FOLDER", help="gets a new folder (default: results)")
    parser.add_argument("--data", default="data", metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        dataset = load(options.dataset, options.data)
    except MissingData as error:
        print(error, file=sys.stderr)
        return 3
    train, test = (
        jills.Batch(jnp.asarray(part.inputs, jnp.float32), jnp.asarray(part.targets, jnp.float32))
        for part in (dataset.train, dataset.test)
    )
    network = jills.Network((train.inputs.shape[1], *options.hidden, train.targets.shape[1]), jills.activations.relu)
    params = network.init(jax.random.key(0), jnp.float32)
    rows, cut = [], False
    try:
        for row in measure(network, train, test, options.seconds, params):
            rows.append(row)
            print(
                f"\r{row['trainer']:<13s} epoch {row['epoch']}, {row['seconds']:.1f} of {options.seconds:g} s, "
                f"loss {row['train_loss']:.4f}, test accuracy {row['test_accuracy']:.4f} ",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
    except KeyboardInterrupt:
        cut = True
    print(file=sys.stderr)
    if not rows:
        return 130
    folder, table = records.new_folder(options.results, "minibatches"), pd.DataFrame(rows)
    table.to_csv(folder / "curves.csv", index=False)
    title = f"{dataset.name}, {'-'.join(map(str, network.sizes))}, ReLU, {np.sum(network.num_params):,} parameters"
    draw(table, title).savefig(folder / "minibatches.png", dpi=120)
    measuring.write_environment(folder)
    print(table.groupby("trainer", sort=False).last().to_string(float_format=lambda value: f"{value:.4g}"))
    print(f"results in {folder}")
    return 130 if cut else 0


if __name__ == "__main__":
    sys.exit(main())
