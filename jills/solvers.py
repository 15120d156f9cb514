"""Linear least squares: `argmin_x Σ_n w_n ‖a_n x − b_n‖² + λ ‖x‖²`.

All three solvers answer the same question, and give the minimum-norm answer where the matrix is
rank-deficient (singular values below `ε · p` of the largest count as zero). They differ in speed.
`lstsq` always takes the singular values. `qr` and `cholesky` first try a cheaper method, measure
whether its answer can be trusted, and fall back on `lstsq` only where it cannot.

* `lstsq`: QR of `[A | b]`, then `jnp.linalg.lstsq` on the `p × p` triangle: the same answer as on
  `A` itself, and its rank does not depend on the number of rows.
* `qr`: the same triangle, then back substitution. Trusted where `1 / (‖R‖ ‖R⁻¹‖) > ε p`, in the
  Frobenius norm: a lower bound of the true reciprocal condition, so full rank is proven.
* `cholesky`: normal equations `AᵀA`, with one step of refinement on `A` (Björck's corrected
  seminormal equations). Trusted where the same bound exceeds `√(ε p)` and the refinement was small.

Largest relative error of `x` against `numpy.linalg.lstsq` in float64, over 5 random matrices 50 × 8
of the given condition, a consistent right-hand side, and rank 5 of 8 (`tests/test_solvers.py` holds
every entry within a factor of ten):

                        1e+01    1e+02    1e+03    1e+04    1e+05    1e+06   rank 5
    lstsq float32      6.0e-07  1.3e-06  4.8e-06  6.4e-05  2.9e-04  2.5e-03  5.7e-07
    qr float32         2.8e-07  7.8e-07  4.6e-06  6.5e-05  2.9e-04  2.5e-03  5.7e-07
    cholesky float32   1.0e-07  3.7e-07  4.8e-06  6.4e-05  2.9e-04  2.5e-03  5.7e-07
    lstsq float64      1.6e-15  2.2e-15  4.8e-15  3.7e-14  1.3e-12  1.2e-11  1.3e-15
    qr float64         2.1e-15  2.1e-15  6.6e-15  3.8e-14  1.3e-12  1.2e-11  1.3e-15
    cholesky float64   2.1e-15  2.5e-15  1.7e-14  8.4e-14  1.4e-12  1.4e-09  1.3e-15

`ridge` is relative, `λ = ridge · mean_j Σ_n w_n A_nj²`: it means the same for data of any scale.
A NaN or inf in `a` or `b`, or a negative ridge, never reaches LAPACK: it gives NaN in that `x` and
harms no neighbour. `a` and `b` are scaled by powers of two first, so that no square overflows.

However deep the `vmap`s around a solve, it sees one batch axis. On the CPU it then loops over that
axis: batched LAPACK calls share the thread pool they run on and were seen to wait for each other
for ever on two cores. Elsewhere it is one batched call, and the fallback is entered only if a
member of the batch needs it.

Rows that are spread over devices stay where they are: `in_blocks` takes the R factor of `[A | b]` of each block by
itself, and what is gathered is their stack, of `p + k` rows a block and with the triangle of all rows (tall and skinny
QR; Golub & Van Loan, Matrix Computations, 5.2 and 6.5). `cholesky` gathers `AᵀA`, and the stack where it falls back.

Derivatives, in both modes, are those of the minimum-norm answer as long as the rank stays the same (Golub & Pereyra,
SIAM J. Numer. Anal. 10, 1973); that of `rank` and `rcond` is zero.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jills.linalg import fold_batches, matmul
from jills.transformations import alike


class Solution(NamedTuple):
    """A least-squares answer and how far it can be trusted."""

    x: jax.Array  # (p, k)
    rank: jax.Array  # () int32, singular values above ε p times the largest
    rcond: jax.Array  # () smallest over largest singular value, or a lower bound of it


class Attempt(NamedTuple):
    """What a fast method found, and the problem that remains where it cannot be trusted."""

    solution: Solution
    trusted: jax.Array  # () bool
    rows: jax.Array  # (m, p), with the ridge inside: ‖rows x − right‖² is minimised by the same x
    right: jax.Array  # (m, k)


@dataclass(frozen=True)
class Solver:
    """A way to solve; `solver(a, b, ridge)` gives `x` alone, `solver.solve` the whole `Solution`.

    Attributes:
        method: `(a, b, ridge, blocks=1) → Attempt`, the fast method to try first.
        blocks: of rows, see `in_blocks`.
    """

    method: Callable[..., Attempt]
    blocks: int = 1

    def in_blocks(self, blocks: int) -> "Solver":
        """The same answer, but for rounding, for rows that lie on so many devices, in order and as many on each.

        For programs of your own: `jills.run` looks where the rows of its batch lie, and takes it by itself.

        Raises:
            ValueError: `blocks` is not a positive integer.
        """
        if not isinstance(blocks, int) or blocks < 1:
            raise ValueError(f"in_blocks: blocks is {blocks!r}, but must be a positive integer, the number of devices")
        return dataclasses.replace(self, blocks=blocks)

    def __call__(self, a, b, ridge: float | jax.Array = 0.0, weights=None) -> jax.Array:
        """`x`, of shape `(p, k)`, or `(p,)` for `b` of shape `(n,)`. See `solve`."""
        return self.solve(a, b, ridge, weights).x

    def solve(self, a, b, ridge: float | jax.Array = 0.0, weights=None) -> Solution:
        """Minimises `Σ_n w_n ‖a_n x − b_n‖² + λ ‖x‖²`, `λ = ridge · mean_j Σ_n w_n a_nj²`.

        Args:
            a: `(n, p)`, float32 or float64.
            b: `(n, k)` or `(n,)`, the right-hand sides.
            ridge: `()`, relative, not negative.
            weights: `(n,)`, not negative, or None for ones. A row of weight zero changes nothing,
                whatever it holds.

        Raises:
            ValueError: shapes that do not fit, no rows or columns, rows that cannot be cut into the blocks, or a dtype
                LAPACK does not have.
        """
        a, b = jnp.asarray(a), jnp.asarray(b)
        _check(a, b, weights, self.blocks)
        a, b, ridge, weights = alike((a, b, jnp.asarray(ridge, a.dtype), weights))
        columns = b if b.ndim == 2 else b[:, None]
        if weights is not None:
            a, columns = _weigh(a, weights), _weigh(columns, weights)
        fixed = lax.stop_gradient((a[None], columns[None], ridge[None]))
        solution = jax.tree.map(lambda leaf: leaf[0], _over_batch(self.method, self.blocks)(*fixed))
        solution = solution._replace(x=_differentiable(self.blocks, solution.x, a, columns, ridge))
        return solution if b.ndim == 2 else solution._replace(x=solution.x[:, 0])


def _check(a, b, weights, blocks):
    if a.dtype not in (jnp.float32, jnp.float64) or b.dtype != a.dtype:
        raise ValueError(f"solve: a is {a.dtype} and b {b.dtype}; give both as float32 or both as float64")
    fits = a.ndim == 2 and b.ndim in (1, 2) and a.shape[0] == b.shape[0] and min(a.shape) >= 1
    if not fits or (weights is not None and jnp.shape(weights) != a.shape[:1]):
        shapes = f"a {a.shape}, b {b.shape}, weights {None if weights is None else jnp.shape(weights)}"
        raise ValueError(f"solve: shapes are {shapes}; they must be (n, p), (n, k) or (n,), and (n,), n ≥ 1, p ≥ 1")
    if a.shape[0] % blocks:
        raise ValueError(f"solve: {a.shape[0]} rows cannot be cut into {blocks} blocks of one length; see in_blocks")


def _weigh(rows, weights):
    weights = jnp.asarray(weights, rows.dtype)[:, None]
    used = weights > 0
    root = jnp.sqrt(jnp.where(used, weights, jnp.ones_like(weights)))  # its slope at zero is infinite
    return jnp.where(used, root * rows, jnp.zeros_like(rows))


@cache
def _over_batch(method, blocks):
    """The solve over one batch axis, into which every `vmap` around it is folded."""
    attempted = method if blocks == 1 else partial(method, blocks=blocks)
    resort = partial(_by_singular_values, blocks=blocks)

    def one(a, b, ridge):
        valid, scale, a, b, ridge = _prepare(a, b, ridge)
        solution, trusted, rows, right = attempted(a, b, ridge)
        solution = lax.cond(trusted, lambda: alike(solution, a), lambda: resort(rows, right))
        return _restore(solution, valid, scale)

    def at_once(a, b, ridge):
        valid, scale, a, b, ridge = jax.vmap(_prepare)(a, b, ridge)
        solution, trusted, rows, right = jax.vmap(attempted)(a, b, ridge)
        # One predicate for the whole batch, so that this stays a branch.
        solution = lax.cond(
            jnp.all(trusted),
            lambda: alike(solution, a),
            lambda: jax.vmap(_choose)(trusted, solution, jax.vmap(resort)(rows, right)),
        )
        return jax.vmap(_restore)(solution, valid, scale)

    return fold_batches(one, at_once)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiable(blocks, x, a, b, ridge):
    """`x`, found from the problem by whatever method, with the derivative that follows from the problem itself."""
    return x


@_differentiable.defjvp
def _differentiable_jvp(blocks, primals, tangents):
    """Of `(AᵀA + λI) x = Aᵀb`, and of what keeps `x` free of the null space of A."""
    (x, a, b, ridge), (_, da, db, dridge) = primals, tangents
    p = a.shape[1]
    inverse, null_space = (one[0] for one in _factors_over_batch(blocks)(a[None], ridge[None]))
    mean = jnp.sum(jnp.square(a)) / p
    change = dridge * mean + ridge * 2.0 * jnp.sum(a * da) / p  # of λ

    def solve_normal(right):
        return matmul(inverse, matmul(inverse.T, right))

    right = matmul(da.T, b - matmul(a, x)) + matmul(a.T, db - matmul(da, x)) - change * x
    return x, solve_normal(right) + matmul(null_space, matmul(da.T, matmul(a, solve_normal(x))))


def _factors(a, ridge, blocks):
    """The pseudo-inverse of `R`, `RᵀR = AᵀA + λI`, and the projection onto its null space, both `(p, p)`."""
    valid, (size, _), a, none, ridge = _prepare(a, a[:, :0], ridge)
    upper, _ = _triangle(a, none, ridge, blocks)
    eye = jnp.eye(a.shape[1], dtype=a.dtype)
    inverse = _by_singular_values(upper, eye).x
    return jnp.where(valid, jnp.ldexp(inverse, -size), jnp.nan), eye - matmul(inverse, upper)


@cache
def _factors_over_batch(blocks):
    factors = partial(_factors, blocks=blocks)
    return fold_batches(factors, jax.vmap(factors))


def _prepare(a, b, ridge):
    """Whether the problem is valid; and the problem without NaN, its entries at most 1 in size."""
    valid = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b)) & jnp.isfinite(ridge) & (ridge >= 0)
    a, size_a = _at_most_one(jnp.where(valid, a, jnp.zeros_like(a)))
    b, size_b = _at_most_one(jnp.where(valid, b, jnp.zeros_like(b)))
    return valid, (size_a, size_b), a, b, jnp.where(valid, ridge, jnp.zeros_like(ridge))


def _at_most_one(array):
    """The array over a power of two, so that no square of it overflows or vanishes and no digit is lost."""
    largest = jnp.max(jnp.abs(array), initial=0.0)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, jnp.ones_like(largest)))
    half, one = exponent // 2, jnp.ones_like(largest)  # in two halves, for one factor may itself over- or underflow
    return array * jnp.ldexp(one, -half) * jnp.ldexp(one, half - exponent), exponent


def _choose(flag, yes, no):
    return jax.tree.map(lambda y, n: jnp.where(flag, y, n), yes, no)


def _restore(solution, valid, scale):
    size_a, size_b = scale
    solution = solution._replace(x=jnp.ldexp(solution.x, size_b - size_a))
    bad = Solution(jnp.full_like(solution.x, jnp.nan), jnp.zeros_like(solution.rank), jnp.zeros_like(solution.rcond))
    return _choose(valid, solution, bad)


def _reduce(rows, right):
    """`R (p, p)` and `c (p, k)` with `‖R x − c‖² = ‖rows x − right‖²` up to a constant."""
    n, p = rows.shape
    both = jnp.concatenate([rows, right], axis=1)
    if n < p:  # R would be trapezoidal
        both = jnp.concatenate([both, jnp.zeros((p - n, both.shape[1]), both.dtype)])
    upper = jnp.linalg.qr(both, mode="r")[:p]
    return upper[:, :p], upper[:, p:]


def _stacked(rows, right, blocks):
    """The triangles of blocks of rows, one below the other, of which the triangle is that of all rows.

    The rows themselves where they are one block, or no more than the triangles would have.
    """
    n, p, q = *rows.shape, rows.shape[1] + right.shape[1]
    if blocks == 1 or n <= blocks * q:
        return rows, right
    each = jnp.concatenate([rows, right], axis=1).reshape(blocks, n // blocks, q)
    stack = jnp.linalg.qr(each, mode="r").reshape(blocks * q, q)
    return stack[:, :p], stack[:, p:]


def _triangle(a, b, ridge, blocks):
    """`_reduce` of blocks of rows, with the ridge as `p` more rows, `√λ I`."""
    p = a.shape[1]
    upper, right = _reduce(*_stacked(a, b, blocks))

    def with_ridge():
        root = jnp.sqrt(ridge / p) * jnp.linalg.norm(upper)
        rows = jnp.concatenate([upper, root * jnp.eye(p, dtype=a.dtype)])
        return _reduce(rows, jnp.concatenate([right, jnp.zeros_like(right)]))

    return lax.cond(ridge > 0, with_ridge, lambda: (upper, right))


def _by_singular_values(rows, right, blocks=1):
    n, p = rows.shape
    upper, right = (rows, right) if n == p else _reduce(*_stacked(rows, right, blocks))
    x, _, rank, values = jnp.linalg.lstsq(upper, right, rcond=_cut_off(p, rows.dtype))
    largest = jnp.where(values[0] > 0, values[0], jnp.ones_like(values[0]))
    return Solution(x, rank.astype(jnp.int32), values[-1] / largest)


def _cut_off(p, dtype):
    return p * float(jnp.finfo(dtype).eps)


def _back_substitute(upper, right):
    """`R⁻¹ right`, `R⁻¹`, and `1 / (‖R‖ ‖R⁻¹‖)` in the Frobenius norm (zero where R is singular)."""
    p = upper.shape[0]
    both = solve_triangular(upper, jnp.concatenate([right, jnp.eye(p, dtype=upper.dtype)], axis=1))
    x, inverse = both[:, :-p], both[:, -p:]
    rcond = 1.0 / (jnp.linalg.norm(upper) * jnp.linalg.norm(inverse))
    return x, inverse, jnp.where(jnp.isfinite(rcond), rcond, jnp.zeros_like(rcond))


def _qr(a, b, ridge, blocks=1):
    upper, right = _triangle(a, b, ridge, blocks)
    x, _, rcond = _back_substitute(upper, right)
    full = jnp.asarray(a.shape[1], jnp.int32)
    return Attempt(Solution(x, full, rcond), rcond > _cut_off(a.shape[1], a.dtype), upper, right)


def _lstsq(a, b, ridge, blocks=1):
    upper, right = _triangle(a, b, ridge, blocks)
    unknown = Solution(jnp.zeros_like(right), jnp.asarray(0, jnp.int32), jnp.zeros_like(ridge))
    return Attempt(unknown, jnp.asarray(False), upper, right)


def _cholesky(a, b, ridge, blocks=1):
    p = a.shape[1]
    gram = matmul(a.T, a)
    shift = ridge * jnp.trace(gram) / p
    upper = jnp.linalg.cholesky(gram + shift * jnp.eye(p, dtype=a.dtype), upper=True)
    _, inverse, rcond = _back_substitute(upper, jnp.zeros((p, 0), a.dtype))

    def seminormal(right):
        return matmul(inverse, matmul(inverse.T, right))

    x = seminormal(matmul(a.T, b))
    residual = b - matmul(a, x)
    change = seminormal(matmul(a.T, residual) - shift * x)
    # The factor of a nearly singular Gram is noise; so is then the change it proposes.
    small = jnp.linalg.norm(change) <= 0.1 * jnp.linalg.norm(x)
    trusted = (rcond > _cut_off(p, a.dtype) ** 0.5) & small
    share = shift if blocks == 1 else shift / blocks
    rows = _below_each_block(a, jnp.sqrt(share) * jnp.eye(p, dtype=a.dtype), blocks)
    right = _below_each_block(b, jnp.zeros((p, b.shape[1]), b.dtype), blocks)
    return Attempt(Solution(x + change, jnp.asarray(p, jnp.int32), rcond), trusted, rows, right)


def _below_each_block(rows, more, blocks):
    if blocks == 1:
        return jnp.concatenate([rows, more])
    each = rows.reshape(blocks, -1, rows.shape[1])
    return jnp.concatenate([each, jnp.broadcast_to(more, (blocks, *more.shape))], axis=1).reshape(-1, rows.shape[1])


lstsq = Solver(_lstsq)
qr = Solver(_qr)
cholesky = Solver(_cholesky)
