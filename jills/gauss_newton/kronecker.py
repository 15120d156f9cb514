"""Kronecker factors of a layer's Gauss–Newton matrix, and the preconditioner made of them.

The Gauss–Newton matrix of a layer is `Σ_n ω_n (a_n a_nᵀ) ⊗ (S_nᵀ Λ_n S_n)`, with `a_n` a column of `A`. Taken apart
as in K-FAC (Martens & Grosse, arXiv 1503.05671), with `μ I` added it is close to

    (A + π √μ I) ⊗ (G + (√μ / π) I),   A = Σ ω_n a_n a_nᵀ / Σ ω_n,   G = Σ ω_n S_nᵀ Λ_n S_n / Σ ω_n,
    π² = (tr A / dim A) / (tr G / dim G),

whose inverse is two small products. It only speeds conjugate gradients up and never decides where they end, so many
rows are represented by a fixed random subsample.

A factor is kept as what costs least (`moment`, `Diagonal`): a layer of 20 000 inputs and 100 rows has a factor of
100 columns, not a matrix of 20 000 × 20 000.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.linalg import HIGHEST, inverses, matmul, positive
from jills.transformations import exported

ROWS_FOR_A, ROWS_FOR_G = 1024, 4096  # the most rows for A (or four times its width), and rows · columns for G
MOST_COLUMNS = 1024  # of a factor kept as its columns: wider ones than twice that are never a matrix


def is_wide(width: int, columns: int) -> bool:
    """Whether a factor of so many columns is kept as these."""
    return width > 2 * min(columns, MOST_COLUMNS)


def subsample(n: int, most: int) -> np.ndarray | None:
    """Which rows represent a batch of n; None: all of them."""
    # A fixed draw, not every m-th row: rows may come with a period of their own, as in a time series.
    return None if n <= most else np.sort(np.random.default_rng(0).permutation(n)[:most])


def taken(array: jax.Array, which: np.ndarray | None) -> jax.Array:
    """Some of the last axis; None: all."""
    return array if which is None else array[..., which]


class Full(NamedTuple):
    """A factor as the matrix itself."""

    matrix: jax.Array  # (w, w)

    def mean(self) -> jax.Array:
        """Of the diagonal, `()`."""
        return jnp.trace(self.matrix) / self.matrix.shape[0]

    def damped(self, shift: jax.Array) -> jax.Array:
        """What must be inverted for `(M + shift I)⁻¹`."""
        return self.matrix + shift * jnp.eye(self.matrix.shape[0], dtype=self.matrix.dtype)

    def inverse(self, inverted: Any, shift: jax.Array) -> "FullInverse":
        """`(M + shift I)⁻¹`, with what `damped` asked for inverted."""
        return FullInverse(inverted)


@exported
class FullInverse(NamedTuple):
    """The inverse as a matrix."""

    inverse: jax.Array  # (w, w)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applied to `(w, j)`."""
        return matmul(self.inverse, x)


class LowRank(NamedTuple):
    """A factor `R Rᵀ` as its columns, `R = C diag(r)`, fewer than half of its width."""

    columns: jax.Array  # (w, m) C
    roots: jax.Array  # (m,) r
    gram: jax.Array  # (m, m), RᵀR

    def mean(self) -> jax.Array:
        """Of the diagonal, `()`."""
        return jnp.trace(self.gram) / self.columns.shape[0]

    def damped(self, shift: jax.Array) -> jax.Array:
        """What must be inverted for `(M + shift I)⁻¹`: `RᵀR + shift I`."""
        return Full(self.gram).damped(self._inside(shift))

    def inverse(self, inverted: Any, shift: jax.Array) -> "LowRankInverse":
        """`(M + shift I)⁻¹`, with what `damped` asked for inverted."""
        inside = self._inside(shift)
        outside = jnp.maximum(inside, _epsilon(self.gram) ** 0.25 * jnp.trace(self.gram) / self.gram.shape[0])
        return LowRankInverse(self.columns, self.roots, inverted, inside / outside, outside)

    def _inside(self, shift):
        """c: no less than what rounding can tell from zero beside the largest eigenvalue."""
        largest = jnp.max(jnp.sum(jnp.abs(self.gram), axis=1))  # no eigenvalue exceeds it
        return jnp.maximum(shift, 64 * _epsilon(self.gram) * largest)


@exported
class LowRankInverse(NamedTuple):
    """`(R Rᵀ + c I)⁻¹`, but with `1 / e` in place of `1 / c` outside the range of R.

    With `K = RᵀR + c I`:  `P = R ((1 − c/e) K⁻² − K⁻¹/e) Rᵀ + I / e`;  for `e = c` that is Woodbury's identity. What a
    gradient has outside of R's range is often rounding alone, and `1 / c` would make parameters of it: so `e` is larger
    where c is as small as rounding. A sum of positive terms, it stays positive for any c.
    """

    columns: jax.Array  # (w, m), R = columns · diag(roots)
    roots: jax.Array  # (m,)
    inner: jax.Array  # (m, m), K⁻¹
    ratio: jax.Array  # () c / e
    outside: jax.Array  # () e

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applied to `(w, j)`."""
        roots = self.roots[:, None]
        once = matmul(self.inner, roots * matmul(self.columns.T, x))
        twice = matmul(self.inner, once)
        inside = (1 - self.ratio) * twice - once / self.outside
        return x / self.outside + matmul(self.columns, roots * inside)


class Diagonal(NamedTuple):
    """A factor that is a diagonal matrix."""

    diagonal: jax.Array  # (w,)

    def mean(self) -> jax.Array:
        """Of the diagonal, `()`."""
        return jnp.mean(self.diagonal)

    def damped(self, shift: jax.Array) -> None:
        """Nothing is to be inverted."""

    def inverse(self, inverted: Any, shift: jax.Array) -> "DiagonalInverse":
        """`(M + shift I)⁻¹`."""
        return DiagonalInverse(1 / (self.diagonal + shift))


@exported
class DiagonalInverse(NamedTuple):
    """The inverse of a diagonal matrix."""

    inverse: jax.Array  # (w,)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applied to `(w, j)`."""
        return self.inverse[:, None] * x


Factor = Full | LowRank | Diagonal
Inverse = FullInverse | LowRankInverse | DiagonalInverse


def moment(columns: jax.Array, weights: jax.Array) -> Full | LowRank:
    """`Σ_c w_c x_c x_cᵀ` of columns `(w, m)` and their weights `(m,)`; as a matrix, unless they are few."""
    if not is_wide(*columns.shape):
        return Full(matmul(weights[None, :] * columns, columns.T))
    roots = jnp.sqrt(weights)
    return LowRank(columns, roots, roots[:, None] * matmul(columns.T, columns) * roots[None, :])


class Layer(NamedTuple):
    """The Kronecker factors of a layer, and the trace of its Gauss–Newton matrix."""

    a: Factor  # of width n_(l-1) + 1, second moment of its inputs
    g: Factor  # of width n_l, curvature in its total inputs
    trace: jax.Array  # ()


@exported
class Preconditioner(NamedTuple):
    """`(A + π √μ I)⁻¹` and `(G + √μ/π I)⁻¹` of a layer, and the trace of the matrix that they stand for."""

    a: Inverse  # of width n_(l-1) + 1
    g: Inverse  # of width n_l
    trace: jax.Array  # () scales the damping

    def __call__(self, matrix: jax.Array) -> jax.Array:
        """Applied to a matrix of the shape of `θ^l`."""
        return self.g(self.a(matrix).T).T


def input_factor(below: jax.Array, omega: jax.Array, exact: bool = False) -> Full | LowRank:
    """A of a layer with inputs `A^l` `(w, n)`, from some of the rows where there are many.

    With `exact` from all of them, unless a matrix would be too large.
    """
    width, n = below.shape
    most = MOST_COLUMNS if is_wide(width, n) else n if exact else max(ROWS_FOR_A, 4 * width)
    which = subsample(n, most)
    omega = taken(omega, which)
    return moment(taken(below, which), omega / positive(jnp.sum(omega)))


def output_factor(roots: jax.Array, curved: jax.Array, total: jax.Array) -> Full | LowRank:
    """`G = Σ_n Σ_k S_nk (ω Λ S)_nkᵀ / total` from `S` and `ω Λ S`, `(k, w, n)`, and `Σ ω`.

    Where both are one array, `(ω Λ)^½ S` of one column a row, G may be kept as its columns.
    """
    if roots is curved and roots.shape[0] == 1:
        return moment(roots[0], jnp.full(roots.shape[2:], 1 / positive(total)))
    flat = [jnp.moveaxis(part, 0, 1).reshape(part.shape[1], -1) for part in (roots, curved)]
    g = matmul(flat[0], flat[1].T) / positive(total)
    return Full(0.5 * (g + g.T))


def trace(below: jax.Array, squares: jax.Array, total: jax.Array) -> jax.Array:
    """`Σ_n ‖a_n‖² q_n / total` with `q_n = ω_n tr S_nᵀ Λ_n S_n`, `(n,)`: the trace of the layer's matrix, `()`."""
    return jnp.vdot(jnp.sum(below * below, axis=0), squares, precision=HIGHEST) / positive(total)


def preconditioners(layers: Sequence[Layer], dampings: Sequence[jax.Array]) -> list[Preconditioner]:
    """The inverse of both factors of each layer, for its damping `μ`, `()`."""
    pairs = [pair for layer, damping in zip(layers, dampings, strict=True) for pair in _shifts(layer, damping)]
    damped = [factor.damped(shift) for factor, shift in pairs]
    inverted = iter(inverses([matrix for matrix in damped if matrix is not None]))
    found = [
        factor.inverse(None if matrix is None else next(inverted), shift)
        for (factor, shift), matrix in zip(pairs, damped, strict=True)
    ]
    return [Preconditioner(a, g, layer.trace) for a, g, layer in zip(found[::2], found[1::2], layers, strict=True)]


def _shifts(layer, damping):
    """Both factors of a layer, each with what is added to its diagonal."""
    means = [positive(factor.mean()) for factor in (layer.a, layer.g)]
    pi, root = jnp.sqrt(means[0] / means[1]), jnp.sqrt(damping)
    return [
        (factor, positive(share + _floor(factor) * mean))
        for factor, share, mean in zip((layer.a, layer.g), (pi * root, root / pi), means, strict=True)
    ]


def _floor(factor):
    """What rounding of a Gram matrix can hide, as a share of its mean diagonal."""
    array = jax.tree.leaves(factor)[0]
    return _epsilon(array) * array.shape[0]


def _epsilon(array):
    return float(jnp.finfo(array.dtype).eps)
