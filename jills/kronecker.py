"""The Kronecker preconditioner of a layer, and the scale of its damping.

The Gauss–Newton matrix of a layer is `G = Σ_n ω_n (A_nᵀ A_n) ⊗ (S_nᵀ Λ_n S_n)`. Taken apart as in
K-FAC (Martens & Grosse, arXiv 1503.05671), `G + μI` is close to

    (Γ + π √μ I) ⊗ (Σ + (√μ / π) I),   Γ = Σ ω_n A_nᵀ A_n / Σ ω_n,   Σ = Σ ω_n S_nᵀ Λ_n S_n / Σ ω_n,
    π² = (tr Γ / dim Γ) / (tr Σ / dim Σ),

whose inverse is two small matrix products. It only speeds conjugate gradients up and never decides
where they end, so many rows are represented by a fixed random part of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from jills.batching import fold_batches
from jills.linearization import times

ROWS_BELOW, ROWS_ABOVE = 1024, 4096  # the most rows for Γ (or four times its width), and rows · outputs for Σ


def rows_for_gamma(n: int, width: int) -> np.ndarray | None:
    """Which rows of n stand for all in the Γ of a layer whose rows are so wide; None: all."""
    return some_rows(n, max(ROWS_BELOW, 4 * width))


def rows_for_sigma(n: int, k: int) -> np.ndarray | None:
    """Which rows of n with k outputs stand for all in Σ and the trace; None: all."""
    return some_rows(n, max(256, ROWS_ABOVE // k))


class Factors(NamedTuple):
    """`(Γ + π √μ I)⁻¹` and `(Σ + √μ/π I)⁻¹` of a layer."""

    below: jax.Array  # (n_(l-1) + 1, n_(l-1) + 1)
    above: jax.Array  # (n_l, n_l)

    def __call__(self, matrix: jax.Array) -> jax.Array:
        """The preconditioner applied to a matrix of the shape of `θ^l`."""
        return times(times(self.below, matrix), self.above)


class Moments(NamedTuple):
    """The two Gram matrices of a layer, and the trace of its Gauss–Newton matrix."""

    below: jax.Array  # Γ
    above: jax.Array  # Σ
    trace: jax.Array  # () tr G


def some_rows(n: int, most: int) -> np.ndarray | None:
    """Which rows represent a batch of n; None: all of them."""
    # A fixed draw, not every m-th row: rows may come with a period of their own, as in a time series.
    return None if n <= most else np.sort(np.random.default_rng(0).permutation(n)[:most])


def moments(
    many: jax.Array, many_weights: jax.Array, below: jax.Array, roots: jax.Array, curved: jax.Array, weights: jax.Array
) -> Moments:
    """Γ, Σ and the trace. Arrays are features × rows, as in `jills.linearization`.

    Args:
        many: `A` of the rows that Γ is taken from, `(a, m)`.
        many_weights: their `ω`, `(m,)`.
        below: `A` of those that Σ and the trace are taken from, `(a, n)`.
        roots: their `S`, `(k, j, n)`.
        curved: their `ω Λ S`, of the same shape.
        weights: their `ω`, `(n,)`.
    """
    gamma = times(many_weights[None, :] * many, many.T) / _positive(jnp.sum(many_weights))
    total = _positive(jnp.sum(weights))
    sigma = jnp.sum(times(roots, jnp.swapaxes(curved, 1, 2)), axis=0) / total
    trace = jnp.sum(jnp.sum(below * below, axis=0) * jnp.sum(roots * curved, axis=(0, 1))) / total
    return Moments(gamma, 0.5 * (sigma + sigma.T), trace)


def _positive(number):
    return jnp.where(number > 0, number, jnp.ones_like(number))


def factors(moment: Moments, damping: jax.Array) -> Factors:
    """The inverse of both factors for damping `μ`, `()`."""
    mean_below, mean_above = (_mean_of_diagonal(matrix) for matrix in (moment.below, moment.above))
    root = jnp.sqrt(damping)
    pi = jnp.sqrt(mean_below / mean_above)
    return Factors(
        inverse(moment.below, pi * root + _floor(moment.below) * mean_below),
        inverse(moment.above, root / pi + _floor(moment.above) * mean_above),
    )


def _mean_of_diagonal(matrix):
    tiny = float(jnp.finfo(matrix.dtype).tiny) ** 0.5
    return jnp.trace(matrix) / matrix.shape[0] + tiny


def _floor(matrix):
    """What rounding of the Gram matrix can hide, as a share of its mean diagonal."""
    return float(jnp.finfo(matrix.dtype).eps) * matrix.shape[0]


def _inverse(matrix, shift):
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    damped = matrix + shift * eye
    # NaN must not reach LAPACK; what comes of a zero matrix is finite, and NaN again in the end.
    valid = jnp.all(jnp.isfinite(damped))
    factor = jnp.linalg.cholesky(jnp.where(valid, damped, eye))
    return jnp.where(valid, cho_solve((factor, True), eye), jnp.nan)


_inverses = fold_batches(_inverse, jax.vmap(_inverse))


def inverse(matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """`(M + shift · I)⁻¹` of a symmetric positive semidefinite matrix, by Cholesky; NaN where that fails."""
    return _inverses(matrix[None], shift[None])[0]


def _solve(matrix, right):
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    valid = jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(right))
    factor = jnp.linalg.cholesky(jnp.where(valid, matrix, eye))
    return jnp.where(valid, cho_solve((factor, True), jnp.where(valid, right, jnp.zeros_like(right))), jnp.nan)


_solves = fold_batches(_solve, jax.vmap(_solve))


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """`M⁻¹ b` for a symmetric positive definite matrix `(p, p)` and `b` `(p,)`; NaN where Cholesky fails."""
    return _solves(matrix[None], right[None])[0]
