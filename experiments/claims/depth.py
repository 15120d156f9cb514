"""What becomes of training when layers are added? Does the loss fall, which layers move, what does it cost?

A teacher of one hidden layer labels the rows, without noise, so that the task stays the same while the student grows.
"Trains": the final loss is below a hundredth of the variance of the targets. The update of a layer is the Euclidean
norm of the change of its weights and biases in a step over the norm that they have.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jills
from experiments import figures
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, compared, keys_of, rates_of, train
from experiments.claims.statistics import last, median_interval, parts, show_interval, tuned, where
from experiments.config import Positive
from experiments.figures import NAMES

TRAINED = 0.01  # of the variance, which is 1
FIRST_STEPS = 10  # over which updates are averaged


class Config(ClaimConfig):
    """Which depths, which rates."""

    depths: list[Positive]  # hidden layers
    width: Positive
    inputs: Positive
    rows: Positive
    num_steps: Positive
    adam_steps: Positive
    rho: list[float]
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each depth and algorithm."""
    for depth in config.depths:
        network = jills.Network((config.inputs, *depth * (config.width,), 1), jills.activations.tanh)
        for name, (algorithm, hparams) in compared(network, config.rho, config.adam_rates).items():
            yield Piece(f"{depth}-{name}", partial(measure, config, depth, name, algorithm, hparams))


def problem(network: jills.Network, rows: int, dtype: str, key: jax.Array):
    """Inputs uniform in (-1, 1), targets of a one-layer teacher with deviation 1, another start."""
    keys = jax.random.split(key, 3)
    teacher = jills.Network((network.sizes[0], 8, 1), jills.activations.tanh)
    inputs = jax.random.uniform(keys[0], (rows, network.sizes[0]), dtype, -1, 1)
    clean = teacher.predict(teacher.init(keys[1], dtype), inputs)
    return network.init(keys[2], dtype), jills.Batch(inputs, (clean - clean.mean()) / clean.std())


def measure(config: Config, depth: int, name: str, algorithm: jills.Algorithm, hparams) -> list[Row]:
    """The rows of a sweep, and on those of the last step the mean updates of each layer in the first steps."""
    task, keys = Partial(partial(problem, algorithm.network, config.rows, config.dtype)), keys_of(config)
    steps = config.adam_steps if name == "adam" else config.num_steps
    rows = train(name, algorithm, hparams, task, keys, steps, depth=depth)
    moved = np.asarray(layer_updates(algorithm, min(FIRST_STEPS, steps), hparams, task, keys))
    index = {float(rate): h for h, rate in enumerate(rates_of(hparams, len(moved)))}
    for row in rows:
        if row["step"] == steps:
            each = moved[index[row["learning_rate"]], row["seed"]]
            row |= {f"update_{layer + 1}": float(value) for layer, value in enumerate(each)}
    return rows


@partial(jax.jit, static_argnums=(0, 1))
def layer_updates(algorithm: jills.Algorithm, num_steps: int, hparams, task: Partial, keys: jax.Array) -> jax.Array:
    """Mean relative update of each layer over the first steps, `(H, S, L)`."""

    def norms(params):
        return jnp.stack([jnp.sqrt(jnp.sum(layer.weight**2) + jnp.sum(layer.bias**2)) for layer in params])

    def one(hparams, key):
        def body(state, _):
            new, _ = algorithm.step(hparams, state, batch)
            return new, norms(jax.tree.map(jnp.subtract, new.params, state.params)) / norms(state.params)

        params, batch = task(key)
        _, moved = lax.scan(body, algorithm.begin(params, batch)[0], None, length=num_steps)
        return jnp.mean(moved, axis=0)

    dtype = jax.eval_shape(task, keys[0])[0][0].weight.dtype
    # One member after the other: a batched LAPACK call may hang on few cores.
    by_key = lambda hparams: lax.map(partial(one, hparams), keys)  # noqa: E731 used at once
    return lax.map(by_key, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), hparams))


def draw(table: pd.DataFrame) -> Figure:
    """Final loss by depth; updates by layer of the deepest but one; seconds a step and compilation by depth."""
    best = tuned(table, ["depth", "algorithm"])
    ends = last(best)
    layers = np.arange(1, shown_depth(ends) + 2)
    figure, panels = figures.subplots(2, 2, figsize=(9.5, 7))
    for (name,), part in parts(ends, "algorithm"):
        style, depths = figures.style(name), sorted(part["depth"].unique())
        each = [median_interval(where(part, depth=depth)["loss"]) for depth in depths]
        figures.band(panels[0, 0], depths, *np.array(each).T, label=NAMES[name], **style)
        costs = part.groupby("depth")[["seconds", "step", "compile_seconds"]].median()
        panels[1, 0].plot(costs.index, 1e3 * costs["seconds"] / costs["step"], **style)
        panels[1, 1].plot(costs.index, costs["compile_seconds"], **style)
        shown = where(part, depth=shown_depth(ends))
        moved = [np.nanmedian(shown[f"update_{layer}"]) for layer in layers]
        panels[0, 1].plot(layers, moved, **style)
    labels = {
        (0, 0): ("hidden layers", "final training loss (variance is 1)"),
        (0, 1): (f"layer of the net with {shown_depth(ends)} hidden layers", "relative update in a step"),
        (1, 0): ("hidden layers", "milliseconds a step and network"),
        (1, 1): ("hidden layers", "compilation, seconds"),
    }
    depths = sorted(ends["depth"].unique())
    for place, (across, up) in labels.items():
        panels[place].set(xlabel=across, ylabel=up, yscale="linear" if place == (1, 1) else "log")
        panels[place].set_xticks(layers if place == (0, 1) else depths)
        panels[place].grid(alpha=0.3)
    figures.legend(figure, panels[0, 0], 3)
    return figure


def shown_depth(ends: pd.DataFrame) -> int:
    """The depth whose layers are drawn: ten, or the largest below."""
    return int(max(depth for depth in ends["depth"].unique() if depth <= max(10, ends["depth"].min())))


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per depth and algorithm."""
    rows = []
    for (depth, name), part in parts(last(tuned(table, ["depth", "algorithm"])), "depth", "algorithm"):
        first, top = part["update_1"].median(), part[f"update_{depth + 1}"].median()
        row = {"hidden layers": depth, "algorithm": NAMES[name], "steps": part["step"].iloc[0]}
        row |= {"final loss": show_interval(part["loss"]), "trains": f"{np.mean(part['loss'] < TRAINED):.0%}"}
        row |= {"update of the first layer": f"{first:.2g}", "of the last": f"{top:.2g}"}
        row |= {"ms a step": f"{1e3 * (part['seconds'] / part['step']).median():.3g}"}
        rows.append(row | {"compilation, s": f"{part['compile_seconds'].median():.2g}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("depth", Config, pieces, draw, summarize)
