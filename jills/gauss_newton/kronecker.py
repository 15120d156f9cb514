"""Kronecker factors of a layer's Gauss–Newton matrix, and the preconditioner made of them.

The Gauss–Newton matrix of a layer is `Σ_n ω_n (a_n a_nᵀ) ⊗ (S_nᵀ Λ_n S_n)`, with `a_n` a column of `A`. Taken apart
as in K-FAC (Martens & Grosse, arXiv 1503.05671), with `μ I` added it is close to

    (A + π √μ I) ⊗ (G + (√μ / π) I),   A = Σ ω_n a_n a_nᵀ / Σ ω_n,   G = Σ ω_n S_nᵀ Λ_n S_n / Σ ω_n,
    π² = (tr A / dim A) / (tr G / dim G),

whose inverse is two small matrix products. It only speeds conjugate gradients up and never decides
where they end, so many rows are represented by a fixed random subsample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.linalg import HIGHEST, identity_like, inverses, matmul
from jills.transformations import exported

ROWS_FOR_A, ROWS_FOR_G = 1024, 4096  # the most rows for A (or four times its width), and rows · outputs for G


def rows_for_a(n: int, width: int) -> np.ndarray | None:
    """Which rows of n stand for all in the factor A of a layer whose inputs are so wide; None: all."""
    return subsample(n, max(ROWS_FOR_A, 4 * width))


def rows_for_g(n: int, k: int) -> np.ndarray | None:
    """Which rows of n with k outputs stand for all in the factor G and the trace; None: all."""
    return subsample(n, max(256, ROWS_FOR_G // k))


def subsample(n: int, most: int) -> np.ndarray | None:
    """Which rows represent a batch of n; None: all of them."""
    # A fixed draw, not every m-th row: rows may come with a period of their own, as in a time series.
    return None if n <= most else np.sort(np.random.default_rng(0).permutation(n)[:most])


class Factors(NamedTuple):
    """The Kronecker factors of a layer, and the trace of its Gauss–Newton matrix."""

    a: jax.Array  # (n_(l-1) + 1, n_(l-1) + 1), second moment of its inputs
    g: jax.Array  # (n_l, n_l), curvature in its total inputs
    trace: jax.Array  # ()


@exported
class Preconditioner(NamedTuple):
    """`(A + π √μ I)⁻¹` and `(G + √μ/π I)⁻¹` of a layer, and the trace of the matrix that they stand for."""

    a: jax.Array  # (n_(l-1) + 1, n_(l-1) + 1)
    g: jax.Array  # (n_l, n_l)
    trace: jax.Array  # () scales the damping

    def __call__(self, matrix: jax.Array) -> jax.Array:
        """Applied to a matrix of the shape of `θ^l`."""
        return matmul(matmul(self.a, matrix), self.g)


def factors(
    many: jax.Array, many_weights: jax.Array, below: jax.Array, roots: jax.Array, curved: jax.Array, weights: jax.Array
) -> Factors:
    """A, G and the trace. Arrays are features × rows, as in `linearization`.

    Args:
        many: `A^l` of the rows that the factor A is taken from, `(a, m)`.
        many_weights: their `ω`, `(m,)`.
        below: `A^l` of those that G and the trace are taken from, `(a, n)`.
        roots: their `S`, `(k, j, n)`.
        curved: their `ω Λ S`, of the same shape.
        weights: their `ω`, `(n,)`.
    """
    a = matmul(many_weights[None, :] * many, many.T) / _positive(jnp.sum(many_weights))
    total = _positive(jnp.sum(weights))
    flat = [jnp.moveaxis(part, 0, 1).reshape(part.shape[1], -1) for part in (roots, curved)]
    g = matmul(flat[0], flat[1].T) / total
    trace = jnp.vdot(jnp.sum(below * below, axis=0), jnp.sum(roots * curved, axis=(0, 1)), precision=HIGHEST) / total
    return Factors(a, 0.5 * (g + g.T), trace)


def _positive(number):
    return jnp.where(number > 0, number, jnp.ones_like(number))


def preconditioners(layers: Sequence[Factors], dampings: Sequence[jax.Array]) -> list[Preconditioner]:
    """The inverse of both factors of each layer, for its damping `μ`, `()`."""
    damped = []
    for layer, damping in zip(layers, dampings, strict=True):
        mean_a, mean_g = _mean_of_diagonal(layer.a), _mean_of_diagonal(layer.g)
        root, pi = jnp.sqrt(damping), jnp.sqrt(mean_a / mean_g)
        damped.append(_shifted(layer.a, pi * root + _floor(layer.a) * mean_a))
        damped.append(_shifted(layer.g, root / pi + _floor(layer.g) * mean_g))
    inverted = inverses(damped)
    pairs = zip(inverted[::2], inverted[1::2], layers, strict=True)
    return [Preconditioner(a, g, layer.trace) for a, g, layer in pairs]


def _mean_of_diagonal(matrix):
    tiny = float(jnp.finfo(matrix.dtype).tiny) ** 0.5
    return jnp.vdot(matrix, identity_like(matrix), precision=HIGHEST) / matrix.shape[0] + tiny


def _floor(matrix):
    """What rounding of the Gram matrix can hide, as a share of its mean diagonal."""
    return float(jnp.finfo(matrix.dtype).eps) * matrix.shape[0]


def _shifted(matrix, shift):
    return matrix + shift * identity_like(matrix)
