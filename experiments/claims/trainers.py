"""Trainers on a clock, for images: minibatches in a new order each epoch, and rates that fall with the seconds left.

The clock stands still while losses are computed and programs compiled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jills
from experiments import problems
from experiments.claims.base import Row
from experiments.peers import with_curvature, with_jills, with_optax
from experiments.peers.base import clock, first_call_extra, true_loss

LOSS = jills.losses.softmax_cross_entropy
ADAM_ROWS = 128
FIRST_MOMENT = 0.02  # of the seconds
CALLS = 40  # at least, in a run: so finely the rates fall


class Trainer(NamedTuple):
    """An algorithm with its numbers."""

    name: str
    setting: str
    method: Any  # a `Method` of `stepped` or `epochs`
    hparams: Callable[[float], Any]  # share of the seconds left → the numbers
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
    minibatches = with_jills.Minibatches(with_jills.for_minibatches(place.network, LOSS))
    rows = min(with_jills.MINIBATCH_ROWS, place.batch.inputs.shape[0] // 2)
    numbers = jills.gauss_newton.minibatch_hparams(place.network, rows)
    falling = lambda left: numbers._replace(learning_rate=left * numbers.learning_rate)  # noqa: E731
    decayed = lambda left: falling(left)._replace(weight_decay=decay)  # noqa: E731
    whole = with_jills.Whole(jills.gauss_newton.build(place.network, LOSS))
    lbfgs = with_optax.Lbfgs(place.network, LOSS)
    return [
        *([Trainer("gauss_newton", "", whole, lambda left: jills.gauss_newton.Hparams(), None)] if full_batch else []),
        Trainer("gauss_newton_minibatches", "", minibatches, falling, rows),
        Trainer("gauss_newton_decay", f"{decay:g}", minibatches, decayed, rows),
        Trainer("lbfgs", "", lbfgs, lambda left: with_optax.Numbers(), None),
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
    numbers = lambda left: jax.tree.map(partial(jnp.asarray, dtype=place.params[0].weight.dtype), trainer.hparams(left))  # noqa: E731
    num_rows = place.batch.inputs.shape[0]
    begin = partial(_start, trainer.method, trainer.rows, numbers(1.0), place.params, place.batch)
    go_on = partial(_advance, trainer.method, trainer.rows, place.batch, jax.random.key(seed))
    compiling = first_call_extra(begin)
    used, state = clock(begin)
    order = jnp.arange(num_rows)
    # A call of no step compiles and does nothing else; one step that is thrown away shows the pace.
    compiling += first_call_extra(partial(go_on, numbers(1.0), state, order, 0, 0))
    pace = clock(partial(go_on, numbers(1.0), state, order, 0, 1))[0]
    known = {"algorithm": trainer.name, "setting": trainer.setting, "seed": seed, "compile_seconds": compiling}
    done, rows = 0, [known | {"step": 0, "seconds": 0.0, "epochs": 0.0} | judge(place, place.params)]
    for step, moment in enumerate(seconds * np.geomspace(FIRST_MOMENT, 1, moments), 1):
        while used + pace / 2 < moment:
            count = max(1, round(min(moment - used, seconds / CALLS) / pace))
            now = numbers(max(0.0, 1 - used / seconds))
            elapsed, (state, order) = clock(partial(go_on, now, state, order, done, count))
            used, done, pace = used + elapsed, done + count, elapsed / count
        epochs = done * (trainer.rows or num_rows) / num_rows
        rows.append(known | {"step": step, "seconds": used, "epochs": epochs} | judge(place, state.params))
    return rows


@partial(jax.jit, static_argnums=(0, 1))
def _start(method, size, hparams, params, batch):
    """The state before the first step."""
    return method.start(hparams, params, jax.tree.map(lambda leaf: leaf[:size], batch))


@partial(jax.jit, static_argnums=(0, 1))
def _advance(method, size, batch, key, hparams, state, order, first, count):
    """`count` steps from number `first` on, on all rows if `size` is None; else each epoch has a new order of rows.

    The rows at the end of an order that fill no minibatch wait for the next epoch.
    """
    num_rows = batch.inputs.shape[0]
    per_epoch = num_rows // (size or num_rows)

    def one_step(index, both):
        state, order = both
        if size is None:
            return method.step(hparams, state, batch), order
        place = index % per_epoch
        renew = lambda: jax.random.permutation(jax.random.fold_in(key, index), num_rows)  # noqa: E731
        order = lax.cond(place == 0, renew, lambda: order)
        rows = lax.dynamic_slice(order, (place * size,), (size,))
        return method.step(hparams, state, jax.tree.map(lambda leaf: leaf[rows], batch)), order

    return lax.fori_loop(first, first + count, one_step, (state, order))


def judge(place: Place, params: jills.Params) -> Row:
    """Loss over all training rows, test loss and accuracy."""
    member = jax.tree.map(lambda leaf: leaf[None, None], params)
    measures = problems.metrics_of(place.problem, member, place.key[None])
    loss = true_loss(place.network, LOSS, params, place.batch)
    return {"loss": float(loss)} | {name: float(value[0, 0]) for name, value in measures.items()}
