"""Activations against SciPy and `jax.grad`, and the promises that least squares relies on."""

import dataclasses
import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jills import activations
from jills.activations import default_margin, leaky_relu

# name: activation, NumPy reference, f' far to the left and far to the right
ACTIVATIONS = {
    "identity": (activations.identity, lambda x: x, 1.0, 1.0),
    "tanh": (activations.tanh, np.tanh, 0.0, 0.0),
    "sigmoid": (activations.sigmoid, scipy.special.expit, 0.0, 0.0),
    "softplus": (activations.softplus, lambda x: np.logaddexp(0.0, x), 0.0, 1.0),
    "arcsinh": (activations.arcsinh, np.arcsinh, 0.0, 0.0),
    "relu": (activations.relu, lambda x: np.maximum(x, 0.0), 0.0, 1.0),
    "gelu": (activations.gelu, lambda x: x * scipy.special.ndtr(x), 0.0, 1.0),
    "silu": (activations.silu, lambda x: x * scipy.special.expit(x), 0.0, 1.0),
    "leaky_relu(0.1)": (leaky_relu(), lambda x: np.where(x > 0, x, 0.1 * x), 0.1, 1.0),
    "leaky_relu(0.003)": (leaky_relu(0.003), lambda x: np.where(x > 0, x, 0.003 * x), 0.003, 1.0),
    "leaky_relu(7)": (leaky_relu(7), lambda x: np.where(x > 0, x, 7.0 * x), 7.0, 1.0),
}
WITHOUT_INVERSE = {"relu", "gelu", "silu"}
INVERTIBLE = sorted(ACTIVATIONS.keys() - WITHOUT_INVERSE)
BOUNDED = ["sigmoid", "softplus", "tanh"]

every = pytest.mark.parametrize("name", ACTIVATIONS)
invertible = pytest.mark.parametrize("name", INVERTIBLE)
seldom = settings(deadline=None, derandomize=True, max_examples=30)


def eps_of(dtype):
    return float(np.finfo(dtype).eps)


MODERATE = np.linspace(-7.0, 7.0, 113)  # in eighths, so that 0 is among them
EXTREME = np.array([-1e30, -1e4, 1e4, 1e30])


@every
def test_the_value_tells_the_derivative_where_it_is_said_to(name, dtype):
    activation = ACTIVATIONS[name][0]
    total_input = jnp.asarray(np.concatenate([MODERATE, EXTREME]), dtype)
    if activation.derivative_of_value is None:
        assert name in ("identity", "softplus", "arcsinh", "gelu", "silu")
        return
    told = activation.derivative_of_value(activation(total_input))
    assert told.dtype == dtype
    np.testing.assert_allclose(told, activation.derivative(total_input), rtol=1e-6, atol=4 * eps_of(dtype))


def test_a_derivative_of_ones_own_is_not_taken_from_the_value():
    for activation in (activations.tanh, leaky_relu()):
        other = dataclasses.replace(activation, forward=lambda x: 2 * jnp.tanh(x))
        assert activation.derivative_of_value is not None
        assert other.derivative_of_value is None


@functools.cache
def evaluate(name, dtype):
    """Values, derivatives and autodiff's derivatives, at moderate and then at extreme total inputs."""
    assert 0.0 in MODERATE
    activation = ACTIVATIONS[name][0]
    total_input = jnp.asarray(np.concatenate([MODERATE, EXTREME]), dtype)
    functions = (activation, activation.derivative, jax.vmap(jax.grad(activation.forward)))
    outcome = jax.jit(lambda x: [function(x) for function in functions])(total_input)
    assert [leaf.dtype for leaf in outcome] == [dtype] * 3
    count = len(MODERATE)
    return [leaf[:count] for leaf in outcome], [leaf[count:] for leaf in outcome]


@every
def test_forward_is_the_function(name, dtype):
    values, *_ = evaluate(name, dtype)[0]
    expected = ACTIVATIONS[name][1](MODERATE.astype(dtype).astype(float))
    np.testing.assert_allclose(values, expected, rtol=100 * eps_of(dtype), atol=eps_of(dtype))


@every
def test_derivative_is_that_of_autodiff(name, dtype):
    _, derivative, expected = evaluate(name, dtype)[0]
    np.testing.assert_allclose(derivative, expected, rtol=100 * eps_of(dtype), atol=4 * eps_of(dtype))


@every
def test_extreme_inputs_have_finite_values_and_the_right_slope(name, dtype):
    _, reference, left, right = ACTIVATIONS[name]
    values, derivative, _ = evaluate(name, dtype)[1]
    np.testing.assert_allclose(values, reference(EXTREME.astype(dtype).astype(float)), rtol=1e-6)
    np.testing.assert_allclose(derivative, [left, left, right, right], rtol=1e-6, atol=2e-4)
    if name == "arcsinh":  # whose slope vanishes slowly
        np.testing.assert_allclose(derivative, 1.0 / np.abs(EXTREME), rtol=1e-6)


@invertible
def test_inverse_undoes_forward_inside_the_margin(name, dtype):
    activation, margin = ACTIVATIONS[name][0], default_margin(dtype)
    low, high = (min(max(end, -9.0), 9.0) for end in activation.range)
    # To the very margin, where the conditioning of the inverse is worst.
    near = np.geomspace(margin, 0.1, 101).astype(dtype)
    values = np.concatenate([np.linspace(low + margin, high - margin, 1009), low + near, high - near])

    @jax.jit
    def back_and_forth(values):
        total_input = activation.inverse(values)
        forward = activation.forward(total_input)
        return total_input, forward, activation.inverse(forward), activation.derivative(total_input)

    values = jnp.asarray(values, dtype)
    total_input, forward, again, derivative = back_and_forth(values)
    assert total_input.dtype == again.dtype == dtype
    np.testing.assert_allclose(forward, values, rtol=100 * eps_of(dtype), atol=2 * eps_of(dtype))
    # An error of ε |h| in h is one of ε |h| / f' in f⁻¹(h).
    bound = 100 * eps_of(dtype) * (np.abs(forward) / derivative + np.abs(total_input))
    assert np.all(np.abs(again - total_input) <= bound)


@seldom
@given(slope=st.floats(1e-3, 1e3), total_input=st.floats(-1e6, 1e6, allow_subnormal=False))
def test_leaky_relu_is_inverted_for_any_slope(slope, total_input):
    activation, total = leaky_relu(slope), jnp.asarray(total_input)
    assert activation.inverse is not None
    np.testing.assert_allclose(activation.inverse(activation.forward(total)), total_input, rtol=1e-14)
    assert activation.derivative(total) == (1.0 if total_input > 0 else slope)


def test_margins_follow_the_dtype():
    assert default_margin("float32") == pytest.approx(100 * 2.0**-23)
    assert default_margin(jnp.float64) == 1e-6


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("margin", [None, 0.01])
def test_projection_keeps_the_margin_and_moves_nothing_else(name, margin, dtype):
    activation = ACTIVATIONS[name][0]
    low, high = activation.range
    kept = default_margin(dtype) if margin is None else margin
    inside = np.linspace(low + 2 * kept, min(high, 3.0) - 2 * kept, 101)
    below, above = [low, low - 1.0, -1e30, low + 0.1 * kept], [high, high + 1.0, 1e30, high - 0.1 * kept]
    values = jnp.asarray(np.concatenate([below, above, inside]), dtype)
    projected = activation.project(values, margin)
    assert projected.dtype == dtype
    np.testing.assert_allclose(projected[:4] - low, kept, rtol=0.01)
    if math.isfinite(high):
        np.testing.assert_allclose(high - projected[4:8], kept, rtol=0.01)
    np.testing.assert_array_equal(projected[8:], values[8:])


@invertible
@seldom
@given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]))
def test_projected_values_have_a_finite_inverse(name, data, dtype):
    activation = ACTIVATIONS[name][0]
    largest = 80.0 if name == "arcsinh" else 2.0**100  # sinh(90) is no longer a float32
    value = data.draw(st.floats(-largest, largest, width=32, allow_subnormal=False))
    projected = activation.project(jnp.asarray(value, dtype))
    assert not activation.outside(projected)
    assert jnp.isfinite(activation.inverse(projected))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_outside_is_outside_the_open_image(array):
    values = array([-2.0, -1.0, -0.999, 0.0, 0.999, 1.0, 2.0])
    assert activations.tanh.outside(values).tolist() == [True, True, False, False, False, True, True]
    assert activations.sigmoid.outside(values).tolist() == [True, True, True, True, False, True, True]
    assert activations.softplus.outside(values).tolist() == [True, True, True, True, False, False, False]
    assert not activations.identity.outside(values).any()


def test_activations_that_lose_information_have_no_inverse():
    assert {name for name, (activation, *_) in ACTIVATIONS.items() if activation.inverse is None} == WITHOUT_INVERSE


@pytest.mark.parametrize("slope", [0.0, -0.1, math.nan, math.inf])
def test_leaky_relu_refuses_slopes_without_inverse(slope):
    with pytest.raises(ValueError, match=rf"slope is {slope}, but must be positive and finite.*activations\.relu"):
        leaky_relu(slope)


def test_equal_slopes_are_equal_and_share_what_is_compiled():
    assert leaky_relu(0.1) == leaky_relu(0.1)
    assert hash(leaky_relu(0.1)) == hash(leaky_relu(0.1))
    assert leaky_relu(1) == leaky_relu(1.0)
    assert leaky_relu(0.1) != leaky_relu(0.2)
    traces = []

    def forward(activation, values):
        traces.append(activation)
        return activation(values)

    compiled = jax.jit(forward, static_argnums=0)
    for slope in (0.1, 0.1, 0.2):
        compiled(leaky_relu(slope), jnp.ones(3))
    assert traces == [leaky_relu(0.1), leaky_relu(0.2)]


@every
def test_pickle_gives_back_an_equal_one(name):
    activation = ACTIVATIONS[name][0]
    again = pickle.loads(pickle.dumps(activation))
    assert again == activation
    assert hash(again) == hash(activation)
    assert [other for other, entry in ACTIVATIONS.items() if entry[0] == activation] == [name]
