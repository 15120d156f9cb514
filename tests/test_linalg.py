"""The batched Cholesky: its derivatives, and roots of inverses, against NumPy's inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jills import linalg


def test_derivatives_of_solve_and_inverses():
    """In both modes, with a `vmap` around, and of matrices of two sizes that are solved in one call."""
    rng = np.random.default_rng(0)
    roots = [rng.standard_normal((size, size)) for size in (5, 3)]
    matrices = [root @ root.T + np.eye(len(root)) for root in roots]
    changes = [change + change.T for change in (rng.standard_normal(root.shape) for root in roots)]
    right, right_change = rng.standard_normal((2, 5))

    def sums(large, small, right):
        inverses = linalg.inverses([large, small])
        return jnp.stack([jnp.sum(inverses[0]), jnp.sum(inverses[1]), jnp.sum(linalg.solve(large, right))])

    found = [np.linalg.inv(matrix) for matrix in matrices]
    slopes = [-inverse @ change @ inverse for inverse, change in zip(found, changes, strict=True)]
    expected = [slopes[0].sum(), slopes[1].sum(), (slopes[0] @ right + found[0] @ right_change).sum()]
    primals, tangents = (*matrices, right), (*changes, right_change)
    forward = jax.vmap(lambda *one: jax.jvp(sums, primals, one)[1])(*(one[None] for one in tangents))[0]
    np.testing.assert_allclose(forward, expected, rtol=1e-10)
    backward = jax.jacrev(sums, argnums=(0, 1, 2))(*primals)
    along = [jnp.tensordot(one, tangent, tangent.ndim) for one, tangent in zip(backward, tangents, strict=True)]
    np.testing.assert_allclose(np.sum(along, axis=0), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 7, 160, 161, 325])
def test_the_root_of_an_inverse(size, dtype):
    """Against NumPy, of the upper half alone, and for parameters of very different scales."""
    rng = np.random.default_rng(size)
    scales = 10.0 ** rng.uniform(-3, 3, size)
    factor = rng.normal(size=(size, size + 5)) * scales[:, None]
    gram, prior = factor @ factor.T, scales**2 * rng.uniform(0.5, 2.0, size)
    half = np.where(np.tri(size, k=-1, dtype=bool), np.nan, gram)
    root, shift = linalg.inverse_root(*(jnp.asarray(each, dtype) for each in (half, prior, 0.01)))
    whole = gram + np.diag(prior)
    whole += 0.01 * np.diag(np.diag(whole))
    assert shift == jnp.asarray(0.01, dtype)
    assert np.array_equal(root, np.tril(root))
    np.testing.assert_allclose(
        scales[:, None] * (np.asarray(root, float).T @ np.asarray(root, float)) * scales,
        scales[:, None] * np.linalg.inv(whole) * scales,
        atol=1e-11 if dtype == np.float64 else 2e-4,
    )


@pytest.mark.parametrize("size", [5, 200])
def test_a_shift_that_rounding_makes_too_small_is_raised(size):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(size, 2))
    gram = jnp.asarray(factor @ factor.T - 1e-3 * np.eye(size), jnp.float32)  # indefinite by a little
    root, shift = linalg.inverse_root(gram, jnp.zeros(size, jnp.float32), jnp.asarray(1e-4, jnp.float32))
    assert float(shift) in [pytest.approx(1e-4 * 8**times) for times in range(1, linalg.ATTEMPTS)]
    assert np.isfinite(root).all()
    root, _ = linalg.inverse_root(-gram, jnp.zeros(size, jnp.float32), jnp.asarray(1e-4, jnp.float32))
    assert not np.isfinite(np.diagonal(root)).all()


def test_members_need_different_numbers_of_attempts_and_one_is_not_a_number():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(7, 2))
    singular = factor @ factor.T - 1e-3 * np.eye(7)
    grams = jnp.asarray(np.stack([singular, np.eye(7), np.full((7, 7), np.nan)]), jnp.float32)
    given = (grams, jnp.zeros((3, 7), jnp.float32), jnp.full(3, 1e-4, jnp.float32))
    roots, shifts = jax.vmap(linalg.inverse_root)(*given)
    assert np.isfinite(roots[:2]).all()
    assert not np.isfinite(roots[2]).any()
    assert shifts[0] > shifts[1] == shifts[2]
    for one in range(2):
        alone = linalg.inverse_root(*(each[one] for each in given))
        np.testing.assert_allclose(roots[one], alone[0], rtol=1e-5, atol=1e-6)
    at_once = jax.vmap(linalg._root_of_inverse)(*given)  # as on a GPU
    np.testing.assert_allclose(at_once[0][:2], roots[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cpu", [True, False])
def test_blocks_are_where_they_belong(cpu, monkeypatch):
    monkeypatch.setattr(linalg, "only_cpu", lambda: cpu)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(6, 6))
    ends = [0, 3, 5, 6]
    block = lambda i, j: jnp.asarray(whole[ends[i] : ends[i + 1], ends[j] : ends[j + 1]])  # noqa: E731 short
    belongs = np.repeat(np.arange(3), [3, 2, 1])
    lower = linalg.lower_blocks([[block(i, j) for j in range(i + 1)] for i in range(3)])
    np.testing.assert_array_equal(lower, np.where(belongs[:, None] >= belongs, whole, 0.0))
    upper = linalg.upper_blocks([[block(i, j) for j in range(i, 3)] for i in range(3)])
    np.testing.assert_array_equal(upper, np.where(belongs[:, None] <= belongs, whole, 0.0))
