"""Trainers on a clock, for images: minibatches in a new order each epoch, and rates that fall with the seconds left.

The clock stands still while losses are computed and programs compiled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jills
from experiments import problems
from experiments.claims.base import Row
from experiments.measuring import clock
from experiments.peers import epochs, stepped, with_curvature, with_jills, with_optax
from experiments.peers.base import first_call_extra, true_loss

LOSS = jills.losses.softmax_cross_entropy
ADAM_ROWS = 128
FIRST_MOMENT = 0.02  # of the seconds
CALLS = 40  # at least, in a run: so finely the rates fall


class Trainer(NamedTuple):
    """An algorithm at a setting of its hyperparameters."""

    name: str
    setting: str
    method: stepped.Method
    hparams: Callable[[float], Any]  # share of the seconds left → the hyperparameters
    rows: int | None  # of a minibatch; None: all


class Place(NamedTuple):
    """A problem and a start."""

    network: jills.Network
    problem: Any  # key → (params, batch, metrics)
    key: jax.Array
    params: jills.Params
    batch: jills.Batch


def untuned(place: Place, full_batch: bool, decay: float) -> list[Trainer]:
    """Gauss–Newton on minibatches, without and with weight decay, and on all rows if wanted; L-BFGS."""
    minibatches = with_jills.JillsMethod(with_jills.for_minibatches(place.network, LOSS))
    rows = min(with_jills.MINIBATCH_ROWS, place.batch.inputs.shape[0] // 2)
    start = jills.gauss_newton.minibatch_hparams(place.network, rows, LOSS)
    falling = lambda left: start._replace(learning_rate=left * start.learning_rate)  # noqa: E731
    decayed = lambda left: falling(left)._replace(weight_decay=decay)  # noqa: E731
    whole = with_jills.JillsMethod(jills.gauss_newton.build(place.network, LOSS))
    lbfgs = with_optax.Lbfgs(place.network, LOSS)
    return [
        *([Trainer("gauss_newton", "", whole, lambda left: jills.gauss_newton.Hparams(), None)] if full_batch else []),
        Trainer("gauss_newton_minibatches", "", minibatches, falling, rows),
        Trainer("gauss_newton_decay", f"{decay:g}", minibatches, decayed, rows),
        Trainer("lbfgs", "", lbfgs, lambda left: with_optax.NoHparams(), None),
    ]


def candidates(place: Place, family: str, adam_rates: list[float], somax_settings: list[str]) -> list[Trainer]:
    """The settings of a family that is tuned: "adam_minibatches" or "curvature"."""
    if family == "adam_minibatches":
        method = with_optax.MinibatchAdam(place.network, LOSS)
        rows = min(ADAM_ROWS, place.batch.inputs.shape[0] // 2)
        return [Trainer(family, f"{rate:g}", method, rate.__mul__, rows) for rate in adam_rates]
    return [somax(place, setting) for setting in somax_settings]


def somax(place: Place, name: str) -> Trainer:
    """Somax at one of its settings."""
    setting = with_curvature.SETTINGS[name]
    method = with_curvature.StochasticGaussNewton(place.network, setting)
    rows = min(setting.rows, place.batch.inputs.shape[0] // 2)
    return Trainer("curvature", name, method, setting.learning_rate.__mul__, rows)


def run(trainer: Trainer, place: Place, seconds: float, moments: int, seed: int) -> list[Row]:
    """A row for the start and each moment; the seconds are rounded to whole steps."""
    dtype, num_rows = place.params[0].weight.dtype, place.batch.inputs.shape[0]
    hparams = lambda left: jax.tree.map(partial(jnp.asarray, dtype=dtype), trainer.hparams(left))  # noqa: E731
    begin = partial(_begin, trainer.method, trainer.rows, hparams(1.0), place.params, place.batch)
    go_on = partial(_advance, trainer.method, trainer.rows, place.batch, jax.random.key(seed))
    compiling = first_call_extra(begin)
    used, progress = clock(begin)
    # A call of no step compiles and does nothing else; one step that is thrown away shows the pace.
    compiling += first_call_extra(partial(go_on, hparams(1.0), progress, 0, 0))
    pace = clock(partial(go_on, hparams(1.0), progress, 0, 1))[0]
    known = {"algorithm": trainer.name, "setting": trainer.setting, "seed": seed, "compile_seconds": compiling}
    done, rows = 0, [known | {"step": 0, "seconds": 0.0, "epochs": 0.0} | judge(place, place.params)]
    for step, moment in enumerate(seconds * np.geomspace(FIRST_MOMENT, 1, moments), 1):
        while used + pace / 2 < moment:
            count = max(1, round(min(moment - used, seconds / CALLS) / pace))
            now = hparams(max(0.0, 1 - used / seconds))
            elapsed, progress = clock(partial(go_on, now, progress, done, done + count))
            used, done, pace = used + elapsed, done + count, elapsed / count
        passed = done * (trainer.rows or num_rows) / num_rows
        rows.append(known | {"step": step, "seconds": used, "epochs": passed} | judge(place, progress.state.params))
    return rows


_begin = jax.jit(epochs.begin, static_argnums=(0, 1))
_advance = jax.jit(epochs.advance, static_argnums=(0, 1))


def judge(place: Place, params: jills.Params) -> Row:
    """Loss over all training rows, test loss and accuracy."""
    member = jax.tree.map(lambda leaf: leaf[None, None], params)
    measures = problems.metrics_of(place.problem, member, place.key[None])
    loss = true_loss(place.network, LOSS, params, place.batch)
    return {"loss": float(loss)} | {name: float(value[0, 0]) for name, value in measures.items()}
