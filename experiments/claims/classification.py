"""Cross-entropy: where should ILLS aim, and what accuracy and calibration does it reach? Digits and Fashion-MNIST.

A cross-entropy has no finite ideal input, so the output layer of ILLS is solved for one of three: the logits of targets
softened by ε, targets scaled to logits c and -c, or the working response. Gauss–Newton and Adam lower
the cross-entropy itself. Networks have one hidden layer of tanh.

ILLS forms a matrix of rows · 10 by width · (inputs + 1), too large for 784 inputs. So Fashion-MNIST is its first 3000
training images, each averaged over squares of 4 × 4 pixels to 7 × 7 = 49 inputs, and all 10000 test images, likewise;
for all algorithms alike. Accuracies are not comparable with those of the whole images.

NLL, the negative log likelihood, is the cross-entropy in nats. With p_i the highest probability of test row i, and
r_i = 1 where it is that of the true class, else 0, the expected calibration error over 15 bins of equal width of p is

    ECE = Σ_b n_b/n |mean_{i in b} r_i − mean_{i in b} p_i| = 1/n Σ_b |Σ_{i in b} (r_i − p_i)|.

Every method has the rate whose median training loss after its last step is lowest; the best of a kind of target is
likewise the ε or c with the lowest. Steps are so many that Gauss–Newton and Adam get about the seconds of ILLS, or
fewer. Seconds are those of the sweeps alone: test rows are looked at between them. "Lowest NLL" is that of all recorded
moments, an optimistic value for every method alike: it chooses on the test rows.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jills
from experiments import data, figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, keys_of, rates_of
from experiments.claims.drawing import draw_curve, draw_intervals
from experiments.claims.statistics import last, parts, show_interval, show_rate, tuned, where
from experiments.config import Positive
from experiments.data import Dataset, Split
from experiments.measuring import whole_sweep

LOSS = jills.losses.softmax_cross_entropy
NUM_BINS = 15
FASHION_ROWS = 3000
SIDE, SQUARE = 7, 4  # of an averaged image, and of what is averaged to a pixel of it
FAMILIES = {  # label, line
    "softened": ("ILLS, softened", "-"),
    "scaled": ("ILLS, scaled", "--"),
    "working response": ("ILLS, working response", ":"),
    "gauss_newton": ("Gauss–Newton", "-."),
    "adam": ("Adam", "--"),
}
OTHERS = ("gauss_newton", "adam")  # not of ILLS


class Config(ClaimConfig):
    """Which data, which targets, which hyperparameters, for how long."""

    data: list[Literal["digits", "fashion-mnist"]]
    hidden: Positive
    softened: list[float]  # ε
    scaled: list[float]  # c
    rho: list[float]  # of ILLS
    ridge: float  # of ILLS
    adam_rates: list[float]
    ills_steps: Positive
    newton_steps: Positive
    adam_steps: Positive
    moments: Positive  # recorded after the start, at most; at equal distances


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each data set and method."""
    methods: list[tuple[str, str, Any]] = [
        *(("softened", f"softened, ε = {value:g}", jills.ills.softened(value)) for value in config.softened),
        *(("scaled", f"scaled, c = {value:g}", jills.ills.scaled(value)) for value in config.scaled),
        ("working response", "working response", jills.ills.working_response),
        ("gauss_newton", "Gauss–Newton", None),
        ("adam", "Adam", None),
    ]
    for name in config.data:
        for family, method, target in methods:
            value = method.partition(" = ")[2]
            run = partial(measure, config, folder, name, family, method, target)
            yield Piece(f"{name}-{family} {value}".strip().replace(" ", "-"), run)


def measure(config: Config, folder: str, name: str, family: str, method: str, target: Any) -> list[Row]:
    """The rows of one method on one data set."""
    dataset = prepare(name, folder)
    network = jills.Network((dataset.train.inputs.shape[1], config.hidden, 10), jills.activations.tanh)
    axes: dict[str, Any]
    if family == "gauss_newton":
        algorithm, axes, steps = jills.gauss_newton.build(network, LOSS), {}, config.newton_steps
    elif family == "adam":
        algorithm, axes = jills.adam.build(network, LOSS), {"learning_rate": config.adam_rates}
        steps = config.adam_steps
    else:
        algorithm = jills.ills.build(network, LOSS, jills.solvers.qr, target=target)
        axes, steps = {"learning_rate": config.rho, "ridge": config.ridge}, config.ills_steps
    rows = record(algorithm, jills.product(type(algorithm.defaults), **axes), dataset, config, steps)
    labels = {"data": f"{name} {'-'.join(map(str, network.sizes))}", "family": family, "method": method}
    return [labels | row for row in rows]


@lru_cache
def prepare(name: str, folder: str) -> Dataset:
    """A data set; Fashion-MNIST in part, its images averaged."""
    dataset = data.load(name, folder)
    if name != "fashion-mnist":
        return dataset
    return dataset._replace(train=averaged(dataset.train.take(slice(0, FASHION_ROWS))), test=averaged(dataset.test))


def averaged(split: Split) -> Split:
    """The images, averaged over squares."""
    squares = split.inputs.reshape(-1, SIDE, SQUARE, SIDE, SQUARE)
    return split._replace(inputs=squares.mean(axis=(2, 4)).reshape(-1, SIDE * SIDE))


def record(algorithm: jills.Algorithm, hparams: Any, dataset: Dataset, config: Config, num_steps: int) -> list[Row]:
    """A row for each rate, seed and moment; sweeps of a few steps each, and between them a look at the test rows."""
    network, keys = algorithm.network, keys_of(config)
    problem = problems.random_start(network, config.dtype, problems.as_batch(dataset.train, config.dtype))
    judge = partial(_judge, network, problems.as_batch(dataset.test, config.dtype), jnp.asarray(dataset.test.labels))
    every, state, used, rows = max(1, num_steps // config.moments), None, 0.0, []
    for step in range(every, num_steps + 1, every):
        result = whole_sweep(algorithm, hparams, problem, keys, every, every, state=state)
        state, used = result.state, used + result.run_seconds / result.state.loss.size
        measures = {"loss": state.loss} | judge(state.params)
        known = {name: np.asarray(values, float) for name, values in measures.items()}
        ended = "ended" if step + every > num_steps else None  # marks the last moment
        rates = rates_of(hparams, len(known["loss"]))
        for h, s in np.ndindex(*known["loss"].shape):
            row = {"learning_rate": float(rates[h]), "seed": s, "step": step, "seconds": used}
            rows.append(row | {name: float(values[h, s]) for name, values in known.items()} | {"status": ended})
    return rows


@partial(jax.jit, static_argnums=0)
def _judge(network, test, labels, params):
    """NLL, accuracy and calibration on the test rows for params `[H, S, …]`."""
    return jax.vmap(jax.vmap(partial(test_metrics, network, test, labels)))(params)


def test_metrics(network: jills.Network, test: jills.Batch, labels: jax.Array, params: jills.Params):
    """Test loss, test accuracy and expected calibration error; of a network that is not finite NaN, 0 and NaN."""
    outputs = network.predict(params, test.inputs)
    highest = jnp.max(jax.nn.softmax(outputs, axis=1), axis=1)
    right = (jnp.argmax(outputs, axis=1) == labels) & jnp.isfinite(highest)
    bins = jnp.clip(jnp.floor(NUM_BINS * highest), 0, NUM_BINS - 1).astype(jnp.int32)
    right = right.astype(outputs.dtype)
    gaps = jax.ops.segment_sum(right - highest, bins, NUM_BINS)
    error = jnp.sum(jnp.abs(gaps)) / labels.shape[0]
    return {"test_loss": LOSS(outputs, test.targets), "test_accuracy": jnp.mean(right), "test_ece": error}


def draw(table: pd.DataFrame) -> Figure:
    """A row per data set: loss and accuracy against seconds, best of each kind; NLL and ECE of all methods."""
    best = tuned(table, ["data", "method"])
    families = tuned(best, ["data", "family"], field="method")
    names = list(best["data"].unique())
    figure, panels = figures.subplots(len(names), 3, figsize=(14, 0.9 + 3.8 * len(names)))
    for row, name in zip(panels, names, strict=True):
        for (family,), part in parts(where(families, data=name), "family"):
            draw_curves(row[:2], str(family), part)
        row[0].set(title=f"{name}: training loss", yscale="log", ylabel="cross-entropy, nats")
        row[1].set(title=f"{name}: test accuracy", ylabel="share of test rows")
        draw_ends(row[2], last(where(best, data=name)))
        row[2].set_title(f"{name}: test rows, at the end", fontsize=12)
    lines = {line.get_label(): line for panel in panels[:, 0] for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines))
    return figure


def style(family: str) -> dict[str, Any]:
    """The colour of the algorithm; the targets of ILLS have lines of their own."""
    return figures.style(family if family in OTHERS else "ills") | {"linestyle": FAMILIES[family][1]}


def draw_curves(panels: np.ndarray, family: str, part: pd.DataFrame) -> None:
    """Medians over seeds with the band between the quartiles."""
    for panel, measure in zip(panels, ("loss", "test_accuracy"), strict=True):
        draw_curve(panel, part, measure, "seconds", label=FAMILIES[family][0], **(style(family) | {"markersize": 3}))
        panel.set(xscale="log", xlabel="seconds a network, without compilation")
        panel.grid(alpha=0.3)


def draw_ends(panel: Axes, ends: pd.DataFrame) -> None:
    """NLL as filled marks and ECE as open ones, by method."""
    names = list(ends["method"].unique())
    for place, name in enumerate(names):
        part = where(ends, method=name)
        look = style(str(part["family"].iloc[0])) | {"markersize": 6}
        for measure, face in (("test_loss", look["color"]), ("test_ece", "white")):
            draw_intervals(panel, [place], [part[measure]], markerfacecolor=face, **look)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right")
    panel.set(yscale="log", ylabel="filled: NLL, nats; open: ECE")
    panel.grid(alpha=0.3, axis="y", which="both")


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and method."""
    rows, best = [], tuned(table, ["data", "method"])
    for (name, method), part in parts(best, "data", "method"):
        ends, first = last(part), part.iloc[0]
        algorithm = "" if first["family"] in OTHERS else "ILLS, "
        lowest = part.assign(test_loss=part["test_loss"].fillna(np.inf)).groupby("seed")["test_loss"].min()
        pace = 1e3 * (ends["seconds"] / ends["step"]).median()
        row = {"data": name, "method": f"{algorithm}{method}"}
        row |= {"rate": show_rate(first["family"], first["learning_rate"])}
        row |= {"training loss": show_interval(ends["loss"]), "test NLL": show_interval(ends["test_loss"])}
        row |= {"lowest NLL": show_interval(lowest), "accuracy": show_interval(ends["test_accuracy"])}
        row |= {"ECE": show_interval(ends["test_ece"]), "steps": ends["step"].iloc[0]}
        rows.append(row | {"ms a step": f"{pace:.3g}", "seconds": f"{ends['seconds'].median():.2g}"})
    return pd.DataFrame(rows)


EXPERIMENT = Experiment("classification", Config, pieces, draw, summarize)
