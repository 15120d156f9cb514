"""Networks that see their rows in minibatches: what `partial_fit` runs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import gauss_newton
from jills.algorithm import Algorithm
from jills.conjugate_gradients import ConjugateGradients
from jills.estimators.training import start_of
from jills.losses import Loss
from jills.network import Network
from jills.types import Batch, Params, State

FORGET = 0.1  # the share of a new minibatch in the mean square of residuals


class Stream(NamedTuple):
    """M networks between two minibatches."""

    algorithm: Algorithm
    hparams: Any
    state: State  # leaves [M, …]
    residual: np.ndarray  # (k,) mean square of what the ensemble left of standardised targets


def begin(network: Network, loss: Loss, decay: float, params: Params | int, seed: int, batch: Batch) -> Stream:
    """Before the first step: Gauss–Newton on minibatches of about this size.

    Args:
        network: to train.
        loss: to lower.
        decay: weight decay.
        params: leaves `[M, …]`, to go on from; or M, to draw M starts.
        seed: of those.
        batch: the first one.
    """
    algorithm = gauss_newton.build(network, loss, ConjugateGradients(max_steps=3), full_batch=False)
    hparams = gauss_newton.minibatch_hparams(network, int(np.count_nonzero(batch.weights)), loss)
    starts: Any = params
    if isinstance(params, int):
        start = start_of(network, batch.inputs.dtype)
        starts = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(seed), params))
    state = jax.vmap(algorithm.init, in_axes=(0, None))(starts, batch)
    return Stream(algorithm, hparams._replace(weight_decay=decay), state, np.full(network.sizes[-1], np.nan))


def advance(stream: Stream, batch: Batch) -> Stream:
    """A step of every network on a minibatch."""
    state, apart = _step(stream.algorithm, stream.hparams, stream.state, batch)
    new = np.average(np.square(np.asarray(apart, np.float64)), axis=0, weights=batch.weights)
    kept = np.where(np.isnan(stream.residual), new, (1.0 - FORGET) * stream.residual + FORGET * new)
    return stream._replace(state=state, residual=kept)


@partial(jax.jit, static_argnums=0)
def _step(algorithm, hparams, state, batch):
    state, _ = jax.vmap(algorithm.step, in_axes=(None, 0, None))(hparams, state, batch)
    told = jax.vmap(algorithm.network.predict, in_axes=(0, None))(state.params, batch.inputs)
    return state, batch.targets - jnp.mean(told, axis=0)
