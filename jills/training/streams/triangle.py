"""Any number of rows, reduced in one pass to a triangle that holds all that least squares wants to know of them.

    [√w 1, √w A, √w B] = Q R,   block by block:  R ← R of [R; next block]

(tall and skinny QR; Golub & Van Loan, Matrix Computations, 5.2 and 6.5.) In float64, whatever the rows are in, and as
exact as a QR of all rows at once; a sum of `AᵀA` would lose half of the digits. The column of ones stands first, so
that what is below the first row of R is the triangle of the same rows with their means taken off.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from jills.arrays import brief
from jills.training.streams.steps import check_source
from jills.types import Batch, Layer

Features = Callable[[Any], Any]
"""`inputs (n, d) → (n, p)`: what the outputs are linear in."""


class Triangle(NamedTuple):
    """What `least_squares` and `evidence` want to know of rows."""

    upper: np.ndarray  # (1 + p + k, 1 + p + k), R of [1, A, B]
    num_features: int  # p
    num_rows: int  # of positive weight
    total: float  # the sum of the weights
    dtype: np.dtype  # of the rows


class LeastSquares(NamedTuple):
    """A linear model, or output layer, of least squares."""

    layer: Layer  # weight (p, k), bias (k,), NumPy, in the dtype of the rows
    loss: np.ndarray  # () mean over rows, by weight, and outputs of the squared residual; without the ridge
    rank: int  # of the p + 1 columns of features and ones
    num_rows: int  # of positive weight


def triangle(batches: Iterable[Batch], features: Features | None = None) -> Triangle:
    """One pass over batches.

    Args:
        batches: of `streams.batches`, say with `shuffle=False`, or any iterable; `prefetch` reads ahead.
        features: what the outputs are linear in, such as the activations of the last hidden layer,
            `jax.jit(lambda inputs: network.forward(params, inputs)[-2])`; None: the inputs.

    Raises:
        ValueError: shapes that do not fit, NaN or inf in rows of positive weight, or no such rows.
    """
    check_source(batches)
    upper, known, num_rows, total = None, None, 0, 0.0
    for index, batch in enumerate(batches):
        inputs, targets, weights = _checked(index, batch, features)
        kind = inputs.dtype if inputs.dtype.kind == "f" else np.dtype(np.float64)
        sizes = inputs.shape[1], targets.shape[1], str(kind)
        if known is not None and sizes != known:
            raise ValueError(f"batch {index} has (p, k, dtype) = {sizes}, but the first one {known}; all must be alike")
        known = sizes
        rows = _stacked(index, upper, inputs, targets, weights)
        factored: Any = scipy.linalg.qr(rows, overwrite_a=True, mode="raw", check_finite=False)
        upper = factored[1]  # quicker than NumPy's, which copies and transposes
        num_rows, total = num_rows + int(np.count_nonzero(weights)), total + float(np.sum(weights))
    if known is None or upper is None or num_rows == 0:
        raise ValueError("streams: there are no rows of positive weight in the batches, but at least one is needed")
    return Triangle(upper, known[0], num_rows, total, np.dtype(known[2]))


def least_squares(
    batches: Iterable[Batch] | Triangle, ridge: float = 0.0, *, features: Features | None = None
) -> LeastSquares:
    """The exact answer of least squares for any number of rows, in one pass.

        argmin Σ_n w_n ‖[a_n, 1] x − b_n‖² + λ ‖x‖²,   λ = ridge · mean_j Σ_n w_n a_nj²

    as `jills.solvers` has it: the bias is one of the columns, and of several answers the shortest is taken (singular
    values below `ε (p + 1)` of the largest count as zero).

    Args:
        batches: rows, see `triangle`; or the `Triangle` of an earlier pass, for another ridge.
        ridge: relative, not negative.
        features: what the outputs are linear in, see `triangle`; None: the inputs.

    Raises:
        ValueError: a bad ridge, or what `triangle` raises.

    A network whose last layer is solved for the hidden layers that it has::

        hidden = jax.jit(lambda inputs: network.forward(params, inputs)[-2])
        found = jills.training.streams.least_squares(rows, features=hidden)
        params = (*params[:-1], jax.tree.map(jnp.asarray, found.layer))
    """
    if not isinstance(ridge, int | float | np.number) or not 0.0 <= ridge < np.inf:
        raise ValueError(f"ridge is {brief(ridge)}, but must be a finite number ≥ 0")
    upper, p, num_rows, total, dtype = known = as_triangle(batches, features)
    a, b = upper[: p + 1, : p + 1], upper[: p + 1, p + 1 :]
    root = np.sqrt(ridge / (p + 1)) * np.linalg.norm(a)
    rows = np.concatenate([a, root * np.eye(p + 1)]) if ridge > 0 else a
    right = np.concatenate([b, np.zeros_like(b)]) if ridge > 0 else b
    x, _, rank, _ = np.linalg.lstsq(rows, right, rcond=(p + 1) * np.finfo(np.float64).eps)
    squares = np.sum(np.square(a @ x - b)) + np.sum(np.square(rest(known)))
    loss = np.asarray(squares / (total * b.shape[1]), dtype)
    return LeastSquares(layer_of(x[1:], x[0], dtype), loss, int(rank), num_rows)


def as_triangle(batches: Any, features: Features | None) -> Triangle:
    """A triangle as it is; that of batches."""
    if not isinstance(batches, Triangle):
        return triangle(batches, features)
    if features is not None:
        raise ValueError("features are given with a Triangle, which has its own; give them to streams.triangle")
    return batches


def rest(known: Triangle) -> np.ndarray:
    """What no x can explain of the targets: `‖R x − c‖² + ‖rest‖²` is the sum of squares of all rows."""
    return known.upper[known.num_features + 1 :, known.num_features + 1 :]


def layer_of(weight: np.ndarray, bias: np.ndarray, dtype: np.dtype) -> Layer:
    """A `Layer` of NumPy's arrays in a dtype."""
    as_layer: Any = Layer
    return as_layer(weight.astype(dtype), bias.astype(dtype))


def _checked(index, batch, features):
    """Features, targets, and weights in float64, of a batch."""
    if not isinstance(batch, Batch):
        raise ValueError(f"batch {index} is {brief(batch)}, but must be a jills.Batch(inputs, targets, weights=None)")
    inputs = batch.inputs if features is None else features(batch.inputs)
    inputs, targets = np.asarray(inputs), np.asarray(batch.targets)
    weights = np.ones(len(inputs)) if batch.weights is None else np.asarray(batch.weights, np.float64)
    if inputs.ndim != 2 or targets.ndim != 2 or not len(inputs) == len(targets) == len(weights) or weights.ndim != 1:
        what = "inputs" if features is None else "features"
        raise ValueError(
            f"batch {index}: {what} have shape {inputs.shape}, targets {targets.shape} and weights {weights.shape}; "
            "they must be (n, p), (n, k) and (n,); give one output as targets[:, None]"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"batch {index}: weights hold negative, NaN or infinite values; each must be finite and ≥ 0")
    return inputs, targets, weights


def _stacked(index, upper, inputs, targets, weights):
    """`√w [1, A, B]` below the triangle so far, column by column, as LAPACK wants it."""
    p, columns = inputs.shape[1], 1 + inputs.shape[1] + targets.shape[1]
    stacked = np.zeros((columns + len(inputs), columns), order="F")
    stacked[:columns] = 0.0 if upper is None else upper
    rows = stacked[columns:]
    rows[:, 0], rows[:, 1 : p + 1], rows[:, p + 1 :] = 1.0, inputs, targets
    rows[weights == 0] = 0.0  # whatever they hold
    if not np.isfinite(rows).all():
        bad = ~np.isfinite(rows).all(axis=1)
        raise ValueError(
            f"batch {index} holds NaN or inf in {bad.sum()} rows, first in row {bad.argmax()}; drop or fill them, or "
            "give those rows weight zero"
        )
    rows *= np.sqrt(weights)[:, None]
    return stacked
