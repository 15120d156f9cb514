"""The arithmetic of a step, counted on paper, and the rate at which this machine multiplies matrices.

Counted are multiply-adds (one multiplication with one addition) of matrix products and factorizations. Left out is
all that is linear in the number of activations or parameters: activation functions, biases, Adam's moments. For small
networks these are most of the time, which is why a step can be far from the rate of a large product.
"""

import statistics
import time
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jills.network import HIGHEST

Sizes = Sequence[int]


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


def singular_values(columns: int) -> float:
    """`10.5 p³`, all factors of a square `(p, p)` (Golub & Van Loan, section 8.6: 21 p³ operations)."""
    return 10.5 * columns**3


def least_squares(rows: int, columns: int, right: int, fallback: bool = False) -> float:
    """`q² (m − q / 3) + p² (p + k) / 2`, q = p + k: `solvers.qr` on `(m, p)` with k right-hand sides.

    Args:
        rows: m; with fewer rows than columns the solver adds rows of zeros.
        columns: p.
        right: k.
        fallback: count the singular values too, which `solvers.lstsq` always takes, and `solvers.qr` where the
            matrix is rank-deficient.
    """
    both = householder(max(rows, columns), columns + right) + columns**2 * (columns + right) / 2
    return both + singular_values(columns) * fallback


def ills(sizes: Sizes, rows: int, fallback: bool = False) -> float:
    """The solves of every layer and of every deviation, and the products around them.

    With `lsq(m, p, k)` of `least_squares`:
    `Σ_l [n n_(l-1) n_l + lsq(n, n_(l-1) + 1, n_l)] + n n_(L-1) n_L`
    `+ Σ_(l≥2) [lsq(n n_l, n_(l-1) (n_(l-2) + 1), 1) + n n_(l-1) n_l + n n_(l-1) (2 n_(l-2) + 1)]`.
    """
    total = forward(sizes, rows) + rows * sizes[-2] * sizes[-1]
    for below, above in zip(sizes[:-1], sizes[1:], strict=True):
        total += least_squares(rows, below + 1, above, fallback)
    for deeper, below, above in zip(sizes[:-2], sizes[1:-1], sizes[2:], strict=True):
        total += least_squares(rows * above, below * (deeper + 1), 1, fallback)
        total += rows * below * above + rows * below * (2 * deeper + 1)
    return total


def deviation_entries(sizes: Sizes, rows: int) -> int:
    """`max_(l≥2) n n_l n_(l-1) (n_(l-2) + 1)`, the largest matrix that a step of ILLS forms (squares if wide)."""
    shapes = [
        (rows * above, below * (deeper + 1))
        for deeper, below, above in zip(sizes[:-2], sizes[1:-1], sizes[2:], strict=True)
    ]
    return max((max(m, p) * p for m, p in shapes), default=0)


def matmul_rate(dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Multiply-adds a second of the fastest of some products of two `(size, size)` matrices, on all cores.

    Precision is what the algorithms ask for: all digits of the dtype, on accelerators too.
    """
    left = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(partial(jnp.matmul, precision=HIGHEST))
    jax.block_until_ready(product(left, left))
    return size**3 / min(clock(lambda: product(left, left)) for _ in range(max(repeats, 1)))


def clock(call) -> float:
    """Seconds of a call, its results computed."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def medians(calls: dict, repeats: int) -> dict:
    """Median of what each call returns, measured in alternation so that all share what disturbs the machine."""
    measured = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            measured[name].append(call())
    return {name: statistics.median(each) for name, each in measured.items()}
