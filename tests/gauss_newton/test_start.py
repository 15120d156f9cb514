"""Where a step sets out from: starts for data in other units, and what was received."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills.batches import prepare
from jills.gauss_newton.gradients import gradients
from jills.gauss_newton.line_search import Position
from jills.gauss_newton.model import Objective
from jills.gauss_newton.start import fitted, gradients_at, lower
from jills.linearization import stack


def setting(sizes, shift):
    """An objective on inputs around `shift`, and parameters drawn for inputs around zero."""
    rng = np.random.default_rng(0)
    network = jills.Network(sizes, jills.activations.tanh)
    inputs = rng.normal(size=(40, sizes[0])) + shift
    batch = jills.Batch(jnp.asarray(inputs), jnp.asarray(np.sin(inputs[:, :1])))
    algorithm = jills.gauss_newton.build(network)
    rows = algorithm.precompute(prepare(batch, jnp.dtype("float64")))
    objective = Objective.of(network, algorithm.loss, rows, jnp.asarray(0.01))
    return objective, objective.in_units(stack(network.init(jax.random.key(0), "float64")))


@pytest.mark.parametrize("sizes", [(3, 8, 1), (3, 1)])
@pytest.mark.parametrize("step", [0, 1])
def test_only_a_first_step_sets_out_from_elsewhere(sizes, step):
    objective, matrices = setting(sizes, shift=2000.0)
    received, start = fitted(objective, matrices, jnp.asarray(step))
    true = Position.of(objective, matrices)
    np.testing.assert_allclose(received.loss, true.loss, rtol=1e-12)
    np.testing.assert_allclose(received.value, true.value, rtol=1e-12)
    assert all(map(np.array_equal, received.matrices, matrices))
    if len(sizes) > 2:  # a single one is the output layer, and shrinks in any step
        assert np.array_equal(start.matrices[0], matrices[0]) == (step == 1)


@pytest.mark.parametrize("inputs", [0.0, 2000.0])
def test_what_a_refused_step_ends_with_is_no_minimum_by_gradients_from_elsewhere(inputs):
    objective, matrices = setting((3, 8, 1), shift=inputs)
    received, start = fitted(objective, matrices, jnp.asarray(0))
    kept, end = lower(received, start._replace(value=received.value + 1.0))
    assert not kept
    assert all(map(np.array_equal, end.matrices, matrices))
    assert end.loss == received.loss
    norm, relative = gradients_at(objective, received, start, kept)
    if inputs == 0.0:  # it set out from what it received
        expected = gradients(objective, matrices, Position.of(objective, matrices).current)
        np.testing.assert_allclose((norm, relative), expected, rtol=1e-9)
    else:
        assert norm > 1e300
        assert relative == 1.0
