"""Optax: Adam on all rows and on minibatches, and L-BFGS."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jills
from experiments.peers import epochs, stepped
from experiments.peers.base import FAST_TIER, Budget, Peer, Problem, Trace, true_loss
from experiments.peers.stepped import JillsMethod, in_dtype, standard_jax

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH_SIZES = (128, 256)


class AdamState(NamedTuple):
    """Of Adam on minibatches: nothing that costs a pass over the network besides the gradient."""

    params: jills.Params
    inner: optax.OptState


@dataclass(frozen=True)
class MinibatchAdam:
    """`optax.adam` as an `stepped.Method`; `hparams` is its rate."""

    network: jills.Network
    loss: jills.Loss

    def start(self, hparams, params, batch):
        """No gradient seen."""
        return AdamState(params, in_dtype(optax.adam(hparams).init(params), params))

    def step(self, hparams, state, batch):
        """One gradient."""
        gradient = jax.grad(partial(true_loss, self.network, self.loss))(state.params, batch)
        with standard_jax():
            change, inner = optax.adam(hparams).update(gradient, state.inner, state.params)
        return AdamState(jax.tree.map(jnp.add, state.params, change), in_dtype(inner, state.params))


class NoHparams(NamedTuple):
    """L-BFGS has no hyperparameters that need tuning: its line search finds the rate."""


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


def adam(problem: Problem, budget: Budget, learning_rate: float, tier: str = "full") -> Trace:
    """Adam on all rows. The rates share what is compiled, so only the first one run shows its time."""
    method = JillsMethod(jills.adam.build(problem.network, loss=problem.loss))
    return stepped.run(method, in_dtype(jills.adam.Hparams(learning_rate), problem.params), problem, budget, tier)


def lbfgs(problem: Problem, budget: Budget, tier: str = "full") -> Trace:
    """L-BFGS on all rows."""
    return stepped.run(Lbfgs(problem.network, problem.loss), NoHparams(), problem, budget, tier)


def minibatch_adam(problem: Problem, budget: Budget, learning_rate: float, batch_size: int) -> Trace:
    """Adam on minibatches. A step of the trace is an epoch."""
    rate = jnp.asarray(learning_rate, problem.dtype)
    return epochs.run(MinibatchAdam(problem.network, problem.loss), rate, problem, budget, batch_size)


PEERS = (
    *(Peer(f"Optax Adam {rate:g}", partial(adam, learning_rate=rate)) for rate in RATES),
    *(
        Peer(
            f"Optax Adam {rate:g}, batches of {size}",
            partial(minibatch_adam, learning_rate=rate, batch_size=size),
            applies=partial(epochs.fills_batches, batch_size=size),
            unit="epoch",
        )
        for size in BATCH_SIZES
        for rate in RATES
    ),
    Peer("Optax L-BFGS", lbfgs),
    Peer(f"Optax L-BFGS{FAST_TIER}", partial(lbfgs, tier="fast")),
)
