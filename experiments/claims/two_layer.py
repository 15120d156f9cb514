"""Does ILLS reach a lower training error than Adam, and sooner? Noiseless teachers, by step and by seconds.

Every algorithm at the rate whose median loss after its last step is lowest. "At equal seconds" is the time of twenty
steps of ILLS.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jills
from experiments import figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, compared, keys_of, train
from experiments.claims.drawing import draw_curve
from experiments.claims.statistics import parts, show_interval, show_rate, tuned, where
from experiments.config import Positive, Teacher
from experiments.figures import NAMES

EQUAL_STEPS = 20  # of ILLS
LOWEST = 1e-12  # loss that is drawn; below it stand networks that found their teacher, down to rounding


class Config(ClaimConfig):
    """Which networks, which rates."""

    hidden: list[list[Positive]]
    inputs: list[Positive]  # one per network
    num_steps: Positive
    adam_steps: Positive
    rho: list[float]  # of ILLS
    adam_rates: list[float]


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each network and algorithm."""
    tanh = jills.activations.tanh
    for inputs, hidden in zip(config.inputs, config.hidden, strict=True):
        network = jills.Network((inputs, *hidden, 1), tanh, tanh)
        table = Teacher(name="teacher", inputs=inputs)
        problem = problems.teacher_problem(network, jills.losses.squared_error, table, config.dtype)
        shape = "-".join(map(str, network.sizes))
        for name, plan in compared(network, config.rho, config.adam_rates).items():
            steps = config.adam_steps if name == "adam" else config.num_steps
            yield Piece(f"{shape}-{name}", partial(train, name, *plan, problem, keys_of(config), steps, net=shape))


def draw(table: pd.DataFrame) -> Figure:
    """Median loss and quartiles against step above, against seconds below."""
    best = tuned(table, ["net", "algorithm"])
    nets = list(best["net"].unique())
    figure, panels = figures.subplots(2, len(nets), sharey="row")
    for column, net in enumerate(nets):
        for (name,), part in parts(where(best, net=net), "algorithm"):
            for row, across in enumerate(("step", "seconds")):
                look = figures.style(name) | {"marker": "", "label": NAMES[name]}
                draw_curve(panels[row, column], part, "loss", across, **look)
        for row, label in enumerate(("step", "seconds a network, without compilation")):
            panels[row, column].set(xscale="log", yscale="log", xlabel=label, title=net if row == 0 else "")
            panels[row, column].grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("training loss")
        panel.set_ylim(bottom=LOWEST)
    figures.legend(figure, panels[0, 0], 3)
    return figure


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Losses after 10 and 50 steps, at equal seconds, and at the end."""
    rows = []
    for (net,), each in parts(tuned(table, ["net", "algorithm"]), "net"):
        ills = where(each, algorithm="ills")
        moment = ills["seconds"].max() * EQUAL_STEPS / ills["step"].max()
        for (name,), part in parts(each, "algorithm"):
            end, rate = part["step"].max(), part["learning_rate"].iloc[0]
            # The last recorded step up to that moment.
            equal = part.loc[part["seconds"] <= moment, "step"].max()
            row = {"net": net, "algorithm": NAMES[name], "rate": show_rate(name, rate)}
            moments = {"@10": nearest(part, 10), "@50": nearest(part, 50), "at equal seconds": equal, "at the end": end}
            row |= {label: show_interval(where(part, step=step)["loss"]) for label, step in moments.items()}
            rows.append(row | {"steps": end, "ms a step": f"{1e3 * part['seconds'].max() / end:.3g}"})
    return pd.DataFrame(rows)


def nearest(table: pd.DataFrame, step: int) -> int:
    """The recorded step nearest to one."""
    steps = table["step"].to_numpy(int)
    return int(steps[np.argmin(np.abs(steps - step))])


EXPERIMENT = Experiment("two_layer", Config, pieces, draw, summarize)
