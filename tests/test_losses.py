"""Losses against closed forms and autodiff; weights; and the convention of the mean."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jills import activations
from jills.losses import Loss, squared_error

LOSSES = {"squared_error": squared_error}
COMPILED = {loss: jax.jit(loss) for loss in LOSSES.values()}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((11, 2)).astype(dtype) for _ in range(2))


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def assert_near(actual, expected, dtype):
    rtol, atol = (1e-5, 1e-6) if dtype == "float32" else (1e-12, 1e-13)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def test_squared_error_is_a_mean_without_a_half():
    predictions, targets = jnp.asarray([[3.0, 0.0], [1.0, 1.0]]), jnp.asarray([[1.0, 0.0], [1.0, 7.0]])
    np.testing.assert_array_equal(squared_error.value(predictions, targets), [(4 + 0) / 2, (0 + 36) / 2])
    assert squared_error(predictions, targets) == (4 + 36) / 4
    assert squared_error(predictions[:1, :1], targets[:1, :1]) == 4


def test_squared_error_is_that_of_numpy(dtype):
    predictions, targets = draw(1, dtype)
    value = jax.jit(squared_error)(predictions, targets)
    assert value.shape == ()
    assert value.dtype == dtype
    assert_near(value, np.mean((predictions - targets) ** 2), dtype)


@every
def test_gradient_and_curvature_are_those_of_autodiff(loss, dtype):
    def both(predictions, targets):
        def value(z, y):
            return loss.value(z[None], y[None])[0]

        given = loss.gradient(predictions, targets), loss.curvature(predictions, targets)
        return given, [jax.vmap(derive(value))(predictions, targets) for derive in (jax.grad, jax.hessian)]

    (gradient, curvature), expected = jax.jit(both)(*draw(2, dtype))
    assert gradient.dtype == curvature.dtype == dtype
    assert curvature.shape == (11, 2, 2)
    assert_near(gradient, expected[0], dtype)
    assert_near(curvature, expected[1], dtype)


@every
@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_weights_are_those_of_a_weighted_mean(loss, seed, scale):
    mean, (predictions, targets) = COMPILED[loss], draw(seed)
    weights = scale * np.random.default_rng(seed).random(11)
    expected = np.average(np.asarray(loss.value(predictions, targets)), weights=weights)
    np.testing.assert_allclose(mean(predictions, targets, weights), expected, rtol=1e-12)
    # A weight of two is a row given twice.
    twice = [np.concatenate([array, array[:1]]) for array in (predictions, targets)]
    np.testing.assert_allclose(mean(predictions, targets, changed(np.ones(11), 0, 2.0)), mean(*twice), rtol=1e-12)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_of_weight_zero_may_hold_anything(loss, bad, dtype):
    mean, (predictions, targets) = COMPILED[loss], draw(4, dtype)
    weights = changed(np.linspace(0.5, 2.0, 11).astype(dtype), 3, 0.0)
    healthy = mean(predictions, targets, weights)
    assert np.isfinite(healthy)
    assert mean(changed(predictions, 3, bad), targets, weights) == healthy
    assert mean(predictions, changed(targets, (3, 1), bad), weights) == healthy
    used = np.arange(11) != 3
    assert_near(healthy, mean(predictions[used], targets[used], weights[used]), dtype)
    assert np.isnan(mean(predictions, changed(targets, 2, np.nan), weights))


@every
def test_no_weight_at_all_gives_zero(loss, dtype):
    predictions, targets = draw(5, dtype)
    value = COMPILED[loss](changed(predictions, 0, np.nan), targets, np.zeros(11, dtype))
    assert value == 0.0
    assert value.dtype == dtype


@every
def test_autodiff_of_the_mean_is_the_weighted_gradient(loss):
    predictions, targets = draw(6)
    weights = np.linspace(0.0, 2.0, 11)
    expected = weights[:, None] * loss.gradient(predictions, targets) / np.sum(weights)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(predictions, targets, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["identity", "tanh", "sigmoid", "softplus", "arcsinh"])
@pytest.mark.parametrize("margin", [None, 0.05])
def test_the_ideal_input_gives_the_target_or_the_nearest_value(name, margin, dtype):
    activation = getattr(activations, name)
    _, targets = draw(7, dtype)
    assert squared_error.ideal_input is not None
    ideal = squared_error.ideal_input(jnp.asarray(targets), activation, margin)
    assert ideal.dtype == dtype
    low, high = activation.image
    kept = max(1e-6, 100 * float(np.finfo(dtype).eps)) if margin is None else margin
    nearest = np.clip(np.asarray(targets), low + kept, high - kept)
    np.testing.assert_allclose(activation.forward(ideal), nearest, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(ideal))


def test_the_ideal_input_of_the_identity_is_the_target_itself():
    _, targets = draw(8)
    assert squared_error.ideal_input is not None
    np.testing.assert_array_equal(squared_error.ideal_input(jnp.asarray(targets), activations.identity, None), targets)


@every
def test_losses_compare_hash_and_pickle_by_value(loss):
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert loss != Loss(loss.value, loss.gradient, loss.gradient)
