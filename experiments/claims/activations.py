"""Does it work with every activation, and is the inverse of the activation needed? Teachers and diabetes.

Where an activation has an inverse, ILLS is run in both variants: "inverse", the paper's, shifts activations and inverts
them; "linearised" shifts total inputs and needs no inverse, and is the only one for ReLU and GELU. All networks have
one hidden layer and a linear output. A teacher has the shape and the activation of its student and labels the rows
without noise. Its outputs are scaled to mean 0 and variance 1, which a linear output layer can follow exactly, and so
are the targets of diabetes: losses mean the same for all activations, and 1 is the loss of the best constant.

"Final" is after the last step. A network fails if its final loss is not finite or is 1 or more. Every method has,
for each activation and data set, the rate whose median final loss is lowest; all runs of ILLS have the same ridge. Adam
is given more steps than the others, since its steps are quicker; both are in the table.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.tree_util import Partial
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jills
from experiments import figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, keys_of, train
from experiments.claims.drawing import draw_intervals
from experiments.claims.statistics import last, median_interval, parts, show_interval, tuned, where
from experiments.config import Positive
from experiments.data import load

LOSS = jills.losses.squared_error
FAILED = 1.0  # the loss of the best constant
SPELLED = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}


class Shown(NamedTuple):
    """How a method appears in figure and table."""

    algorithm: str  # whose colour and mark it has
    label: str
    filled: bool = True


METHODS = {
    "ills_inverse": Shown("ills", "ILLS, inverse"),
    "ills_linearized": Shown("ills", "ILLS, linearised", filled=False),
    "gauss_newton": Shown("gauss_newton", "Gauss–Newton"),
    "adam": Shown("adam", "Adam"),
}


class Config(ClaimConfig):
    """Which activations, which hyperparameters."""

    activations: list[Literal["tanh", "sigmoid", "softplus", "arcsinh", "relu", "gelu", "silu"]]
    slopes: list[float]  # of leaky ReLU
    data: list[Literal["teacher", "diabetes"]]
    teacher_inputs: Positive
    teacher_hidden: Positive
    diabetes_hidden: Positive
    rows: Positive  # of a teacher, to train on and to test on
    num_steps: Positive
    adam_steps: Positive
    rho: list[float]  # of ILLS
    ridge: float  # of ILLS
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each data set and activation."""
    known = {SPELLED.get(name, name): getattr(jills.activations, name) for name in config.activations}
    known |= {f"leaky ReLU {slope:g}": jills.activations.leaky_relu(slope) for slope in config.slopes}
    for data in config.data:
        for name, activation in known.items():
            yield Piece(f"{data}-{name}".replace(" ", "-"), partial(measure, config, folder, data, name, activation))


def measure(config: Config, folder: str, data: str, name: str, activation: jills.Activation) -> list[Row]:
    """The final rows of all methods with one activation."""
    make = {"teacher": teacher, "diabetes": diabetes}[data]
    network, problem = make(config, folder, activation)
    labels, rows = {"data": f"{data} {'-'.join(map(str, network.sizes))}", "activation": name}, []
    for method, (algorithm, axes, steps) in plans(config, network).items():
        hparams, shown = jills.product(type(algorithm.defaults), **axes), METHODS[method]
        labels |= {"method": method}
        each = train(shown.algorithm, algorithm, hparams, problem, keys_of(config), steps, **labels)
        rows += [row for row in each if row["step"] == steps]
    return rows


def plans(config: Config, network: jills.Network) -> dict[str, tuple[jills.Algorithm, dict[str, Any], int]]:
    """By method the algorithm, its hyperparameters and its steps; "inverse" only where there is one."""
    ills = partial(jills.ills.build, network, LOSS, jills.solvers.qr)
    axes, steps = {"learning_rate": config.rho, "ridge": config.ridge}, config.num_steps
    known: dict[str, tuple[jills.Algorithm, dict[str, Any], int]] = {
        "ills_inverse": (ills(), axes, steps),
        "ills_linearized": (ills(linearized=True), axes, steps),
        "gauss_newton": (jills.gauss_newton.build(network, LOSS), {}, steps),
        "adam": (jills.adam.build(network, LOSS), {"learning_rate": config.adam_rates}, config.adam_steps),
    }
    if network.activations[0].inverse is None:
        del known["ills_inverse"]
    return known


def teacher(config: Config, folder: str, activation: jills.Activation) -> tuple[jills.Network, Partial]:
    """A student and a problem whose rows a network of its shape and activation labels."""
    network = jills.Network((config.teacher_inputs, config.teacher_hidden, 1), activation)
    return network, Partial(partial(_teacher, network, config.rows, config.dtype))


def diabetes(config: Config, folder: str, activation: jills.Activation) -> tuple[jills.Network, Partial]:
    """A network for the rows of diabetes, and the problem."""
    dataset = load("diabetes", folder)
    network = jills.Network((dataset.train.inputs.shape[1], config.diabetes_hidden, 1), activation)
    return network, problems.fixed_problem(network, LOSS, config.dtype, dataset)


def _teacher(network, rows, dtype, key):
    """Inputs uniform in (-1, 1), half to train and half to test; targets with mean 0 and variance 1 in training."""
    keys = jax.random.split(key, 3)
    inputs = jax.random.uniform(keys[0], (2 * rows, network.sizes[0]), dtype, -1, 1)
    clean = network.predict(network.init(keys[1], dtype), inputs)
    targets = (clean - clean[:rows].mean()) / clean[:rows].std()
    metrics = Partial(partial(_test, network), jills.Batch(inputs[rows:], targets[rows:]))
    return network.init(keys[2], dtype), jills.Batch(inputs[:rows], targets[:rows]), metrics


def _test(network, test, params):
    """The loss on the test rows."""
    return {"test_loss": LOSS(network.predict(params, test.inputs), test.targets)}


def draw(table: pd.DataFrame) -> Figure:
    """A panel per data set: final training loss by activation, median and interval, for all methods."""
    ends = last(tuned(table, ["data", "activation", "method"]))
    names = list(ends["data"].unique())
    figure, panels = figures.subplots(1, len(names), figsize=(5.6 * len(names) + 0.6, 4.8))
    for panel, name in zip(panels[0], names, strict=True):
        draw_panel(panel, where(ends, data=name))
        panel.set(title=f"{name} (dotted: best constant)", yscale="log")
        panel.set_ylabel("final training loss, in variances of the targets")
    figures.legend(figure, panels[0, 0], 4)
    return figure


def draw_panel(panel: Axes, ends: pd.DataFrame) -> None:
    """Marks side by side for each activation; those of the linearised variant are open."""
    names = list(ends["activation"].unique())
    panel.axhline(FAILED, color="black", linewidth=0.8, linestyle=":")
    for place, (method, shown) in enumerate(METHODS.items()):
        shift = 0.2 * (place - (len(METHODS) - 1) / 2)
        style = figures.style(shown.algorithm) | {"markersize": 6, "label": shown.label}
        style |= {} if shown.filled else {"markerfacecolor": "white"}
        part = where(ends, method=method)
        places = [names.index(str(name)) for name in part["activation"].unique()]
        each = [where(part, activation=names[index])["loss"] for index in places]
        draw_intervals(panel, np.array(places) + shift, each, **style)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right")
    panel.grid(alpha=0.3, axis="y")


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and activation: final training losses; then test losses, failures and rates in their order."""
    rows = []
    best = last(tuned(table, ["data", "activation", "method"]))
    for (data, activation), part in parts(best, "data", "activation"):
        row = {"data": data, "activation": activation}
        each = {method: where(part, method=method) for method in METHODS}
        for method, ends in each.items():
            row[label_with_steps(best, method)] = "no inverse" if ends.empty else show_interval(ends["loss"])
        for label, show in (("test losses", test_loss), ("fail", failing), ("rates", rate)):
            row[f"{label}, in this order"] = " / ".join("–" if ends.empty else show(ends) for ends in each.values())
        rows.append(row)
    return pd.DataFrame(rows)


def label_with_steps(best: pd.DataFrame, method: str) -> str:
    """A method's name with its number of steps."""
    steps = where(best, method=method)["step"]
    return METHODS[method].label + (f", {steps.iloc[0]} steps" if len(steps) else "")


def test_loss(ends: pd.DataFrame) -> str:
    """The median."""
    return f"{median_interval(ends['test_loss'])[1]:.2g}"


def failing(ends: pd.DataFrame) -> str:
    """The share of networks that fail."""
    return f"{np.mean(~(ends['loss'] < FAILED)):.0%}"


def rate(ends: pd.DataFrame) -> str:
    """The best; on all rows that of Gauss–Newton means nothing."""
    first = ends.iloc[0]
    return "–" if first["method"] == "gauss_newton" else f"{first['learning_rate']:g}"


EXPERIMENT = Experiment("activations", Config, pieces, draw, summarize)
