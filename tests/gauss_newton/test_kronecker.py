"""The Kronecker preconditioner against explicit inverses."""

import jax
import jax.numpy as jnp
import numpy as np

from jills import linalg
from jills.gauss_newton import kronecker


def draw(dtype, seed=0):
    """`A (4, 11)`, `S (2, 3, 11)`, `ω Λ S` with `Λ = 1.5 I`, and `ω`."""
    rng = np.random.default_rng(seed)
    below, weights = rng.standard_normal((4, 11)), rng.dirichlet(np.ones(11))
    roots = rng.standard_normal((2, 3, 11))
    return [jnp.asarray(array, dtype) for array in (below, roots, 1.5 * weights * roots, weights)]


@jax.jit
def apply(below, roots, curved, weights, damping, vector):
    total = jnp.sum(weights)
    layer = kronecker.Layer(
        kronecker.input_factor(below, weights),
        kronecker.output_factor(roots, curved, total),
        kronecker.trace(below, jnp.sum(roots * curved, axis=(0, 1)), total),
    )
    return layer, kronecker.preconditioners([layer], [damping])[0](vector)


def gauss_newton_matrix(below, roots, curved):
    """`Σ_n Σ_k (A_n ⊗ S_nk) (A_n ⊗ ω Λ S_nk)ᵀ`, (12, 12)."""
    rows = np.einsum("an,kjn->knaj", below, roots).reshape(22, 12)
    return rows.T @ np.einsum("an,kjn->knaj", below, curved).reshape(22, 12)


def test_it_is_the_inverse_of_the_damped_product(dtype):
    below, roots, curved, weights = draw(dtype)
    vector = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), dtype)
    factors, found = apply(below, roots, curved, weights, jnp.asarray(0.3, dtype), vector)
    gamma = np.einsum("n,an,bn->ab", weights, below, below).astype(np.float64)
    sigma = np.einsum("kin,kjn->ij", roots, curved).astype(np.float64)
    pi = np.sqrt((np.trace(gamma) / 4) / (np.trace(sigma) / 3))
    whole = np.kron(gamma + pi * np.sqrt(0.3) * np.eye(4), sigma + np.sqrt(0.3) / pi * np.eye(3))
    expected = np.linalg.solve(whole, np.ravel(vector)).reshape(4, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)
    trace = np.trace(gauss_newton_matrix(*(np.asarray(a, np.float64) for a in (below, roots, curved))))
    np.testing.assert_allclose(factors.trace, trace, rtol=1e-5)


def test_it_is_exact_where_the_sensitivity_is_constant():
    """As in a linear output layer: without damping, the inverse of the Gauss–Newton matrix itself."""
    rng = np.random.default_rng(2)
    below, _, _, weights = draw("float64")
    roots = np.broadcast_to(rng.standard_normal((3, 3, 1)), (3, 3, 11))
    curved = jnp.asarray(1.5 * np.asarray(weights) * roots)
    vector = jnp.asarray(rng.standard_normal((4, 3)))
    _, found = apply(below, jnp.asarray(roots), curved, weights, jnp.asarray(0.0), vector)
    rows = np.einsum("an,kjn->knaj", below, roots).reshape(33, 12)
    matrix = rows.T @ np.einsum("an,kjn->knaj", below, curved).reshape(33, 12)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, np.ravel(vector)).reshape(4, 3), rtol=1e-9)


def test_a_layer_that_nothing_reaches_has_a_finite_inverse(dtype):
    below, roots, _, weights = draw(dtype)
    zero = jnp.zeros_like(roots)
    _, found = apply(below, zero, zero, weights, jnp.asarray(1e-3, dtype), jnp.ones((4, 3), dtype))
    assert np.isfinite(found).all()


@jax.jit
def apply_columns(columns, weights, shift, vector):
    """The factor's mean diagonal, and `(M + shift I)⁻¹ v` by its columns."""
    factor = kronecker.moment(columns, weights)
    assert isinstance(factor, kronecker.LowRank)
    return factor.mean(), factor.inverse(linalg.inverses([factor.damped(shift)])[0], shift)(vector)


def few_columns(dtype):
    """`C (37, 5)`, weights, and 37 × 37 their matrix."""
    rng = np.random.default_rng(3)
    columns, weights = rng.standard_normal((37, 5)), rng.dirichlet(np.ones(5))
    return jnp.asarray(columns, dtype), jnp.asarray(weights, dtype), columns * weights @ columns.T


def test_few_columns_stand_for_their_matrix(dtype):
    """Woodbury's identity, as long as the shift is not lost in rounding."""
    columns, weights, matrix = few_columns(dtype)
    vector = np.random.default_rng(4).standard_normal((37, 3))
    mean, found = apply_columns(columns, weights, jnp.asarray(3.0, dtype), jnp.asarray(vector, dtype))
    np.testing.assert_allclose(mean, np.trace(matrix) / 37, rtol=1e-5)
    expected = np.linalg.solve(matrix + 3.0 * np.eye(37), vector)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


def test_without_a_shift_few_columns_are_inverted_in_their_range(dtype):
    """There `M⁺`; outside it next to nothing, so that no parameters are made of rounding; and positive everywhere."""
    columns, weights, matrix = few_columns(dtype)
    rng, shift = np.random.default_rng(4), jnp.asarray(1e-30, dtype)
    inside, outside = matrix @ rng.standard_normal((37, 3)), rng.standard_normal((37, 3))
    outside -= matrix @ np.linalg.lstsq(matrix, outside, rcond=1e-9)[0]
    found = [apply_columns(columns, weights, shift, jnp.asarray(one, dtype))[1] for one in (inside, outside)]
    expected = np.linalg.pinv(matrix, rcond=1e-9) @ inside
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=0.05 if dtype == "float32" else 1e-3)
    typical = np.trace(matrix) / 5
    assert 0 < np.vdot(outside, found[1]) < (100 if dtype == "float32" else 1e5) / typical * np.vdot(outside, outside)


def test_a_diagonal_factor():
    found = kronecker.Diagonal(jnp.asarray([1.0, 3.0])).inverse(None, jnp.asarray(1.0))(jnp.ones((2, 3)))
    np.testing.assert_allclose(found, [[0.5] * 3, [0.25] * 3])


def test_nan_stays_with_its_member():
    matrices = jnp.stack([jnp.eye(3), jnp.full((3, 3), jnp.nan), 2 * jnp.eye(3)])
    solved = jax.jit(jax.vmap(linalg.solve))(matrices, jnp.ones((3, 3)))
    inverted = jax.jit(jax.vmap(lambda matrix: linalg.inverses([matrix])[0]))(matrices)
    np.testing.assert_allclose(solved[::2], [[1, 1, 1], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(inverted[2], 0.5 * np.eye(3))
    assert np.isnan(solved[1]).all()
    assert np.isnan(inverted[1]).all()


def test_inverses_of_unequal_sizes(dtype):
    """Some are filled up and solved together, one is a number; one that cannot be inverted leaves the others alone."""
    rng = np.random.default_rng(4)
    sizes = (3, 11, 1, 7, 6, 2)
    roots = [rng.standard_normal((size, size + 3)) for size in sizes]
    roots[3][:] = np.nan
    matrices = [jnp.asarray(root @ root.T, dtype) for root in roots]
    for matrix, found in zip(matrices, jax.jit(linalg.inverses)(matrices), strict=True):
        assert found.shape == matrix.shape
        expected = np.linalg.inv(np.asarray(matrix, np.float64))
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=(1e-3 if dtype == "float32" else 1e-11) * np.abs(expected).max()
        )
    bad = jax.jit(linalg.inverses)([jnp.zeros((1, 1), dtype), -jnp.eye(2, dtype=dtype)])
    assert all(np.isnan(one).all() for one in bad)


def test_the_rows_that_represent_a_batch():
    assert kronecker.subsample(11, 11) is None
    rows = kronecker.subsample(1000, 300)
    assert rows is not None
    assert len(set(rows)) == 300
    assert rows.min() >= 0
    assert rows.max() < 1000
    assert np.unique(rows % 7).size == 7
