"""Optax: Adam on all rows and on minibatches, and L-BFGS."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

import jills
from experiments.peers import stepped
from experiments.peers.base import (
    Budget,
    Peer,
    Problem,
    Trace,
    clock,
    first_call_extra,
    reason_to_stop,
    start_loss,
    to_params,
    true_loss,
)
from experiments.peers.stepped import in_dtype, standard_jax

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH_SIZES = (128, 256)
SNAPSHOT_ENTRIES = 10_000_000  # parameters kept for the evaluation after a call


@dataclass(frozen=True)
class Stepped:
    """An algorithm of jills as a `stepped.Method`."""

    algorithm: jills.Algorithm

    def start(self, hparams, params, batch):
        """The algorithm's own start."""
        return self.algorithm.unchecked_init(params, batch)._replace(activations=())

    def step(self, hparams, state, batch):
        """The algorithm's own step. It does not use the activations, so they need not be carried along."""
        stand_in = (jnp.zeros_like(batch.targets),)
        state, info = self.algorithm.step(hparams, state._replace(activations=stand_in), batch)
        result = jnp.where(info.finite, jills.results.RUNNING, jills.results.NON_FINITE).astype(jnp.int32)
        return state._replace(activations=(), result=result)


class Numbers(NamedTuple):
    """L-BFGS has none that need tuning: its line search finds the rate."""


@dataclass(frozen=True)
class Lbfgs:
    """`optax.lbfgs()` as it comes (ten pairs, zoom line search), without a single evaluation too many.

    The line search knows value and gradient of the point it accepts; they are taken from its state.
    """

    network: jills.Network
    loss: jills.Loss

    def value(self, params: jills.Params, batch: jills.Batch) -> jax.Array:
        """The true loss."""
        return self.loss(self.network.predict(params, batch.inputs), batch.targets, batch.weights)

    def start(self, hparams, params, batch):
        """No pair known."""
        return stepped.first_state(params, in_dtype(optax.lbfgs().init(params), params), self.value(params, batch))

    def step(self, hparams, state, batch):
        """One direction and one line search along it."""
        value_of = partial(self.value, batch=batch)
        with standard_jax():
            value, gradient = optax.value_and_grad_from_state(value_of)(state.params, state=state.inner)
            change, inner = optax.lbfgs().update(
                gradient, state.inner, state.params, value=value, grad=gradient, value_fn=value_of
            )
        inner = in_dtype(inner, state.params)
        params = jax.tree.map(jnp.add, state.params, change)
        still = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(change)]))
        return stepped.next_state(state, params, inner, optax.tree.get(inner, "value"), still)


def adam(problem: Problem, budget: Budget, learning_rate: float) -> Trace:
    """Adam on all rows. The rates share what is compiled, so only the first one run shows its time."""
    method = Stepped(jills.adam.build(problem.network, loss=problem.loss))
    hparams = jills.adam.Hparams(*(jnp.asarray(number, problem.dtype) for number in jills.adam.Hparams(learning_rate)))
    return stepped.run(method, hparams, problem, budget)


def lbfgs(problem: Problem, budget: Budget) -> Trace:
    """L-BFGS on all rows."""
    return stepped.run(Lbfgs(problem.network, problem.loss), Numbers(), problem, budget)


def minibatch_adam(problem: Problem, budget: Budget, learning_rate: float, batch_size: int) -> Trace:
    """Adam on minibatches, in a new order each epoch. A step of the trace is an epoch.

    The rows that fill no batch wait for the next epoch. The parameters after each epoch are kept and the loss of all
    rows computed from them outside the clock.
    """
    rate = jnp.asarray(learning_rate, problem.dtype)
    key = jax.random.key(problem.seed)
    capacity = max(1, min(200, SNAPSHOT_ENTRIES // problem.network.num_params))
    train = partial(_epochs, problem.network, problem.loss, batch_size, capacity, rate, problem.batch, key)
    evaluate = partial(_losses, problem.network, problem.loss, problem.batch)
    carry = (problem.params, in_dtype(optax.adam(rate).init(problem.params), problem.params), jnp.zeros((), jnp.int32))
    compile_seconds = first_call_extra(partial(train, carry, 0))
    pace = clock(partial(train, carry, 1))[0]

    best, best_params = start_loss(problem), problem.params
    seconds, losses, reason = [0.0], [best], ""
    while not reason:
        count = stepped.plan(budget, seconds[-1], len(losses) - 1, pace, capacity)
        elapsed, (carry, snapshots) = clock(partial(train, carry, count))
        pace, before = elapsed / count, seconds[-1]
        for index, value in enumerate(np.asarray(evaluate(snapshots, carry[0], count))[:count]):
            seconds.append(before + elapsed * (index + 1) / count)
            losses.append(float(value))
            if losses[-1] < best:
                best, best_params = losses[-1], to_params(np.asarray(snapshots[index]), problem)
            reason = reason_to_stop(budget, best, seconds[-1], len(losses) - 1)
            reason = reason or ("" if np.isfinite(value) else "not finite")
            if reason:
                break
    return Trace(np.array(seconds), np.array(losses), compile_seconds, best_params, reason)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _epochs(network, loss, batch_size, capacity, rate, batch, key, carry, count):
    """`count` epochs, and the flat parameters after each, `(capacity, P)`."""
    num_rows, num_batches = batch.inputs.shape[0], batch.inputs.shape[0] // batch_size

    def step(carry, rows):
        params, state, epoch = carry
        part = jax.tree.map(lambda leaf: leaf[rows], batch)
        gradient = jax.grad(partial(true_loss, network, loss))(params, part)
        with standard_jax():
            change, state = optax.adam(rate).update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, change), in_dtype(state, params), epoch), None

    def one_epoch(index, both):
        carry, snapshots = both
        order = jax.random.permutation(jax.random.fold_in(key, carry[2]), num_rows)
        rows = order[: num_batches * batch_size].reshape(num_batches, batch_size)
        carry, _ = lax.scan(step, carry, rows)
        carry = (*carry[:2], carry[2] + 1)
        return carry, snapshots.at[index].set(ravel_pytree(carry[0])[0])

    snapshots = jnp.zeros((capacity, network.num_params), carry[0][0].weight.dtype)
    return lax.fori_loop(0, count, one_epoch, (carry, snapshots))


@partial(jax.jit, static_argnums=(0, 1))
def _losses(network, loss, batch, snapshots, template, count):
    """The loss of each of the first `count` snapshots."""
    unravel = ravel_pytree(template)[1]

    def one(index, losses):
        return losses.at[index].set(true_loss(network, loss, unravel(snapshots[index]), batch))

    return lax.fori_loop(0, count, one, jnp.zeros(snapshots.shape[0], snapshots.dtype))


def fills_batches(problem: Problem, batch_size: int) -> bool:
    """Whether an epoch has at least two batches."""
    return problem.batch.inputs.shape[0] >= 2 * batch_size


PEERS = (
    *(Peer(f"Optax Adam {rate:g}", partial(adam, learning_rate=rate)) for rate in RATES),
    *(
        Peer(
            f"Optax Adam {rate:g}, batches of {size}",
            partial(minibatch_adam, learning_rate=rate, batch_size=size),
            applies=partial(fills_batches, batch_size=size),
            unit="epoch",
        )
        for size in BATCH_SIZES
        for rate in RATES
    ),
    Peer("Optax L-BFGS", lbfgs),
)
