"""Small blocks: the model's Gram matrix by Cholesky, or its rows by one of `jills.solvers`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jills import linalg
from jills.gauss_newton.model import Model
from jills.linalg import HIGHEST, Vector, flatten, matmul, positive, unflatten
from jills.solvers import Solver

MOST_ENTRIES = 2**24  # of the dense Jacobian of a block: 64 MB in float32
MOST_PER_ROW = 2**11  # of these, outputs times parameters: with many outputs, products are cheaper


@dataclass(frozen=True)
class Dense:
    """`(G + δ TᵀT + λDI) Δ' = −g`: the matrix `(p, p)`, and how it is solved.

    Attributes:
        rows: solves by the rows of the Jacobian instead (squared error only; other losses take the matrix all
            the same); None: Cholesky of the Gram matrix.
    """

    rows: Solver | None = None

    def solve(self, model: Model, damping: jax.Array) -> tuple[Vector, jax.Array]:
        """Δ', and the decrease of the undamped model, `()`.

        Args:
            model: of a block with few parameters.
            damping: λ, `()`.
        """
        objective, linear = model.objective, model.linear
        jacobian = linear.jacobian()
        p = jacobian.shape[1]
        curved = objective.curve_all(linear.current.prediction, jacobian)
        gram = lax.dot_general(jacobian, curved, (((0, 2), (0, 2)), ((), ())), precision=HIGHEST)
        eye = jnp.eye(p, dtype=gram.dtype)
        # Below this share of its mean diagonal the Gram matrix holds nothing but rounding.
        floor = p * float(jnp.finfo(gram.dtype).eps)
        decays = _of_each(model, model.decays)
        shift = positive(jnp.maximum(damping, floor) * (jnp.trace(gram) + jnp.sum(decays)) / p)
        gram = 0.5 * (gram + gram.T) + decays[:, None] * _penalty(model, eye)
        right = -flatten(model.gradient)
        if self.rows is not None and objective.loss.quadratic:
            x = _by_rows(self.rows, model, jacobian, shift)
        else:
            x = linalg.solve(gram + shift * eye, right)
        decrease = jnp.dot(right, x) - 0.5 * jnp.dot(x, matmul(gram, x))
        return unflatten(x, model.gradient), decrease


def _of_each(model, numbers):
    """One number for each layer of the block as one for each parameter, `(p,)`."""
    return flatten([jnp.full_like(part, number) for number, part in zip(numbers, model.gradient, strict=True)])


def _penalty(model, eye):
    """`TᵀT` of all the block's parameters, `(p, p)`."""
    if model.linear.scaling is None:
        return eye
    outputs = model.gradient[0].shape[1]
    first = jnp.kron(model.linear.scaling.square().matrix(), jnp.eye(outputs, dtype=eye.dtype))
    return eye.at[: first.shape[0], : first.shape[0]].set(first)


def _by_rows(solver, model, jacobian, shift):
    """For squared error: the rows of the Jacobian, and those of the decay below them."""
    objective, linear = model.objective, model.linear
    k, p, n = jacobian.shape
    root = jnp.sqrt(objective.rows.omega * (2.0 / k))[None, :]
    rows = jnp.moveaxis(root[:, None] * jacobian, 1, 2).reshape(k * n, p)
    right = (root * (objective.rows.targets_in_units.T - linear.current.prediction)).reshape(k * n)
    basis = jax.vmap(lambda row: flatten(linear.to_params(unflatten(row, model.gradient))))(
        jnp.eye(p, dtype=rows.dtype)
    )
    decay = jnp.sqrt(_of_each(model, model.decays))
    rows = jnp.concatenate([rows, decay[:, None] * basis.T])
    right = jnp.concatenate([right, -decay * flatten(list(linear.params))])
    # The ridge of a solver is relative to the mean square of the columns.
    mean = jnp.sum(jnp.square(rows)) / p
    return solver(rows, right, shift / positive(mean))
