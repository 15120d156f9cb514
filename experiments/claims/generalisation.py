"""Does it generalise, and does ILLS help as a start? Two parts.

Overfitting: noisy data, a net with one hidden layer of 20, with and without ridge (of ILLS) or weight decay (of
Gauss–Newton). A fifth of the training rows, at random, validates. Each network is stopped at the recorded step where
its own validation loss is lowest; of rates that one counts whose stopped networks have the lowest median validation
loss, and "at the end" is the last step at the same rate. Of ridges and decays above zero the best is chosen likewise.
The validation rows of sunspots are at random too, among the fitted ones; the test rows are later than all.

Start: none, one or more steps of ILLS, then Adam or Gauss–Newton from there. The ratio is the loss over that of the
same seed after as many steps of the same algorithm, without ILLS before; below 1, ILLS has helped. Its own steps are
not counted, which favours it. Each start has the rate whose median training loss at the end is lowest.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jax.tree_util import Partial
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jills
from experiments import data, figures, problems
from experiments.claims.base import ClaimConfig, Experiment, Piece, Row, compared, keys_of, train
from experiments.claims.statistics import best_of, curve, last, parts, show_interval, show_rate, tuned, where
from experiments.config import Positive, Teacher
from experiments.data.splits import shuffled
from experiments.figures import NAMES
from experiments.records import diverged_last

VALIDATION = 0.2  # of the training rows
FLOOR = 1e-30  # losses below it count as it: a ratio of roundings says nothing


class Config(ClaimConfig):
    """Which data, which hyperparameters, for how long."""

    overfitting: list[Literal["diabetes", "boston", "sunspots"]]
    hidden: Positive
    rho: list[float]  # of ILLS
    ridge: list[float]  # of ILLS
    weight_decay: list[float]  # of Gauss–Newton
    adam_rates: list[float]
    ills_steps: Positive
    newton_steps: Positive
    adam_steps: Positive
    start: list[Literal["teacher", "sunspots"]]
    followers: list[Literal["gauss_newton", "adam"]]
    first: list[int]  # steps of ILLS before; 0 among them
    first_rho: float
    newton_steps_after: Positive
    adam_steps_after: Positive


def pieces(config: Config, folder: str) -> Iterator[Piece]:
    """One for each data set and algorithm, in both parts."""
    for name in config.overfitting:
        for algorithm in ("ills", "gauss_newton", "adam"):
            yield Piece(f"overfitting-{name}-{algorithm}", partial(overfit, config, name, algorithm, folder))
    for name in config.start:
        for algorithm in config.followers:
            yield Piece(f"start-{name}-{algorithm}", partial(begin, config, name, algorithm, folder))


def overfit(config: Config, name: str, method: str, folder: str) -> list[Row]:
    """The sweep of one algorithm on one data set; `strength` is that of ridge or weight decay."""
    network, problem = noisy_problem(name, config.hidden, config.dtype, folder)
    plan = compared(network, config.rho, config.adam_rates, config.ridge, config.weight_decay)[method]
    steps = {"ills": config.ills_steps, "gauss_newton": config.newton_steps, "adam": config.adam_steps}[method]
    rows = train(method, *plan, problem, keys_of(config), steps, part="overfitting", data=name)
    only = {"ills": config.ridge, "gauss_newton": config.weight_decay, "adam": [0.0]}[method][0]
    for row in rows:
        row["strength"] = row.get("ridge", row.get("weight_decay", only))
    return rows


@lru_cache
def noisy_problem(name: str, hidden: int, dtype: str, folder: str) -> tuple[jills.Network, Partial]:
    """A data set with a fifth of its training rows, at random, to validate with; made anew it would compile anew."""
    dataset = data.load(name, folder)
    rows = shuffled(dataset.train, 0)
    count = round(VALIDATION * len(rows.rows))
    network = jills.Network((rows.inputs.shape[1], hidden, 1), jills.activations.tanh)
    fitted, validation = rows.take(slice(count, None)), rows.take(slice(0, count))
    return network, problems.held_out_problem(network, dtype, fitted, validation, dataset.test)


def begin(config: Config, name: str, method: str, folder: str) -> list[Row]:
    """Sweeps of one algorithm from the start and from where ILLS has come to."""
    network, problem = {"teacher": teacher, "sunspots": sunspots}[name](config.dtype, folder)
    plan = compared(network, [config.first_rho], config.adam_rates)[method]
    steps = {"gauss_newton": config.newton_steps_after, "adam": config.adam_steps_after}[method]
    after, rho, rows = partial(_after_ills, network), jnp.asarray(config.first_rho, config.dtype), []
    for first in config.first:
        begun = Partial(after, problem, jnp.asarray(first), rho)  # another number of steps does not compile again
        label = f"{name} {'-'.join(map(str, network.sizes))}"
        rows += train(method, *plan, begun, keys_of(config), steps, part="start", data=label, first=first)
    return rows


def teacher(dtype: str, folder: str) -> tuple[jills.Network, Partial]:
    """Noiseless; a network of the same shape labels the rows."""
    network = jills.Network((3, 4, 1), jills.activations.tanh, jills.activations.tanh)
    table = Teacher(name="teacher", inputs=3)
    return network, problems.teacher_problem(network, jills.losses.squared_error, table, dtype)


def sunspots(dtype: str, folder: str) -> tuple[jills.Network, Partial]:
    """The next year from the last eight."""
    network = jills.Network((8, 10, 1), jills.activations.tanh)
    dataset = data.load("sunspots", folder)
    return network, problems.fixed_problem(network, jills.losses.squared_error, dtype, dataset)


def _after_ills(network, problem, first, rho, key):
    """The problem, started where so many steps of ILLS lead to."""
    params, batch, metrics = problem(key)
    algorithm, hparams = jills.ills.build(network, solver=jills.solvers.qr), jills.ills.Hparams(rho, 0 * rho)
    state = algorithm.begin(params, batch)[0]
    state = lax.fori_loop(0, first, lambda _, state: algorithm.step(hparams, state, batch)[0], state)
    return state.params, batch, metrics


def rows_of(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, which has its columns even where nothing of it is there."""
    columns = dict.fromkeys([*table.columns, "strength", "validation_loss", "first"])
    return where(table, part=part).reindex(columns=list(columns))


def stopped(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the best rate of each data set, algorithm and strength; `stop` marks where a network is stopped."""
    setting = ["data", "algorithm", "strength"]
    table = pd.DataFrame(table).reset_index(drop=True)
    table = table.assign(worst=diverged_last(table["validation_loss"]))
    lowest = table.groupby([*setting, "learning_rate", "seed"])["worst"].idxmin()
    table["stop"] = np.isin(table.index, lowest.to_numpy())
    best = best_of(where(table, stop=True), setting, ["learning_rate"], "validation_loss")
    return table.merge(best, on=[*setting, "learning_rate"])


def contrasted(best: pd.DataFrame) -> pd.DataFrame:
    """Of each data set and algorithm strength zero and, of those above it (`held`), the one that validates best."""
    best = best.assign(held=best["strength"] > 0)
    kept = best_of(where(best, stop=True), ["data", "algorithm", "held"], ["strength"], "validation_loss")
    return best.merge(kept, on=["data", "algorithm", "held", "strength"])


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Losses over those without steps of ILLS before, of the same seed and step: the column `ratio`, `test_ratio`."""
    best = tuned(rows_of(table, "start"), ["data", "algorithm", "first"])
    pair = ["data", "algorithm", "seed", "step"]
    both = best.merge(where(best, first=0)[[*pair, "loss", "test_loss"]], on=pair, suffixes=("", "_without"))
    after, without = both[["loss", "test_loss"]], both[["loss_without", "test_loss_without"]]
    both[["ratio", "test_ratio"]] = np.maximum(after.to_numpy(), FLOOR) / np.maximum(without.to_numpy(), FLOOR)
    return pd.DataFrame(both[both["first"] > 0])


def draw(table: pd.DataFrame) -> Figure:
    """Above, losses against step, a panel per data set; below, ratios after a start with ILLS."""
    best, after = contrasted(stopped(rows_of(table, "overfitting"))), ratios(table)
    names, starts = list(best["data"].unique()), list(after["data"].unique())
    shown = [*((name, "ratio") for name in starts), *((name, "test_ratio") for name in starts[-1:])]
    columns = max(len(names), len(shown))
    figure, panels = figures.subplots(2, columns, figsize=(3.9 * columns, 7.8))
    for panel in [*panels[0, len(names) :], *panels[1, len(shown) :]]:
        panel.set_axis_off()
    for panel, name in zip(panels[0], names, strict=False):
        draw_losses(panel, where(best, data=name))
        panel.set(title=name, xlabel="step", ylabel="loss, in variances of the training rows")
    for panel, (name, measure) in zip(panels[1], shown, strict=False):
        draw_ratios(panel, where(after, data=name), measure)
        kind = "test" if measure == "test_ratio" else "training"
        panel.set(title=f"start: {name}", xlabel="step after ILLS", ylabel=f"{kind} loss over that without ILLS")
    draw_legends(figure, panels, sorted(after["first"].unique()))
    return figure


def draw_losses(panel: Axes, best: pd.DataFrame) -> None:
    """Medians over seeds of the test loss, with and without ridge, and of the training loss without."""
    for (name, held), part in parts(best, "algorithm", "held"):
        style = figures.style(name)
        lines = {"test_loss": "--" if held else "-"} | ({} if held else {"loss": ":"})
        for measure, line in lines.items():
            known = curve(part, measure).iloc[1:]  # a logarithmic axis has no place for 0
            panel.plot(known["step"], known["middle"], color=style["color"], linestyle=line, linewidth=1.4)
        stop = where(part, stop=True)
        place = max(np.median(stop["step"]), 1)
        panel.plot(place, np.median(stop["test_loss"]), color=style["color"], marker=style["marker"], markersize=7)
    panel.set(xscale="log", yscale="log")
    panel.grid(alpha=0.3)


WIDTHS = (0.8, 1.6, 2.6)  # of lines, by how many steps of ILLS come before


def draw_ratios(panel: Axes, after: pd.DataFrame, measure: str) -> None:
    """Medians over seeds, and quartiles of the most steps of ILLS; below 1, ILLS has helped."""
    panel.axhline(1, color="black", linewidth=0.8)
    firsts = sorted(after["first"].unique())
    for (name, first), part in parts(after, "algorithm", "first"):
        style, known = figures.style(name), curve(part, measure).iloc[1:]
        width = WIDTHS[min(firsts.index(first), len(WIDTHS) - 1)]
        color = style["color"]
        panel.plot(known["step"], known["middle"], color=color, linestyle=style["linestyle"], linewidth=width)
        if first == firsts[-1]:
            panel.fill_between(known["step"], known["low"], known["high"], color=color, alpha=0.15, linewidth=0)
    panel.set(xscale="log", yscale="log")
    panel.grid(alpha=0.3)


def draw_legends(figure: Figure, panels: np.ndarray, firsts: list[int]) -> None:
    """What colours and lines mean: above the losses, and below the ratios."""
    line = partial(panels[0, 0].plot, [], [])
    handles = [
        line(color=figures.style(name)["color"], label=NAMES[name])[0] for name in ("ills", "gauss_newton", "adam")
    ]
    known = {"test": "-", "test, with ridge or weight decay": "--", "training": ":"}
    handles += [line(color="black", linestyle=style, label=label)[0] for label, style in known.items()]
    handles += line(color="black", marker="o", linestyle="", label="stopped by validation")
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    widths = [(first, WIDTHS[min(place, len(WIDTHS) - 1)]) for place, first in enumerate(firsts)]
    handles = [
        line(color="black", linewidth=width, label=f"steps of ILLS before: {first:g}")[0] for first, width in widths
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Losses with and without ridge, stopped and at the end; then (×) the ratios after a start with ILLS."""
    rows = []
    best = contrasted(stopped(rows_of(table, "overfitting")))
    for (name, method, _), part in parts(best, "data", "algorithm", "held"):
        first, stop, end = part.iloc[0], where(part, stop=True), last(part)
        row = {"data": name, "method": NAMES[method], "with": SETTINGS[method].format(first["strength"])}
        row |= {"test, stopped": show_interval(stop["test_loss"]), "test at the end": show_interval(end["test_loss"])}
        row |= {"training at the end": show_interval(end["loss"]), "stopped at": f"{stop['step'].median():g}"}
        rows.append(row | {"rate": show_rate(method, first["learning_rate"])})
    after = ratios(table)
    for (name, method, first), part in parts(last(after), "data", "algorithm", "first"):
        row = {"data": name, "method": NAMES[method], "with": f"ILLS before, steps: {first:g}"}
        row |= {"test, stopped": "", "test at the end": "× " + show_interval(part["test_ratio"])}
        row |= {"training at the end": "× " + show_interval(part["ratio"]), "stopped at": ""}
        rows.append(row | {"rate": show_rate(method, part["learning_rate"].iloc[0])})
    return pd.DataFrame(rows)


SETTINGS = {"ills": "ridge {:g}", "gauss_newton": "weight decay {:g}", "adam": ""}

EXPERIMENT = Experiment("generalisation", Config, pieces, draw, summarize)
