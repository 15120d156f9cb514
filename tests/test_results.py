"""Result codes tell the truth: at a minimum only where the gradient is small beside its terms."""

from typing import Any

import jax
import numpy as np
import pytest

import jills
from jills import Batch, gauss_newton, losses, results

STEPS = 60
LINE = jills.Network((1, 1))
INPUTS: Any = np.linspace(-1.0, 1.0, 11)[:, None]
NOISE = np.random.default_rng(5).standard_normal((11, 1))


def test_each_code_has_a_message_of_its_own():
    assert set(results.MESSAGES) == set(results.Code)
    assert len(set(results.MESSAGES.values())) == len(results.Code)
    assert [int(code) for code in results.Code] == list(range(10))  # they are in people's files


def train(batch, loss, dtype="float32", network=LINE, scale=1.0):
    algorithm = gauss_newton.build(network, loss)
    params = jax.tree.map(lambda leaf: scale * leaf, network.init(jax.random.key(3), dtype))
    return jills.run(algorithm, gauss_newton.Hparams(), params, batch, STEPS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_outlier_that_hides_all_else_leaves_it_stuck_and_not_at_a_minimum(dtype):
    """In float32 no digit of a loss of 1e10 is left for the other rows."""
    targets = INPUTS + 0.1 * NOISE
    targets[7] = 1e10
    state, info = train(Batch(INPUTS, targets), losses.huber(1.0), dtype)
    told = jills.diagnose(state, info)
    if dtype == "float32":
        assert state.result == results.STUCK
        assert told.word == "stalled"
        assert "train in float64" in str(told.why)
    else:
        assert state.result != results.STUCK
        assert told.word == "converged"


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_the_end_at_a_minimum_does_not_depend_on_the_units(size):
    batch = Batch(INPUTS, size * (INPUTS + 0.5 * NOISE))
    state, info = train(batch, losses.huber(size), scale=size)
    assert state.result == results.AT_MINIMUM
    assert jills.diagnose(state, info).word == "converged"


def test_an_exact_fit_is_at_a_minimum_though_its_slopes_are_rounding():
    batch = Batch(INPUTS, 2.0 * INPUTS + 0.3)
    state, info = train(batch, losses.huber(10.0))
    assert state.loss < 1e-12
    assert state.result == results.AT_MINIMUM
    assert jills.diagnose(state, info).word == "converged"
