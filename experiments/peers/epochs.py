"""Peers that step on minibatches, in a new order each epoch: one compiled loop takes many epochs.

The parameters after each epoch are kept, and the loss of all rows computed from them outside the clock.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

import jills
from experiments.measuring import clock
from experiments.peers.base import (
    Budget,
    Problem,
    Trace,
    first_call_extra,
    reason_to_stop,
    start_loss,
    to_params,
    true_loss,
)
from experiments.peers.stepped import Method, plan

SNAPSHOT_ENTRIES = 10_000_000  # parameters kept for the evaluation after a call


def fills_batches(problem: Problem, batch_size: int) -> bool:
    """Whether an epoch has at least two batches."""
    return problem.batch.inputs.shape[0] >= 2 * batch_size


def run(method: Method, hparams: Any, problem: Problem, budget: Budget, batch_size: int) -> Trace:
    """The trace of a method, a step an epoch. The rows that fill no batch wait for the next epoch."""
    key = jax.random.key(problem.seed)
    capacity = max(1, min(200, SNAPSHOT_ENTRIES // problem.network.num_params))
    train = partial(_epochs, method, batch_size, capacity, hparams, problem.batch, key)
    evaluate = partial(_losses, problem.network, problem.loss, problem.batch)
    progress = jax.jit(begin, static_argnums=(0, 1))(method, batch_size, hparams, problem.params, problem.batch)
    compile_seconds = first_call_extra(partial(train, progress, 0, 0))
    pace = clock(partial(train, progress, 0, 1))[0]

    best, best_params = start_loss(problem), problem.params
    seconds, losses, reason = [0.0], [best], ""
    while not reason:
        count = plan(budget, seconds[-1], len(losses) - 1, pace, capacity)
        elapsed, (progress, snapshots) = clock(partial(train, progress, len(losses) - 1, count))
        pace, before = elapsed / count, seconds[-1]
        for index, value in enumerate(np.asarray(evaluate(snapshots, progress.state.params, count))[:count]):
            seconds.append(before + elapsed * (index + 1) / count)
            losses.append(float(value))
            if losses[-1] < best:
                best, best_params = losses[-1], to_params(np.asarray(snapshots[index]), problem)
            reason = reason_to_stop(budget, best, seconds[-1], len(losses) - 1)
            reason = reason or ("" if np.isfinite(value) else "not finite")
            if reason:
                break
    return Trace(np.array(seconds), np.array(losses), compile_seconds, best_params, reason)


class Progress(NamedTuple):
    """Where a method is."""

    state: Any
    order: jax.Array  # (n,) of the rows in this epoch


def begin(method: Method, batch_size: int | None, hparams: Any, params: jills.Params, batch: jills.Batch) -> Progress:
    """The state before the first step, for minibatches of some size or for all rows."""
    state = method.start(hparams, params, jax.tree.map(lambda leaf: leaf[:batch_size], batch))
    return Progress(state, jnp.arange(batch.inputs.shape[0]))


def advance(
    method: Method,
    batch_size: int | None,
    batch: jills.Batch,
    key: jax.Array,
    hparams: Any,
    progress: Progress,
    first,
    last,
) -> Progress:
    """The steps of number `first` up to `last`, without it; pure, `first` and `last` may be traced.

    Each epoch has a new order of rows, and those that fill no minibatch wait for the next one.

    Args:
        method: static.
        batch_size: of a minibatch, static; None: all rows.
        batch: all rows.
        key: of the orders.
        hparams: of the method.
        progress: after the step before `first`.
        first: the number of a step.
        last: of another one.
    """
    num_rows = batch.inputs.shape[0]
    size = batch_size or num_rows
    per_epoch = num_rows // size

    def one_epoch(epoch, progress):
        begins = epoch * per_epoch
        renew = lambda: jax.random.permutation(jax.random.fold_in(key, epoch), num_rows)  # noqa: E731 used at once
        order = lax.cond(begins >= first, renew, lambda: progress.order) if batch_size else progress.order

        def one_step(index, state):
            rows = lax.dynamic_slice(order, ((index - begins) * size,), (size,))
            some = jax.tree.map(lambda leaf: leaf[rows], batch) if batch_size else batch
            return method.step(hparams, state, some)

        steps = (jnp.maximum(first, begins), jnp.minimum(last, begins + per_epoch))
        return Progress(lax.fori_loop(*steps, one_step, progress.state), order)

    return lax.fori_loop(first // per_epoch, (last - 1) // per_epoch + 1, one_epoch, progress)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epochs(method, batch_size, capacity, hparams, batch, key, progress, done, count):
    """`count` epochs after `done`, and the flat parameters after each, `(capacity, P)`."""
    steps = batch.inputs.shape[0] // batch_size

    def one_epoch(index, both):
        epoch, (progress, snapshots) = done + index, both
        progress = advance(method, batch_size, batch, key, hparams, progress, epoch * steps, (epoch + 1) * steps)
        return progress, snapshots.at[index].set(ravel_pytree(progress.state.params)[0])

    flat = ravel_pytree(progress.state.params)[0]
    return lax.fori_loop(0, count, one_epoch, (progress, jnp.zeros((capacity, flat.size), flat.dtype)))


@partial(jax.jit, static_argnums=(0, 1))
def _losses(network, loss, batch, snapshots, template, count):
    """The loss of each of the first `count` snapshots."""
    unravel = ravel_pytree(template)[1]

    def one(index, losses):
        return losses.at[index].set(true_loss(network, loss, unravel(snapshots[index]), batch))

    return lax.fori_loop(0, count, one, jnp.zeros(snapshots.shape[0], snapshots.dtype))
