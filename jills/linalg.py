"""The ground floor of linear algebra: full-precision products, vectors in several arrays, one batched Cholesky.

LAPACK calls see one batch axis, however deep the `vmap`s around them: looped over on the CPU, one batched call
elsewhere (`fold_batches`).
"""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401 JAX would import it at the first LAPACK call of a CPU
from jax import lax
from jax.scipy.linalg import cho_solve

from jills.transformations import alike

HIGHEST = lax.Precision.HIGHEST  # TF32 and bfloat16 products would ruin a least-squares solve

Vector = list[jax.Array]
"""A vector in several arrays: for a network, one matrix `(fan_in + 1, fan_out)` per layer."""


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a b`, in full precision on every device."""
    return jnp.matmul(a, b, precision=HIGHEST)


def dot(x: Vector, y: Vector) -> jax.Array:
    """`xᵀy`, `()`."""
    # Dot products, not sums of products: XLA makes three kernels of each of those.
    return add([jnp.vdot(a, b, precision=HIGHEST) for a, b in zip(x, y, strict=True)])


def diagonal(matrix: jax.Array) -> jax.Array:
    """Of a square one, `(p,)`; one slice, where `jnp.diagonal` is a gather of four kernels."""
    return matrix.reshape(-1)[:: matrix.shape[0] + 1]


def picked(array: jax.Array, rows: np.ndarray) -> jax.Array:
    """Rows that are known to be there: to check them costs kernels, and so do signs, which may count from the end."""
    return array.at[rows.astype(np.uint32)].get(mode="promise_in_bounds")


def add(arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of arrays of one shape."""
    return reduce(jnp.add, arrays)


def flatten(vector: Vector) -> jax.Array:
    """All entries in one array, `(p,)`."""
    return jnp.concatenate([part.reshape(-1) for part in vector])


def unflatten(flat: jax.Array, like: Vector) -> Vector:
    """The inverse of `flatten`, in the shapes of another vector."""
    ends = np.cumsum([part.size for part in like])[:-1]
    return [piece.reshape(part.shape) for piece, part in zip(jnp.split(flat, ends), like, strict=True)]


def lower_blocks(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """A square matrix from rows of blocks, zero to the right of each."""
    return _placed(rows, lambda size, width: 0)


def upper_blocks(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """A square matrix from rows of blocks, zero to the left of each."""
    return _placed(rows, lambda size, width: size - width)


def _placed(rows, begin):
    size = sum(row[0].shape[0] for row in rows)
    begins = [begin(size, sum(block.shape[1] for block in row)) for row in rows]
    if not only_cpu():
        whole = [jnp.concatenate(row, axis=1) for row in rows]
        pairs = zip(whole, begins, strict=True)
        return jnp.concatenate([jnp.pad(row, ((0, 0), (left, size - left - row.shape[1]))) for row, left in pairs])
    # One after the other into zeros, each where it belongs: for CPUs XLA makes a concatenation, and what it is made of,
    # in one kernel, which asks of every entry where it comes from, and takes twice as long in the fast tier.
    whole, top = jnp.zeros((size, size), rows[0][0].dtype), 0
    for row, left in zip(rows, begins, strict=True):
        for block in row:
            whole = lax.dynamic_update_slice(whole, block, (top, left))
            left += block.shape[1]
        top += row[0].shape[0]
    return whole


def positive(number: jax.Array) -> jax.Array:
    """What may be divided by: 1 in place of zero, of less, and of NaN."""
    return jnp.where(number > 0, number, jnp.ones_like(number))


@cache
def only_cpu() -> bool:
    """Whether this process has no device but CPUs."""
    return jax.default_backend() == "cpu"


def fold_batches(one: Callable[..., Any], at_once: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays with one leading batch axis, into which every `vmap` around it is folded.

    On the CPU the axis is looped over: batched LAPACK calls share the thread pool they run on and were
    seen to wait for each other for ever on two cores. Elsewhere the whole batch is one call.

    Args:
        one: on the arrays of one member, without the axis.
        at_once: on the arrays of all members, with it.
    """

    def one_by_one(*args):
        if args[0].shape[0] == 1:
            return jax.tree.map(lambda leaf: leaf[None], one(*(arg[0] for arg in args)))
        return lax.map(lambda member: one(*member), args)

    @jax.custom_batching.custom_vmap
    def over_batch(*args):
        if only_cpu():  # to trace what will not be run takes as long
            return one_by_one(*args)
        return lax.platform_dependent(*args, cpu=one_by_one, default=at_once)

    @over_batch.def_vmap
    def fold(axis_size, in_batched, *args):
        full = [
            arg if batched else jnp.broadcast_to(arg[None], (axis_size, *arg.shape))
            for arg, batched in zip(args, in_batched, strict=True)
        ]
        flat = over_batch(*(arg.reshape(-1, *arg.shape[2:]) for arg in full))
        outer = full[0].shape[:2]
        out = jax.tree.map(lambda leaf: leaf.reshape(*outer, *leaf.shape[1:]), flat)
        return out, jax.tree.map(lambda _: True, out)

    return over_batch


def _by_cholesky(matrix, right=None):
    """`M⁻¹ b`, or `M⁻¹` without a right-hand side."""
    # `jnp.eye`, not a constant array: under two vmaps JAX refuses those in what `fold_batches` wraps.
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # NaN must not reach LAPACK; what comes of a zero matrix is finite, and NaN again in the end.
    size = jnp.sum(jnp.abs(matrix)) + (0.0 if right is None else jnp.sum(jnp.abs(right)))
    valid = jnp.isfinite(size)
    factor = lax.linalg.cholesky(jnp.where(valid, matrix, eye), symmetrize_input=False)
    if right is None:
        # An identity that depends on data: a constant one would lie in memory from the beginning of a program on.
        eye = jnp.where(valid, eye, jnp.zeros_like(eye))
        root = lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
        found = matmul(root.T, root)
    else:
        found = cho_solve((factor, True), jnp.where(valid, right, jnp.zeros_like(right)))
    return jnp.where(valid, found, jnp.nan)


_cholesky = fold_batches(_by_cholesky, jax.vmap(_by_cholesky))


# Derivatives by the equation that holds, `M x = b`: of products only, so that they may be transposed, and batched
# without a batched LAPACK call.


@jax.custom_jvp
def _inverse(batch):
    """`M⁻¹` of matrices `(g, p, p)`."""
    return _cholesky(batch)


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    found = _inverse(*primals)
    return found, -matmul(found, matmul(tangents[0], found))


@jax.custom_jvp
def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """`M⁻¹ b` for a symmetric positive definite matrix `(p, p)` and `b` `(p,)`; NaN where Cholesky fails."""
    return _cholesky(matrix[None], right[None])[0]


@solve.defjvp
def _solve_jvp(primals, tangents):
    x = solve(*primals)
    return x, matmul(_inverse(primals[0][None])[0], tangents[1] - matmul(tangents[0], x))


LEAF = 160  # matrices of up to this size are LAPACK's at once
MORE, ATTEMPTS = 8.0, 5  # a shift that rounding makes too small is raised so much, so often


def shifted(matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """`M + τ I`; of τ `(1, p)`, `M + diag(τ)`."""
    return jnp.where(jnp.eye(matrix.shape[0], dtype=bool), matrix + shift, matrix)


def _root_of_inverse(gram, prior, shift):
    own = diagonal(gram) + prior
    valid = jnp.isfinite(jnp.sum(own))

    def failed(carry):
        count, _, root = carry
        return (count == 0) | (count < ATTEMPTS) & valid & ~jnp.isfinite(jnp.sum(diagonal(root)))

    def attempt(carry):
        count, shift, _ = carry
        shift = jnp.where(count > 0, shift * MORE, shift)
        return count + 1, shift, _root_by_halves(gram, prior + shift * own)

    begin = (jnp.zeros((), jnp.int32), shift, gram)
    _, shift, root = lax.while_loop(failed, attempt, alike(begin, gram, prior, shift))
    return root, shift


def _root_by_halves(gram, added):
    """`L⁻¹` of `G + diag(added)`, most of whose arithmetic is in products: LAPACK takes up to twice as long on CPUs.

    With `G = [[A, B], [·, C]]` and `X` that of A:  `[[X, 0], [−Z Yᵀ X, Z]]`,  `Y = X B`,  Z that of `C − Yᵀ Y`.
    """
    p = gram.shape[0]
    if p <= LEAF:
        # Of the transpose the lower half is read; LAPACK takes a matrix column by column, so that this copies nothing.
        factor = lax.linalg.cholesky_p.bind(shifted(gram, added[None, :]).T)
        return lax.linalg.triangular_solve(factor, jnp.eye(p, dtype=gram.dtype), left_side=True, lower=True)
    half = p // 2
    first = _root_by_halves(gram[:half, :half], added[:half])
    between = matmul(first, gram[:half, half:])
    second = _root_by_halves(gram[half:, half:] - matmul(between.T, between), added[half:])
    return lower_blocks([[first], [-matmul(second, matmul(between.T, first)), second]])


_roots = fold_batches(_root_of_inverse, jax.vmap(_root_of_inverse))


def inverse_root(gram: jax.Array, prior: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`L⁻¹` of `H + τ diag(H) = L Lᵀ` for `H = G + diag(α)`, lower triangular, so that `L⁻ᵀ L⁻¹` is its inverse; and τ.

    Only the upper half of G, `(p, p)`, is read; α is `(p,)`. τ is the given shift, `()`, or where rounding makes
    Cholesky fail eight times as much, and so on; NaN where that fails too. The logarithm of the determinant is
    `−2 Σ log diag L⁻¹`. Rounding depends on the scale of no parameter.
    """
    root, shift = _roots(gram[None], prior[None], shift[None])
    return root[0], shift[0]


def _eigenvectors(matrix):
    valid = jnp.isfinite(jnp.sum(jnp.abs(matrix)))
    values, vectors = jnp.linalg.eigh(jnp.where(valid, matrix, jnp.zeros_like(matrix)), symmetrize_input=False)
    return jnp.where(valid, values, jnp.nan), vectors


_eigen = fold_batches(_eigenvectors, jax.vmap(_eigenvectors))


def eigenvectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues `(p,)`, in rising order, and eigenvectors, columns of `(p, p)`, of a symmetric matrix."""
    values, vectors = _eigen(matrix[None])
    return values[0], vectors[0]


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
        solved = _inverse(jnp.stack([_filled(matrices[index], size) for index in group]))
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
