"""The Kronecker preconditioner of a layer, and the scale of its damping.

The Gauss–Newton matrix of a layer is `G = Σ_n ω_n (A_nᵀ A_n) ⊗ (S_nᵀ Λ_n S_n)`. Taken apart as in
K-FAC (Martens & Grosse, arXiv 1503.05671), `G + μI` is close to

    (Γ + π √μ I) ⊗ (Σ + (√μ / π) I),   Γ = Σ ω_n A_nᵀ A_n / Σ ω_n,   Σ = Σ ω_n S_nᵀ Λ_n S_n / Σ ω_n,
    π² = (tr Γ / dim Γ) / (tr Σ / dim Σ),

whose inverse is two small matrix products. It only speeds conjugate gradients up and never decides
where they end, so many rows are represented by a fixed random part of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve

from jills.batching import fold_batches
from jills.linearization import times
from jills.network import HIGHEST

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
    flat = [jnp.moveaxis(part, 0, 1).reshape(part.shape[1], -1) for part in (roots, curved)]
    sigma = times(flat[0], flat[1].T) / total
    trace = jnp.vdot(jnp.sum(below * below, axis=0), jnp.sum(roots * curved, axis=(0, 1)), precision=HIGHEST) / total
    return Moments(gamma, 0.5 * (sigma + sigma.T), trace)


def _positive(number):
    return jnp.where(number > 0, number, jnp.ones_like(number))


def factors(moments: Sequence[Moments], dampings: Sequence[jax.Array]) -> list[Factors]:
    """The inverse of both factors of each layer, for its damping `μ`, `()`."""
    damped = []
    for moment, damping in zip(moments, dampings, strict=True):
        mean_below, mean_above = _mean_of_diagonal(moment.below), _mean_of_diagonal(moment.above)
        root, pi = jnp.sqrt(damping), jnp.sqrt(mean_below / mean_above)
        damped.append(_shifted(moment.below, pi * root + _floor(moment.below) * mean_below))
        damped.append(_shifted(moment.above, root / pi + _floor(moment.above) * mean_above))
    inverted = inverses(damped)
    return [Factors(below, above) for below, above in zip(inverted[::2], inverted[1::2], strict=True)]


def _mean_of_diagonal(matrix):
    tiny = float(jnp.finfo(matrix.dtype).tiny) ** 0.5
    return jnp.vdot(matrix, _eye(matrix), precision=HIGHEST) / matrix.shape[0] + tiny


def _eye(matrix):
    return jnp.asarray(np.eye(matrix.shape[0]), matrix.dtype)


def _floor(matrix):
    """What rounding of the Gram matrix can hide, as a share of its mean diagonal."""
    return float(jnp.finfo(matrix.dtype).eps) * matrix.shape[0]


def _shifted(matrix, shift):
    return matrix + shift * _eye(matrix)


def _solve(matrix, right):
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # NaN must not reach LAPACK; what comes of a zero matrix is finite, and NaN again in the end.
    valid = jnp.isfinite(jnp.sum(jnp.abs(matrix)) + jnp.sum(jnp.abs(right)))
    factor = lax.linalg.cholesky(jnp.where(valid, matrix, eye), symmetrize_input=False)
    return jnp.where(valid, cho_solve((factor, True), jnp.where(valid, right, jnp.zeros_like(right))), jnp.nan)


def _invert(matrix):
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    valid = jnp.isfinite(jnp.sum(jnp.abs(matrix)))
    factor = lax.linalg.cholesky(jnp.where(valid, matrix, eye), symmetrize_input=False)
    root = lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    return jnp.where(valid, times(root.T, root), jnp.nan)


# (Inside these `jnp.eye`, not `_eye`: under two vmaps JAX refuses constant arrays in what `fold_batches` wraps.)
_solves = fold_batches(_solve, jax.vmap(_solve))
_inverses = fold_batches(_invert, jax.vmap(_invert))


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """`M⁻¹ b` for a symmetric positive definite matrix `(p, p)` and `b` `(p,)`; NaN where Cholesky fails."""
    return _solves(matrix[None], right[None])[0]


def inverses(matrices: Sequence[jax.Array]) -> list[jax.Array]:
    """`M⁻¹` of symmetric positive definite matrices of any sizes; NaN where Cholesky fails.

    Those of similar size are solved in one call, filled up with ones on the diagonal: a program with one
    Cholesky for each would take long to compile.
    """
    found = {}
    waiting = sorted(range(len(matrices)), key=lambda index: -matrices[index].shape[0])
    while waiting:
        size = matrices[waiting[0]].shape[0]
        group = [index for index in waiting if 2 * matrices[index].shape[0] >= size]
        waiting = waiting[len(group) :]
        if size == 1:
            found |= {index: _reciprocal(matrices[index]) for index in group}
            continue
        filled = jnp.stack([_filled(matrices[index], size) for index in group])
        solved = _inverses(filled)
        for place, index in enumerate(group):
            own = matrices[index].shape[0]
            found[index] = solved[place, :own, :own]
    return [found[index] for index in range(len(matrices))]


def _reciprocal(matrix):
    positive = (matrix > 0) & jnp.isfinite(matrix)
    return jnp.where(positive, 1 / jnp.where(positive, matrix, jnp.ones_like(matrix)), jnp.nan)


def _filled(matrix, size):
    missing = size - matrix.shape[0]
    if missing == 0:
        return matrix
    ones = np.append(np.zeros(matrix.shape[0]), np.ones(missing))
    return jnp.pad(matrix, (0, missing)) + jnp.asarray(np.diag(ones), matrix.dtype)
