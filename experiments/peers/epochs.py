"""Peers that step on minibatches, in a new order each epoch: one compiled loop takes many epochs.

The parameters after each epoch are kept, and the loss of all rows computed from them outside the clock.
"""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

import jills
from experiments.peers.base import (
    Budget,
    Problem,
    Trace,
    clock,
    first_call_extra,
    reason_to_stop,
    start_loss,
    to_params,
    true_loss,
)
from experiments.peers.stepped import plan

SNAPSHOT_ENTRIES = 10_000_000  # parameters kept for the evaluation after a call


class Method(Protocol):
    """An optimizer as two pure functions; hashable, since it is static. Its state has the attribute `params`."""

    def start(self, hparams: Any, params: jills.Params, batch: jills.Batch) -> Any:
        """The state before the first step; `batch` has the shape of those that follow."""
        ...

    def step(self, hparams: Any, state: Any, batch: jills.Batch) -> Any:
        """One step on some of the rows."""
        ...


def fills_batches(problem: Problem, batch_size: int) -> bool:
    """Whether an epoch has at least two batches."""
    return problem.batch.inputs.shape[0] >= 2 * batch_size


def run(method: Method, hparams: Any, problem: Problem, budget: Budget, batch_size: int) -> Trace:
    """The trace of a method, a step an epoch. The rows that fill no batch wait for the next epoch."""
    key = jax.random.key(problem.seed)
    capacity = max(1, min(200, SNAPSHOT_ENTRIES // problem.network.num_params))
    train = partial(_epochs, method, batch_size, capacity, hparams, problem.batch, key)
    evaluate = partial(_losses, problem.network, problem.loss, problem.batch)
    first_rows = jax.tree.map(lambda leaf: leaf[:batch_size], problem.batch)
    carry = (jax.jit(method.start)(hparams, problem.params, first_rows), jnp.zeros((), jnp.int32))
    compile_seconds = first_call_extra(partial(train, carry, 0))
    pace = clock(partial(train, carry, 1))[0]

    best, best_params = start_loss(problem), problem.params
    seconds, losses, reason = [0.0], [best], ""
    while not reason:
        count = plan(budget, seconds[-1], len(losses) - 1, pace, capacity)
        elapsed, (carry, snapshots) = clock(partial(train, carry, count))
        pace, before = elapsed / count, seconds[-1]
        for index, value in enumerate(np.asarray(evaluate(snapshots, carry[0].params, count))[:count]):
            seconds.append(before + elapsed * (index + 1) / count)
            losses.append(float(value))
            if losses[-1] < best:
                best, best_params = losses[-1], to_params(np.asarray(snapshots[index]), problem)
            reason = reason_to_stop(budget, best, seconds[-1], len(losses) - 1)
            reason = reason or ("" if np.isfinite(value) else "not finite")
            if reason:
                break
    return Trace(np.array(seconds), np.array(losses), compile_seconds, best_params, reason)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epochs(method, batch_size, capacity, hparams, batch, key, carry, count):
    """`count` epochs, and the flat parameters after each, `(capacity, P)`."""
    num_rows, num_batches = batch.inputs.shape[0], batch.inputs.shape[0] // batch_size

    def step(state, rows):
        return method.step(hparams, state, jax.tree.map(lambda leaf: leaf[rows], batch)), None

    def one_epoch(index, both):
        (state, epoch), snapshots = both
        order = jax.random.permutation(jax.random.fold_in(key, epoch), num_rows)
        state, _ = lax.scan(step, state, order[: num_batches * batch_size].reshape(num_batches, batch_size))
        return (state, epoch + 1), snapshots.at[index].set(ravel_pytree(state.params)[0])

    flat = ravel_pytree(carry[0].params)[0]
    return lax.fori_loop(0, count, one_epoch, (carry, jnp.zeros((capacity, flat.size), flat.dtype)))


@partial(jax.jit, static_argnums=(0, 1))
def _losses(network, loss, batch, snapshots, template, count):
    """The loss of each of the first `count` snapshots."""
    unravel = ravel_pytree(template)[1]

    def one(index, losses):
        return losses.at[index].set(true_loss(network, loss, unravel(snapshots[index]), batch))

    return lax.fori_loop(0, count, one, jnp.zeros(snapshots.shape[0], snapshots.dtype))
