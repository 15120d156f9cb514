"""The table of all algorithms. What stands here is held to the contract in `test_contract.py`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jills
from jills import activations


class Rate(NamedTuple):
    learning_rate: float | jax.Array = 0.05


def sgd(hparams):
    return optax.sgd(hparams.learning_rate, momentum=0.9)


def lbfgs(hparams):
    del hparams  # its line search finds the rate
    return optax.lbfgs()


class Case(NamedTuple):
    algorithm: Any
    hparams: Any  # scalars under which it learns
    grids: tuple  # three sets of (H,) numbers of the same shape
    share: float  # of the starting loss, reached within 60 steps


NETWORK = jills.Network((3, 5, 2), activations.tanh)
RATES = (jnp.array([0.1, 0.2]), jnp.array([0.3, 0.4]), jnp.array([0.5, 0.6]))


def _grids(make):
    return tuple(make(rates) for rates in RATES)


def ridged(rates):
    """Without a ridge, 11 rows leave ILLS rank-deficient, and rounding decides where it goes."""
    return jills.ills.Hparams(rates, 1e-6)


def damped(rates):
    return jills.gauss_newton.Hparams(weight_decay=1e-6, damping=rates)


def slowed(rates):
    return jills.gauss_newton.MinibatchHparams(learning_rate=rates)


def begun(rates):
    return jills.evidence.Hparams(alpha=rates)


class GradientDescent(jills.Algorithm):
    """An algorithm of a user's own, as the docstring of `jills.algorithm` has it."""

    defaults = Rate()

    def update(self, hparams, state, batch):
        gradient = jax.grad(self.loss_of)(state.params, batch)
        params = jax.tree.map(lambda param, slope: param - hparams.learning_rate * slope, state.params, gradient)
        return state._replace(params=params), ()


CASES = {
    "ills": Case(jills.ills.build(NETWORK), jills.ills.Hparams(0.5, 1e-6), _grids(ridged), 0.02),
    "ills_linearized": Case(
        jills.ills.build(NETWORK, linearized=True), jills.ills.Hparams(0.3, 1e-6), _grids(ridged), 0.02
    ),
    "adam": Case(jills.adam.build(NETWORK), jills.adam.Hparams(0.1), _grids(jills.adam.Hparams), 0.1),
    "adam_minibatch": Case(
        jills.adam.build(NETWORK, full_batch=False), jills.adam.Hparams(0.1), _grids(jills.adam.Hparams), 0.1
    ),
    "gauss_newton": Case(jills.gauss_newton.build(NETWORK), jills.gauss_newton.Hparams(), _grids(damped), 0.01),
    "gauss_newton_quasi": Case(
        jills.gauss_newton.build(NETWORK, linear_solver=jills.gauss_newton.Automatic(limit=0)),
        jills.gauss_newton.Hparams(),
        _grids(damped),
        0.01,
    ),
    "gauss_newton_minibatch": Case(
        jills.gauss_newton.build(NETWORK, linear_solver=jills.ConjugateGradients(), full_batch=False),
        jills.gauss_newton.MinibatchHparams(learning_rate=0.5),
        _grids(slowed),
        0.05,
    ),
    "evidence": Case(jills.evidence.build(NETWORK), jills.evidence.Hparams(), _grids(begun), 0.1),
    "lbfgs": Case(jills.adam.build(NETWORK, optimizer=lbfgs, defaults=Rate()), Rate(), _grids(Rate), 0.02),
    "own": Case(GradientDescent(network=NETWORK), Rate(0.5), _grids(Rate), 0.5),
}


SGD = Case(jills.adam.build(NETWORK, optimizer=sgd, defaults=Rate()), Rate(), _grids(Rate), 0.2)


@partial(jax.jit, static_argnums=0)
def init(algorithm, params, batch):
    return algorithm.init(params, batch)


@partial(jax.jit, static_argnums=0)
def step(algorithm, hparams, state, batch):
    return algorithm.step(hparams, state, batch)


def problem(key, dtype="float64", n=11):
    """A start for `NETWORK` and the data of a random teacher of the same shape."""
    data, teacher, student = jax.random.split(key, 3)
    inputs = jax.random.uniform(data, (n, 3), dtype, -1, 1)
    return NETWORK.init(student, dtype), jills.Batch(inputs, NETWORK.predict(NETWORK.init(teacher, dtype), inputs))
