"""The linearised network against autodiff, and its two directions against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import activations, linearization

NETWORK = jills.Network((3, 7, 5, 2), (activations.tanh, activations.silu), activations.sigmoid)
BLOCKS = [(first, last) for first in range(3) for last in range(first, 3)]


def draw(dtype, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    inputs = jax.random.normal(keys[0], (3, 11), dtype)

    def matrices(key):
        return tuple(jnp.concatenate([w, b[None]]) for w, b in NETWORK.init(key, dtype))

    return inputs, matrices(keys[1]), matrices(keys[2]), jax.random.normal(keys[3], (2, 11), dtype)


def predict(matrices, inputs):
    params = tuple(jills.Layer(matrix[:-1], matrix[-1]) for matrix in matrices)
    return NETWORK.predict(params, inputs.T).T


@pytest.fixture(scope="module")
def everything():
    @jax.jit
    def compute(inputs, matrices, changes, weights):
        current = linearization.forward(NETWORK, matrices, linearization.with_ones(inputs))
        found = []
        for first, last in BLOCKS:
            below, own = current.below[first : last + 1], changes[first : last + 1]
            sensitivity = linearization.sensitivities(matrices, current, (first, last))
            found.append(
                (
                    linearization.jvp(matrices, below, current.slopes, (first, last), own),
                    linearization.backward(matrices, current.slopes, (first, last), weights),
                    below,
                    linearization.jacobian(below, sensitivity),
                )
            )
        return current, found

    return compute


def test_forward_is_that_of_the_network(everything, dtype):
    inputs, matrices, changes, weights = draw(dtype)
    current, _ = everything(inputs, matrices, changes, weights)
    np.testing.assert_allclose(current.prediction, predict(matrices, inputs), rtol=1e-5)
    again = linearization.forward(NETWORK, (*matrices[:2], changes[2]), current, 2)
    np.testing.assert_allclose(again.prediction, predict((*matrices[:2], changes[2]), inputs), rtol=1e-5)


def test_the_jacobian_is_that_of_autodiff(everything, dtype):
    inputs, matrices, changes, weights = draw(dtype)
    _, found = everything(inputs, matrices, changes, weights)
    whole = [np.asarray(part).reshape(2, 11, -1) for part in jax.jit(jax.jacobian(predict))(matrices, inputs)]
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for (first, last), (pushed, _, _, jacobian) in zip(BLOCKS, found, strict=True):
        expected = np.concatenate(whole[first : last + 1], axis=2)
        np.testing.assert_allclose(np.moveaxis(jacobian, 1, 2), expected, rtol=0, atol=tolerance)
        vector = np.concatenate([np.ravel(part) for part in changes[first : last + 1]])
        np.testing.assert_allclose(pushed, expected @ vector, rtol=0, atol=10 * tolerance)


def test_down_is_the_transpose_of_up(everything, dtype):
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    for seed in range(3):
        inputs, matrices, changes, weights = draw(dtype, seed)
        _, found = everything(inputs, matrices, changes, weights)
        for (first, last), (pushed, carried, below, _) in zip(BLOCKS, found, strict=True):
            gathered = [a @ s.T for a, s in zip(below, carried, strict=True)]
            other = sum(jnp.vdot(g, c) for g, c in zip(gathered, changes[first : last + 1], strict=True))
            np.testing.assert_allclose(jnp.vdot(weights, pushed), other, rtol=tolerance, atol=tolerance)
