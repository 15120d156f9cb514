"""The arithmetic of a step, counted on paper.

Counted are multiply-adds (one multiplication with one addition) of matrix products and factorizations. Left out is
all that is linear in the number of activations or parameters: activation functions, biases, Adam's moments. For small
networks these are most of the time, which is why a step can be far from the rate of a large product.
"""

from collections.abc import Sequence
from itertools import pairwise

import jills

Sizes = Sequence[int]
# What Gauss–Newton chooses by size. Small blocks are dense; Γ of a layer is taken from at most 1024 rows, or four times
# its width, and Σ from at most 256 rows, or 4096 over the number of outputs.
DENSE_LIMIT, DENSE_ENTRIES = 100, 2**24  # parameters of a dense block, and entries of its Jacobian
GAMMA_ROWS, SIGMA_ENTRIES = 1024, 4096


def forward(sizes: Sizes, rows: int, first: int = 0) -> int:
    """`Σ_l n n_(l-1) n_l` over the layers from Python index `first` up."""
    return rows * sum(a * b for a, b in zip(sizes[first:-1], sizes[first + 1 :], strict=True))


def adam(sizes: Sizes, rows: int) -> int:
    """`Σ_l 2 n n_(l-1) n_l + Σ_(l≥2) n n_(l-1) n_l`: forward, gradients of the weights, and of what is below."""
    return 2 * forward(sizes, rows) + forward(sizes, rows, 1)


def householder(rows: int, columns: int) -> float:
    """`p² (m − p / 3)`, R of the QR decomposition of `(m, p)`, m ≥ p (Golub & Van Loan, section 5.2)."""
    rows, columns = max(rows, columns), min(rows, columns)
    return columns**2 * (rows - columns / 3)


def least_squares(rows: int, columns: int, right: int) -> float:
    """`q² (m − q / 3) + p² (p + k) / 2`, q = p + k: `solvers.qr` on `(m, p)` with k right-hand sides.

    With fewer rows than columns the solver adds rows of zeros. Left out is what it does where it finds the matrix
    rank-deficient, and takes singular values too.
    """
    return householder(max(rows, columns), columns + right) + columns**2 * (columns + right) / 2


def ills(sizes: Sizes, rows: int) -> float:
    """The solves of every layer and of every deviation, and the products around them.

    With `lsq(m, p, k)` of `least_squares`:
    `Σ_l [n n_(l-1) n_l + lsq(n, n_(l-1) + 1, n_l)] + n n_(L-1) n_L`
    `+ Σ_(l≥2) [lsq(n n_l, n_(l-1) (n_(l-2) + 1), 1) + n n_(l-1) n_l + n n_(l-1) (2 n_(l-2) + 1)]`.
    """
    total = forward(sizes, rows) + rows * sizes[-2] * sizes[-1]
    for below, above in pairwise(sizes):
        total += least_squares(rows, below + 1, above)
    for deeper, below, above in zip(sizes[:-2], sizes[1:-1], sizes[2:], strict=True):
        total += least_squares(rows * above, below * (deeper + 1), 1)
        total += rows * below * above + rows * below * (2 * deeper + 1)
    return total


def deviation_entries(sizes: Sizes, rows: int) -> int:
    """`max_(l≥2) n n_l n_(l-1) (n_(l-2) + 1)`, the largest matrix that a step of ILLS forms (squares if wide)."""
    shapes = [
        (rows * above, below * (deeper + 1))
        for deeper, below, above in zip(sizes[:-2], sizes[1:-1], sizes[2:], strict=True)
    ]
    return max((max(m, p) * p for m, p in shapes), default=0)


def cholesky(columns: int) -> float:
    """`p³ / 6`, of a `(p, p)` matrix."""
    return columns**3 / 6


def inverse(columns: int) -> float:
    """`5 p³ / 3`, of a `(p, p)` matrix by Cholesky, a triangular solve, and a product; of a number nothing."""
    return cholesky(columns) + columns**3 / 2 + columns**3 if columns > 1 else 0


def iterative_blocks(
    sizes: Sizes, rows: int, blocks: Sequence[tuple[int, int]], dense_limit: int = DENSE_LIMIT
) -> list:
    """The blocks that `jills.gauss_newton` solves by conjugate gradients, see `gauss_newton`."""

    def dense(first, last):
        size = sum((below + 1) * above for below, above in pairwise(sizes[first : last + 2]))
        small = size <= dense_limit and rows * sizes[-1] * size <= DENSE_ENTRIES
        return small and (first, last) != (len(sizes) - 2, len(sizes) - 2)

    return [block for block in blocks if not dense(*block)]


def gauss_newton(
    sizes: Sizes,
    rows: int,
    iterations: float,
    blocks: Sequence[tuple[int, int]] | None = None,
    dense_limit: int = DENSE_LIMIT,
) -> float:
    """A step of `jills.gauss_newton` with an identity output and squared error, conjugate gradients of every block.

    Layers are counted from zero, `P_l = (n_l + 1) n_(l+1)` parameters in layer l, k outputs.
    At the start `n Σ_l P_l`; then for each block of layers a … b, with `T = Σ_(l>a) n_l n_(l+1)`, `P = Σ_(l=a…b) P_l`:

    * trial `n Σ_(l≥a) P_l`; gradient: sensitivities `n T`, and `n P`;
    * dense (P ≤ dense_limit, not the output layer alone): `n k T + n k P² + P³ / 6 + 2 P²`;
    * otherwise each iteration `2 n P` (k = 1) or `2 n (P + T)`; each, and one more, preconditions by
      `Σ_(l=a…b) P_l (n_l + 1 + n_(l+1))`.

    And for the output layer alone, and once for the layers a … b of all other such blocks: `n T` (k = 1) or `m k T`
    for S; for Γ, Σ and their inverses `Σ_(l=a…b) [m_l (n_l + 1)² + m k n_(l+1)² + 5/3 (n_l + 1)³ + 5/3 n_(l+1)³]`,
    where `m_l` and m of the n rows stand for all.

    Args:
        sizes: of the network.
        rows: n.
        iterations: of conjugate gradients in each block that is not dense, their mean.
        blocks: as in `jills.gauss_newton.build`.
        dense_limit: as there.
    """
    if blocks is None:
        blocks = jills.gauss_newton.default_blocks(jills.Network(tuple(sizes), jills.activations.tanh))
    outputs, iterative = sizes[-1], iterative_blocks(sizes, rows, blocks, dense_limit)
    params = [(below + 1) * above for below, above in pairwise(sizes)]
    total = rows * sum(params)
    for first, last in blocks:
        size, down = sum(params[first : last + 1]), forward(sizes, rows, first + 1)
        total += rows * sum(params[first:]) + down + rows * size
        if (first, last) not in iterative:
            total += outputs * down + rows * outputs * size**2 + cholesky(size) + 2 * size**2
            continue
        once = sum(params[layer] * (sizes[layer] + 1 + sizes[layer + 1]) for layer in range(first, last + 1))
        total += (iterations + 1) * once + iterations * 2 * (rows * size + (0 if outputs == 1 else down))
    top = (len(params) - 1, len(params) - 1)
    shared = [block for block in iterative if block != top]
    total += preconditioner(sizes, rows, *top) if top in iterative else 0
    if shared:
        total += preconditioner(sizes, rows, min(first for first, _ in shared), max(last for _, last in shared))
    return total


def preconditioner(sizes: Sizes, rows: int, first: int, last: int) -> float:
    """S, Γ, Σ and their inverses for the layers from `first` to `last`, see `gauss_newton`."""
    outputs = sizes[-1]
    few = min(rows, max(256, SIGMA_ENTRIES // outputs))
    total = outputs * forward(sizes, rows if outputs == 1 else few, first + 1)
    for below, above in pairwise(sizes[first : last + 2]):
        some = min(rows, max(GAMMA_ROWS, 4 * (below + 1)))
        total += some * (below + 1) ** 2 + few * outputs * above**2 + inverse(below + 1) + inverse(above)
    return total
