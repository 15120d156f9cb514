"""The baseline is Optax's Adam, update by update, and others take the same step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract import NETWORK, SGD, problem

import jills


def loss_of(params, batch):
    return jnp.mean(jnp.square(NETWORK.predict(params, batch.inputs) - batch.targets))


def reference(optimizer, params, batch, num_steps):
    """Optax used as its documentation says."""
    state = optimizer.init(params)
    for _ in range(num_steps):
        gradient = jax.grad(loss_of)(params, batch)
        with jax.numpy_dtype_promotion("standard"):
            change, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
    return params


def test_adam_is_that_of_optax(key):
    params, batch = problem(key)
    state, _ = jills.run(jills.adam.build(NETWORK), jills.adam.Hparams(0.03, 0.8, 0.99, 1e-6), params, batch, 5)
    expected = reference(optax.adam(0.03, b1=0.8, b2=0.99, eps=1e-6), params, batch, 5)
    for given, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-10)


def test_another_optimizer_behind_the_same_step(key):
    params, batch = problem(key)
    state, _ = jills.run(SGD.algorithm, SGD.hparams, params, batch, 5)
    expected = reference(optax.sgd(0.05, momentum=0.9), params, batch, 5)
    for given, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-10)


def test_the_gradient_norm_is_that_of_the_parameters_received(key):
    params, batch = problem(key)
    _, info = jills.run(jills.adam.build(NETWORK), jills.adam.Hparams(), params, batch, 1)
    np.testing.assert_allclose(
        info.detail.gradient_norm[0], optax.tree.norm(jax.grad(loss_of)(params, batch)), rtol=1e-10
    )
