"""Minibatches of a large image set: Gauss–Newton against Adam at equal seconds.

    python -m experiments.studies.minibatches [--dataset NAME] [--hidden N …] [--seconds S] [--results FOLDER]
                                              [--data FOLDER]

Fashion-MNIST, 784-128-10, ReLU and softmax cross-entropy by default. Every trainer gets the same seconds of run time
(its number of epochs follows from the pace of its first one, which is thrown away), the same start, and a rate that
falls linearly to zero over its own epochs. They take turns: next is the one whose clock is behind. Adam: batches of
128, three rates. Gauss–Newton: batches of 2048, three conjugate-gradient products a step, `minibatch_hparams`.
Leaves `curves.csv` (with the peak memory of the process), a figure, versions and device. Ctrl-C keeps the epochs that
are complete.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd
from matplotlib.figure import Figure

import jills
from experiments import figures, problems, records
from experiments.data import MissingData, load
from experiments.measuring import clock, collect, command_line, peak_bytes
from experiments.peers import epochs, with_jills

LOSS = jills.losses.softmax_cross_entropy


class Trainer(NamedTuple):
    """An algorithm on minibatches, at a setting of its hyperparameters."""

    name: str
    family: str  # for its colour
    algorithm: jills.Algorithm
    hparams: Any
    batch_size: int


@dataclass(frozen=True)
class Falling:
    """An algorithm of jills as an `stepped.Method`; `hparams` are its own and the number of steps to a rate of zero."""

    algorithm: jills.Algorithm

    def start(self, hparams, params, batch):
        """The algorithm's own start."""
        return self.algorithm.init(params, batch)

    def step(self, hparams, state, batch):
        """The algorithm's own step."""
        own, num_steps = hparams
        left = jnp.maximum(0.0, 1.0 - state.step / num_steps)
        return self.algorithm.step(own._replace(learning_rate=own.learning_rate * left), state, batch)[0]


def trainers(network: jills.Network, num_rows: int) -> list[Trainer]:
    """Adam at three rates, and Gauss–Newton."""
    adam = jills.adam.build(network, LOSS, full_batch=False)
    newton = with_jills.for_minibatches(network, LOSS)
    rows = min(with_jills.MINIBATCH_ROWS, num_rows // 2)  # of a minibatch
    hparams = jills.gauss_newton.minibatch_hparams(network, rows, LOSS)
    return [
        *(Trainer(f"Adam {rate:g}", "adam", adam, jills.adam.Hparams(rate), 128) for rate in (3e-4, 1e-3, 3e-3)),
        Trainer("Gauss–Newton", "gauss_newton", newton, hparams, rows),
    ]


@partial(jax.jit, static_argnums=0)
def judge(network, params, train, test):
    """Losses and test accuracy of all rows."""
    predicted = network.predict(params, test.inputs)
    right = jnp.argmax(predicted, axis=1) == jnp.argmax(test.targets, axis=1)
    losses = {"train_loss": LOSS(network.predict(params, train.inputs), train.targets)}
    return losses | {"test_loss": LOSS(predicted, test.targets), "test_accuracy": jnp.mean(right)}


_advance = jax.jit(epochs.advance, static_argnums=(0, 1))


def train_epochs(one: Trainer, train: jills.Batch, seconds: float, params: jills.Params) -> Iterator[tuple[dict, Any]]:
    """A row and the parameters for each epoch of a trainer, of as many as fill the seconds."""
    method, steps = Falling(one.algorithm), train.inputs.shape[0] // one.batch_size

    def next_epoch(progress, epoch, num_epochs):
        hparams, first = (one.hparams, float(num_epochs * steps)), epoch * steps
        return _advance(method, one.batch_size, train, jax.random.key(0), hparams, progress, first, first + steps)

    progress = epochs.begin(method, one.batch_size, (), params, train)
    both, pace = (clock(partial(next_epoch, progress, 0, 1))[0] for _ in range(2))
    used, num_epochs = 0.0, max(1, round(seconds / pace))
    for epoch in range(num_epochs):
        elapsed, progress = clock(partial(next_epoch, progress, epoch, num_epochs))
        used += elapsed
        row = {"trainer": one.name, "family": one.family, "epoch": epoch + 1, "seconds": used}
        yield row | {"compile_seconds": both - pace}, progress.state.params


def measure(network: jills.Network, train: jills.Batch, test: jills.Batch, seconds: float, params: jills.Params):
    """Yields a row for each epoch and trainer; the one whose clock is behind goes next."""
    runs = {one.name: train_epochs(one, train, seconds, params) for one in trainers(network, len(train.inputs))}
    clocks = dict.fromkeys(runs, 0.0)
    while clocks:
        name = min(clocks, key=lambda name: clocks[name])
        row, learned = next(runs[name], ({}, None))
        if not row:
            del clocks[name]
            continue
        clocks[name] = row["seconds"]
        known = {measure: float(value) for measure, value in judge(network, learned, train, test).items()}
        yield row | known | {"peak_gigabytes": peak_bytes() / 1e9}


def draw(table: pd.DataFrame, title: str) -> Figure:
    """Training loss and test accuracy against seconds."""
    figure, panels = figures.subplots(1, 2, figsize=(9, 3.8))
    shades = iter((0.45, 0.75, 1.0))
    for name, part in table.groupby("trainer", sort=False):
        family = part["family"].iloc[0]
        style = figures.style(family) | {"label": name, "markersize": 3}
        style |= {"alpha": next(shades)} if family == "adam" else {}
        for panel, measure in zip(panels[0], ("train_loss", "test_accuracy"), strict=True):
            panel.plot(part["seconds"], part[measure], **style)
            panel.set_xlabel("seconds, without compilation")
            panel.grid(alpha=0.3)
    best = table["test_accuracy"].max()
    panels[0, 0].set(yscale="log", ylabel="training loss (cross-entropy)")
    panels[0, 1].set(ylabel="test accuracy", ylim=(best - 0.05, best + 0.005))
    panels[0, 0].legend()
    figure.suptitle(title)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 3 for missing data, 130 after Ctrl-C."""
    parser = command_line("studies.minibatches", __doc__, "results", data=True)
    parser.add_argument("--dataset", default="fashion-mnist", metavar="NAME", help="any with classes")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128], metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each trainer (default: 30)")
    options = parser.parse_args(arguments)
    try:
        dataset = load(options.dataset, options.data)
    except MissingData as error:
        print(error, file=sys.stderr)
        return 3
    train, test = (problems.as_batch(part, "float32") for part in (dataset.train, dataset.test))
    network = jills.Network((train.inputs.shape[1], *options.hidden, train.targets.shape[1]), jills.activations.relu)
    params = network.init(jax.random.key(0), jnp.float32)
    rows, interrupted = collect(measure(network, train, test, options.seconds, params), None, told)
    if not rows:
        return 130
    folder, table = records.new_folder(options.results, "minibatches"), pd.DataFrame(rows)
    table.to_csv(folder / "curves.csv", index=False)
    title = f"{dataset.name}, {'-'.join(map(str, network.sizes))}, ReLU, {network.num_params:,} parameters"
    figures.write(draw(table, title), folder / "minibatches.png")
    records.write_environment(folder)
    print(table.groupby("trainer", sort=False).last().to_string(float_format=lambda value: f"{value:.4g}"))
    print(f"results in {folder}")
    return 130 if interrupted else 0


def told(row: dict) -> str:
    """A row as the progress bar shows it."""
    losses = f"loss {row['train_loss']:.4f}, test accuracy {row['test_accuracy']:.4f}"
    return f"{row['trainer']}, epoch {row['epoch']}, {row['seconds']:.1f} s, {losses}"


if __name__ == "__main__":
    sys.exit(main())
