"""Hyperparameters: all combinations, columns of a sweep, limits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills.hparams import Limit, as_columns


class Own(NamedTuple):
    rate: Any = 0.1
    decay: Any = 0.0

    limits = {"rate": Limit(0.0, 1.0, open_low=True)}


def test_product_makes_all_combinations_the_last_field_fastest():
    made = jills.product(jills.adam.Hparams, learning_rate=[0.1, 0.2], b2=[0.9, 0.99, 0.999])
    assert isinstance(made, jills.adam.Hparams)
    np.testing.assert_array_equal(made.learning_rate, [0.1, 0.1, 0.1, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(made.b2, [0.9, 0.99, 0.999] * 2)
    np.testing.assert_array_equal(made.b1, [0.9] * 6)
    single = jills.product(jills.gauss_newton.Hparams, weight_decay=0.1)
    assert [np.shape(column) for column in single] == [(1,), (1,)]


@pytest.mark.parametrize("axis", [[], [[0.1, 0.2]]])
def test_product_refuses_what_is_no_list_of_numbers(axis):
    with pytest.raises(ValueError, match=r"product: rate is .* but must be a number or a list of numbers"):
        jills.product(Own, rate=axis)


def test_columns_of_a_sweep():
    count, columns = as_columns(Own(jnp.array([0.1, 0.2, 0.3]), 0.5))
    assert count == 3
    np.testing.assert_array_equal(columns.decay, [0.5] * 3)
    assert as_columns(Own())[0] == 1


def test_limits_of_a_users_own_hyperparameters_hold():
    class Descent(jills.Algorithm):
        defaults = Own()

        def update(self, hparams, state, batch):
            return state, ()

    algorithm = Descent(network=jills.Network((1, 1)))
    algorithm.check(Own(1.0))
    with pytest.raises(ValueError, match=r"rate is 0, but must lie in \(0, 1\]"):
        algorithm.check(Own(0.0))
    assert isinstance(hash(algorithm), int)
    assert jax.tree.leaves(Own()) == [0.1, 0.0]
