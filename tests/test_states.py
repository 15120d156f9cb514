"""What is known of a state's start: the share of the first layer's units that are saturated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import Batch, Layer, activations
from jills.states import share_saturated

ROWS: Any = np.linspace(-1.0, 1.0, 11)[:, None]
SLOPES = {  # known derivatives, and the largest they can be
    "tanh": (lambda total: 1 - np.tanh(total) ** 2, 1.0),
    "sigmoid": (lambda total: 1 / (2 + np.exp(total) + np.exp(-total)), 0.25),
    "relu": (lambda total: (total > 0) * 1.0, 1.0),
    "softplus": (lambda total: 1 / (1 + np.exp(-total)), 1.0),
    "identity": (lambda total: np.ones_like(total), 1.0),
}


def layer(weights, biases, dtype="float32"):
    return Layer(jnp.asarray([weights], dtype), jnp.asarray(biases, dtype))


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_that_are_flat_on_all_rows_are_counted(name, dtype):
    weights, biases = (
        np.array([1.0, 1.0, -1.0, 3.0, 100.0, 0.0, 0.0]),
        np.array([0.0, 20.0, -20.0, 5.0, 0.0, 9.0, -9.0]),
    )
    slopes, largest = SLOPES[name]
    expected = np.mean(np.all(slopes(ROWS * weights + biases) < 1e-3 * largest, axis=0))
    told = share_saturated(
        getattr(activations, name), layer(weights, biases, dtype), jnp.asarray(ROWS, dtype), jnp.full(11, 1 / 11, dtype)
    )
    assert told.dtype == dtype
    np.testing.assert_allclose(told, expected, rtol=1e-6)
    assert name == "identity" or 0 < expected < 1


def test_few_rows_do_not_count_and_masked_ones_not_at_all():
    unit, inputs = layer([1.0], [0.0]), np.full((200, 1), 30.0)
    inputs[7] = 0.0
    even, masked = np.full(200, 1.0), np.zeros(200)
    masked[7:9] = 1.0

    def saturated(unit, weights):
        weights = jnp.asarray(weights / weights.sum(), "float32")
        return share_saturated(activations.tanh, unit, jnp.asarray(inputs, "float32"), weights)

    assert saturated(unit, even) == 1  # though responsive on half a percent of the rows
    assert saturated(unit, masked) == 0
    assert saturated(unit, 1.0 - masked) == 1
    assert saturated(layer([jnp.nan], [0.0]), even) == 0


NETWORK = jills.Network((1, 4, 1), activations.tanh)
ADAM = jills.adam.build(NETWORK)


def start(scale, dtype="float32"):
    """The last of four units is flat, whatever its input."""
    weights = scale * jnp.array([[1.0, 2.0, -3.0, 0.0]], dtype)
    return Layer(weights, jnp.array([0.0, 0.0, 0.0, 50.0], dtype)), Layer(jnp.ones((4, 1), dtype), jnp.zeros(1, dtype))


def test_a_state_keeps_the_share_of_its_start():
    params, ordinary, shifted = start(1.0), Batch(ROWS, ROWS), Batch(50.0 + 10.0 * ROWS, ROWS)
    assert ADAM.blank(params, ordinary).saturated == 0
    assert ADAM.init(params, ordinary).saturated == 0.25
    assert ADAM.init(params, shifted).saturated == 1
    state, _ = jills.run(ADAM, jills.adam.Hparams(), params, shifted, 2)
    freed = state._replace(params=start(0.0))
    again, _ = jills.run(ADAM, jills.adam.Hparams(), freed, shifted, 2)
    assert again.saturated == 1  # the same rows: that of the start
    turned = Batch(shifted.inputs[::-1], shifted.targets[::-1])
    again, _ = jills.run(ADAM, jills.adam.Hparams(), state._replace(saturated=jnp.float32(0.5)), turned, 2)
    assert again.saturated == 0.5  # but for their order
    again, _ = jills.run(ADAM, jills.adam.Hparams(), freed, ordinary, 2)
    assert again.saturated == 0.25  # other rows: that of now
    assert ADAM.observe(freed, ordinary).saturated == 0.25


def test_each_member_of_a_sweep_has_its_own():
    def problem(key):
        offset = jnp.where(jax.random.key_data(key)[-1] == 0, 0.0, 50.0)
        return jills.Member(start(1.0), Batch(jnp.asarray(ROWS, "float32") + offset, jnp.asarray(ROWS, "float32")))

    keys = jax.random.wrap_key_data(jnp.array([[0, 0], [0, 1]], jnp.uint32))
    for batch_size in (1, 2):
        result = jills.sweep(ADAM, jills.adam.Hparams(), problem, keys, 3, 2, batch_size=batch_size)
        assert result.state.saturated.tolist() == [[0.25, 1.0]]
