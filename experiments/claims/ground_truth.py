"""Does training find the true parameters? Teacher and student of the same shape, with and without noise.

A tanh network computes the same function when hidden units change places, or when all weights into and out of a unit
change their sign. The relative distance is therefore the least over all of these:

    distance = min over permutations and signs of ‖θ' − θ*‖ / ‖θ*‖

For one hidden layer that is an assignment problem, solved exactly; for more, every choice in all hidden layers but the
last is tried. "Found": a distance below 0.01 without noise.
"""

from collections.abc import Iterator
from functools import partial
from itertools import permutations, product

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

import jills
from experiments import figures
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, compared, keys_of, rates_of
from experiments.claims.drawing import draw_seeds
from experiments.claims.statistics import best_of, parts, show_interval, where
from experiments.config import Positive
from experiments.figures import NAMES
from experiments.measuring import whole_sweep

ROWS = 200
FOUND = 0.01
Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (fan_in, fan_out), bias (fan_out,)


class Config(ClaimConfig):
    """Which networks, how much noise, which rates."""

    hidden: list[list[Positive]]
    inputs: list[Positive]  # one per network
    noise: list[float]  # share of the standard deviation of the clean targets
    num_steps: Positive
    adam_steps: Positive
    rho: list[float]
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each network and algorithm, for all noises."""
    tanh = jills.activations.tanh
    for inputs, hidden in zip(config.inputs, config.hidden, strict=True):
        network = jills.Network((inputs, *hidden, 1), tanh, tanh)
        for name, (algorithm, hparams) in compared(network, config.rho, config.adam_rates).items():
            run = partial(measure, config, name, algorithm, hparams)
            yield Piece(f"{'-'.join(map(str, network.sizes))}-{name}", run)


def truth_of(network: jills.Network, dtype: str, key: jax.Array) -> jills.Params:
    """The teacher of a key."""
    return network.init(jax.random.fold_in(key, 0), dtype)


def problem(network: jills.Network, dtype: str, noise, key: jax.Array):
    """Inputs uniform in (-1, 1), targets of the teacher with noise, another start."""
    keys = jax.random.split(jax.random.fold_in(key, 1), 3)
    inputs = jax.random.uniform(keys[0], (ROWS, network.sizes[0]), dtype, -1, 1)
    clean = network.predict(truth_of(network, dtype, key), inputs)
    targets = clean + noise * clean.std() * jax.random.normal(keys[1], clean.shape, dtype)
    return network.init(keys[2], dtype), jills.Batch(inputs, targets)


def measure(config: Config, name: str, algorithm: jills.Algorithm, hparams) -> list[Row]:
    """Loss and distance of each network at its end."""
    keys, network = keys_of(config), algorithm.network
    steps = config.adam_steps if name == "adam" else config.num_steps
    truths = jax.tree.map(np.asarray, jax.vmap(partial(truth_of, network, config.dtype))(keys))
    rows = []
    for noise in config.noise:
        # An argument, not a constant: another noise does not compile again.
        task = jax.tree_util.Partial(partial(problem, network, config.dtype), np.asarray(noise, config.dtype))
        result = whole_sweep(algorithm, hparams, task, keys, steps, steps)
        learned = jax.tree.map(np.asarray, result.state.best_params)
        rates = rates_of(hparams, result.state.loss.shape[0])
        for h, s in np.ndindex(result.state.loss.shape):
            pair = [jax.tree.map(lambda leaf, at=at: leaf[at], tree) for tree, at in ((learned, (h, s)), (truths, s))]
            row = {"net": "-".join(map(str, network.sizes)), "noise": noise, "algorithm": name, "seed": s}
            row |= {"learning_rate": float(rates[h]), "loss": float(result.state.best_loss[h, s])}
            rows.append(row | {"distance": distance(*pair)})
    return rows


def distance(params: jills.Params, truth: jills.Params) -> float:
    """The relative distance after the best permutation and signs of the hidden units."""
    learned, true = ([(np.asarray(weight), np.asarray(bias)) for weight, bias in tree] for tree in (params, truth))
    size = sum(float(np.sum(np.square(array))) for layer in true for array in layer)
    return float(np.sqrt(least_squares_apart(learned, true) / size))


def least_squares_apart(learned: Layers, true: Layers) -> float:
    """The least sum of squared differences over permutations and signs of hidden units."""
    if len(true) == 1:
        return apart(learned[0], true[0])
    if len(true) == 2:
        return assigned(learned, true)
    width, best = len(true[0][1]), np.inf
    for order in permutations(range(width)):
        for signs in product((-1.0, 1.0), repeat=width):
            first, second = rearranged(learned[0], learned[1], list(order), np.array(signs))
            best = min(best, apart(first, true[0]) + least_squares_apart([second, *learned[2:]], true[1:]))
    return best


def rearranged(below, above, order: list[int], signs: np.ndarray):
    """A layer and the one above it, its units in another order and with other signs."""
    weight, bias = below
    return (weight[:, order] * signs, bias[order] * signs), (above[0][order] * signs[:, None], above[1])


def apart(layer, other) -> float:
    """Sum of squared differences."""
    return sum(float(np.sum(np.square(a - b))) for a, b in zip(layer, other, strict=True))


def assigned(learned: Layers, true: Layers) -> float:
    """The same for one hidden layer, by the assignment of units with the least cost."""
    ours, theirs = (np.vstack([weight, bias, above.T]).T for (weight, bias), (above, _) in (learned, true))
    both_signs = [np.sum(np.square(sign * ours[:, None] - theirs[None]), axis=2) for sign in (1.0, -1.0)]
    cost = np.minimum(*both_signs)
    return float(cost[linear_sum_assignment(cost)].sum()) + float(np.sum(np.square(learned[1][1] - true[1][1])))


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Of each net, noise and algorithm the rate with the lowest median loss: the distance is not known to a user."""
    by = ["net", "noise", "algorithm"]
    return table.merge(best_of(table, by, ["learning_rate"], "loss"), on=[*by, "learning_rate"])


def draw(table: pd.DataFrame) -> Figure:
    """Distance against noise, a panel per net; a dot per seed, and the median with its interval."""
    best = best_rates(table)
    nets = list(table["net"].unique())
    figure, panels = figures.subplots(1, len(nets), sharey="row")
    for panel, net in zip(panels[0], nets, strict=True):
        noises = sorted(best["noise"].unique())
        for shift, name in zip((-0.25, 0.0, 0.25), ("ills", "gauss_newton", "adam"), strict=True):
            part = where(best, net=net, algorithm=name)
            for place, noise in enumerate(noises):
                values = np.maximum(where(part, noise=noise)["distance"].to_numpy(float), 1e-17)
                jitter = np.random.default_rng(0).uniform(-0.07, 0.07, len(values))
                draw_seeds(panel, place + shift, values, name, place + shift + jitter)
            panel.plot([], [], label=NAMES[name], **(figures.style(name) | {"linestyle": "", "markersize": 8}))
        panel.set_xticks(range(len(noises)), [f"{noise:.0%}" for noise in noises])
        panel.set(yscale="log", title=net, xlabel="noise, share of the targets' deviation")
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("relative distance to the true parameters")
    figures.legend(figure, panels[0, 0], 3)
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per net and algorithm: distances by noise, and how many are found without noise."""
    rows = []
    for (net, name), part in parts(best_rates(table), "net", "algorithm"):
        row = {"net": net, "algorithm": NAMES[name]}
        for (noise,), each in parts(part, "noise"):
            row[f"distance, {noise:.0%} noise"] = show_interval(each["distance"])
        clean = where(part, noise=part["noise"].min())
        rows.append(row | {"found": f"{np.mean(clean['distance'] < FOUND):.0%}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("ground_truth", Config, pieces, draw, summarize)
