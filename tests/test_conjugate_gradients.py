"""Conjugate gradients against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jills


@partial(jax.jit, static_argnums=0)
def solve(method, matrix, right, preconditioner, guess=None):
    """With the vector in two parts of unequal shapes, (2, 3) and (5,)."""

    def times(matrix, vector):
        image = matrix @ jnp.concatenate([vector[0].ravel(), vector[1]])
        return [image[:6].reshape(2, 3), image[6:]]

    vector, start = (None if one is None else [one[:6].reshape(2, 3), one[6:]] for one in (right, guess))
    found = method.solve(partial(times, matrix), vector, partial(times, preconditioner), start)
    x, residual = (jnp.concatenate([part.ravel() for part in two]) for two in (found.x, found.residual))
    return x, residual, found.steps


def definite(seed, condition, dtype="float64"):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((11, 11)))
    matrix = (basis * np.geomspace(1, 1 / condition, 11)) @ basis.T
    return jnp.asarray(0.5 * (matrix + matrix.T), dtype), jnp.asarray(rng.standard_normal(11), dtype)


PLAIN = jills.ConjugateGradients(11, 0.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), condition=st.floats(1.0, 100.0))
def test_as_many_steps_as_dimensions_solve(seed, condition):
    matrix, right = definite(seed, condition)
    x, residual, steps = solve(PLAIN, matrix, right, jnp.eye(11))
    expected = np.linalg.solve(matrix, right)
    assert steps <= 11
    assert np.linalg.norm(x - expected) < 1e-6 * np.linalg.norm(expected)
    assert np.linalg.norm(residual - (right - matrix @ x)) < 1e-12 * condition * np.linalg.norm(right)


def test_float32():
    matrix, right = definite(3, 10.0, "float32")
    x, _, _ = solve(PLAIN, matrix, right, jnp.eye(11, dtype="float32"))
    assert x.dtype == "float32"
    np.testing.assert_allclose(x, np.linalg.solve(matrix, right), atol=1e-4)


def test_the_exact_inverse_needs_one_step():
    matrix, right = definite(1, 1e6)
    x, _, steps = solve(jills.ConjugateGradients(11, 1e-6), matrix, right, jnp.linalg.inv(matrix))
    assert steps == 1
    np.testing.assert_allclose(x, np.linalg.solve(matrix, right), rtol=1e-7)


def test_truncated_steps_lower_the_quadratic_and_know_their_residual():
    matrix, right = definite(2, 1e4)
    values = [0.0]
    for count in (1, 2, 4):
        x, residual, steps = solve(jills.ConjugateGradients(count, 0.0), matrix, right, jnp.eye(11))
        assert steps == count
        np.testing.assert_allclose(residual, right - matrix @ x, atol=1e-12)
        values.append(float(0.5 * x @ matrix @ x - right @ x))
    assert np.all(np.diff(values) < 0)


def test_the_tolerance_is_relative():
    matrix, right = definite(4, 1e4)
    method = jills.ConjugateGradients(50, 0.1)
    for scale in (1.0, 1e8):
        _, residual, steps = solve(method, matrix, scale * right, jnp.eye(11))
        assert np.linalg.norm(residual) <= 0.1 * scale * np.linalg.norm(right)
        assert 1 <= steps < 50


def test_a_guess_is_where_it_starts():
    """One product finds how far to go along it, and `max_steps` follow; a useless guess costs only that product."""
    matrix, right = definite(6, 1e4)
    exact = jnp.linalg.solve(matrix, right)
    x, _, steps = solve(jills.ConjugateGradients(5, 1e-3), matrix, right, jnp.eye(11), -1e-3 * exact)
    plain, _, _ = solve(jills.ConjugateGradients(5, 1e-3), matrix, right, jnp.eye(11))
    assert steps == 6  # backwards is no way to go
    np.testing.assert_allclose(x, plain, rtol=1e-9)
    x, residual, steps = solve(jills.ConjugateGradients(3, 0.0), matrix, right, jnp.eye(11), 7 * exact)
    assert steps <= 4
    np.testing.assert_allclose(x, exact, rtol=1e-7)
    guess = exact + 0.1 * jnp.linalg.norm(exact) * jnp.eye(11)[0]
    x, residual, steps = solve(jills.ConjugateGradients(3, 0.0), matrix, right, jnp.eye(11), guess)
    np.testing.assert_allclose(residual, right - matrix @ x, atol=1e-9)
    start, _, _ = solve(jills.ConjugateGradients(3, 0.0), matrix, right, jnp.eye(11))
    values = [float(0.5 * one @ matrix @ one - right @ one) for one in (start, x)]
    assert values[1] < values[0] < 0
    x, _, steps = solve(jills.ConjugateGradients(5, 1e-3), matrix, right, jnp.eye(11), 0 * exact)
    np.testing.assert_allclose(x, plain, rtol=1e-9)


def test_nan_and_lack_of_curvature_end_it():
    matrix, right = definite(5, 10.0)
    method = jills.ConjugateGradients(50, 0.1)
    _, _, steps = solve(method, matrix, right.at[3].set(jnp.nan), jnp.eye(11))
    assert steps == 0
    x, _, steps = solve(method, matrix.at[3, 3].set(jnp.nan), right, jnp.eye(11))
    assert steps == 1
    np.testing.assert_array_equal(x, 0)
    x, _, steps = solve(method, -matrix, right, jnp.eye(11))
    assert steps == 1
    np.testing.assert_array_equal(x, 0)
    x, _, steps = solve(method, matrix, 0 * right, jnp.eye(11))
    assert steps == 0
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize(("steps", "tolerance"), [(0, 0.1), (5, 1.0), (5, -0.1), (5, float("nan"))])
def test_bad_arguments_are_refused(steps, tolerance):
    with pytest.raises(ValueError, match="max_steps must be at least 1 and tolerance lie in"):
        jills.ConjugateGradients(steps, tolerance)
