"""The damped linear least-squares problem of a block of layers; private to `jills.gauss_newton`.

    minimise over Δ:  gᵀΔ + ½ Δᵀ (G + δI + λDI) Δ,  with g here the gradient of the whole objective

The equations and the three ways to solve it stand in `jills.gauss_newton`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import activations, kronecker, linearization, solvers
from jills.conjugate_gradients import ConjugateGradients, Iterate, Vector, dot
from jills.linearization import Block, Pass, times
from jills.losses import Loss
from jills.network import Network
from jills.solvers import Solver
from jills.types import Batch

MOST_DENSE_ENTRIES = 2**24  # of the dense Jacobian of a block: 64 MB in float32


class Trial(NamedTuple):
    """A block's proposed change."""

    change: Vector  # Δ, one matrix a layer of the block
    decrease: jax.Array  # () of the objective, as the undamped model predicts it
    gradient: Vector  # of the objective
    products: jax.Array  # () int32, conjugate-gradient products


class Scaling(NamedTuple):
    """The first layer in centred and scaled inputs: `A' = [(x − m) / s, 1] = A T`, so `Δ = T Δ'`."""

    mean: jax.Array  # (d,) m
    scale: jax.Array  # (d,) s

    @classmethod
    def of(cls, inputs: jax.Array, weights: jax.Array) -> "Scaling":
        """Mean and standard deviation by weight; a constant column keeps its size."""
        mean = times(weights, inputs)
        # By the largest entry first: squares of 1e20 overflow float32.
        used = jnp.where(weights[:, None] > 0, jnp.abs(inputs - mean[None, :]), jnp.zeros_like(inputs))
        largest = jnp.max(used, axis=0)
        constant = largest <= 8 * jnp.finfo(inputs.dtype).eps * jnp.abs(mean)
        size = jnp.where(constant, jnp.maximum(jnp.abs(mean), float(jnp.finfo(inputs.dtype).tiny)), largest)
        spread = size * jnp.sqrt(times(weights, jnp.square(used / size[None, :])))
        return cls(mean, jnp.where(constant, jnp.where(size > 1e-30, size, jnp.ones_like(size)), spread))

    def rows(self, rows: jax.Array) -> jax.Array:
        """`A'` from `A`."""
        scaled = (rows[:, :-1] - self.mean[None, :]) / self.scale[None, :]
        return jnp.concatenate([scaled, rows[:, -1:]], axis=1)

    def to_params(self, change: jax.Array) -> jax.Array:
        """`T Δ'`."""
        weight = change[:-1] / self.scale[:, None]
        return jnp.concatenate([weight, change[-1:] - times(self.mean[None, :], weight)])

    def transposed(self, vector: jax.Array) -> jax.Array:
        """`Tᵀ v`."""
        return jnp.concatenate([(vector[:-1] - self.mean[:, None] * vector[-1:]) / self.scale[:, None], vector[-1:]])

    def gradient(self, scaled: jax.Array) -> jax.Array:
        """The gradient in the parameters from that in Δ': `T⁻ᵀ g'`."""
        return jnp.concatenate([self.scale[:, None] * scaled[:-1] + self.mean[:, None] * scaled[-1:], scaled[-1:]])


class View(NamedTuple):
    """A network linearised in a block, in scaled coordinates Δ'."""

    block: Block
    matrices: tuple[jax.Array, ...]  # θ^l of all layers
    current: Pass  # its rows of the first layer are scaled, where the block has that layer
    scaling: Scaling | None  # None: the block does not have it

    @property
    def rows(self) -> tuple[jax.Array, ...]:
        """`A^l` of the block's layers."""
        return self.current.rows[self.block[0] : self.block[1] + 1]

    def push(self, change: Vector) -> jax.Array:
        """The change of the prediction, `(n, k)`."""
        return linearization.push(self.matrices, self.rows, self.current.slopes, self.block, change)

    def carry_down(self, weights: jax.Array) -> Vector:
        """Weights of the predictions, `(n, k)`, as weights of each layer's total inputs, `(n, n_l)`."""
        return linearization.carry_down(self.matrices, self.current.slopes, self.block, weights)

    def pull(self, weights: jax.Array) -> Vector:
        """The transpose of `push`, from `(n, k)`."""
        return [times(rows.T, root) for rows, root in zip(self.rows, self.carry_down(weights), strict=True)]

    def to_params(self, change: Vector) -> Vector:
        """`Δ = T Δ'`."""
        return change if self.scaling is None else [self.scaling.to_params(change[0]), *change[1:]]

    def transposed(self, vector: Vector) -> Vector:
        """`Tᵀ v`."""
        return vector if self.scaling is None else [self.scaling.transposed(vector[0]), *vector[1:]]

    def unscaled(self, gradient: Vector) -> Vector:
        """The gradient in the parameters, `T⁻ᵀ g'`."""
        return gradient if self.scaling is None else [self.scaling.gradient(gradient[0]), *gradient[1:]]


@dataclass(frozen=True)
class BlockProblem:
    """What is common to the blocks of one step. Holds arrays; lives inside one trace.

    Attributes:
        network: of L layers.
        loss: gives gradient and curvature in the output.
        batch: prepared.
        weights: `ω`, `(n,)`, sum 1.
        decay: `δ`, `()`.
        solver: for dense blocks; None: the Gram matrix by Cholesky.
        wide: for other blocks.
        dense_limit: the most parameters of a dense block.
    """

    network: Network
    loss: Loss
    batch: Batch
    weights: jax.Array
    decay: jax.Array
    solver: Solver | None
    wide: ConjugateGradients
    dense_limit: int

    def objective(self, matrices: Sequence[jax.Array], prediction: jax.Array) -> jax.Array:
        """`loss + ½ δ ‖θ‖²`, `()`."""
        squares = jnp.sum(jnp.stack([jnp.sum(jnp.square(matrix)) for matrix in matrices]))
        # Not where δ = 0: squares of a diverged trial may overflow, and 0 · inf is NaN.
        decay = jnp.where(self.decay > 0, 0.5 * self.decay * squares, jnp.zeros_like(squares))
        return self.loss(prediction, self.batch.targets, self.batch.weights) + decay

    def is_quadratic(self, block: Block) -> bool:
        """Whether the objective is exactly quadratic in a block: the output layer, identity and squared error."""
        top = self.network.num_layers - 1
        return block == (top, top) and self.loss.quadratic and self.network.output == activations.identity

    def is_dense(self, block: Block) -> bool:
        """Whether a block is small enough for its dense matrix."""
        sizes = self.network.sizes
        params = sum((sizes[i] + 1) * sizes[i + 1] for i in range(block[0], block[1] + 1))
        entries = self.batch.inputs.shape[0] * sizes[-1] * params
        return params <= self.dense_limit and entries <= MOST_DENSE_ENTRIES

    def solve(self, block: Block, matrices: Sequence[jax.Array], current: Pass, damping: jax.Array) -> Trial:
        """The change of a block for damping `λ`, `()`; where it is exactly quadratic, undamped whatever λ is."""
        scaling = Scaling.of(self.batch.inputs, self.weights) if block[0] == 0 else None
        rows = current.rows if scaling is None else (scaling.rows(current.rows[0]), *current.rows[1:])
        view = View(block, tuple(matrices), current._replace(rows=rows), scaling)
        slope = self._weighed(self.loss.gradient(current.prediction, self.batch.targets))
        own = matrices[block[0] : block[1] + 1]
        decay = view.transposed([self.decay * matrix for matrix in own])
        gradient = [g + d for g, d in zip(view.pull(slope), decay, strict=True)]
        if self.is_dense(block) and not self.is_quadratic(block):
            change, decrease, products = self._direct(view, gradient, damping)
        else:
            change, decrease, products = self._iterate(view, gradient, damping)
        return Trial(view.to_params(change), decrease, view.unscaled(gradient), products)

    def _weighed(self, values):
        """`ω_n v_n`, and zero in rows of weight zero, whatever they hold."""
        return jnp.where(self.weights[:, None] > 0, self.weights[:, None] * values, jnp.zeros_like(values))

    def _curve(self, vectors):
        """`v → ω_n Λ_n v_n` at the prediction of a pass."""
        return lambda prediction: self._weighed(self.loss.curvature_product(prediction, self.batch.targets, vectors))

    def _iterate(self, view, gradient, damping):
        roots = self._roots(view) if self.network.sizes[-1] == 1 else None
        moments = self._moments(view, roots)
        sizes = [part.size for part in gradient]
        mean = sum(moment.trace for moment in moments) / sum(sizes) + self.decay
        shift = damping * mean
        tiny = float(jnp.finfo(shift.dtype).tiny) ** 0.5
        factors = [kronecker.factors(moment, shift + self.decay + tiny) for moment in moments]

        def product(change):
            curved = self._gauss_newton(view, roots, change)
            return [c + shift * part for c, part in zip(curved, change, strict=True)]

        def precondition(residual):
            return [factor(part) for factor, part in zip(factors, residual, strict=True)]

        wide = self.wide
        if self.is_quadratic(view.block):
            # The factors are then exact up to rounding, and a few products reach it.
            wide = ConjugateGradients(12, 1e3 * float(jnp.finfo(shift.dtype).eps))
            shift = jnp.zeros_like(shift)
        found = wide.solve(product, [-part for part in gradient], precondition)
        # Of the undamped model, −gᵀx − ½ xᵀGx, where (G + shift) x = −g − r.
        squares = shift * dot(found.x, found.x)
        decrease = 0.5 * (dot(found.residual, found.x) - dot(gradient, found.x) + squares)
        return found.x, decrease, found.steps

    def _gauss_newton(self, view, roots, change):
        """`(G + δ TᵀT) Δ'`."""
        if roots is not None:
            response = sum(
                jnp.sum(root * times(rows, part), axis=1, keepdims=True)
                for rows, root, part in zip(view.rows, roots, change, strict=True)
            )
            curved = [times(rows.T, root * response) for rows, root in zip(view.rows, roots, strict=True)]
        else:
            curved = view.pull(self._curve(view.push(change))(view.current.prediction))
        decay = view.transposed([self.decay * part for part in view.to_params(change)])
        return [c + d for c, d in zip(curved, decay, strict=True)]

    def _roots(self, view):
        """With one output: `√(ω Λ) S^l`, so that `G` is the sum of the outer squares of `A^l_n ⊗` these."""
        curved = self._curve(jnp.ones_like(view.current.prediction))(view.current.prediction)
        return view.carry_down(jnp.sqrt(jnp.maximum(curved, 0.0)))

    def _moments(self, view, roots):
        """Γ, Σ and the trace of every layer of the block, from at most `MOST_ROWS` rows × outputs."""
        n, k = view.current.prediction.shape
        few = kronecker.some_rows(n, max(256, kronecker.MOST_ROWS // k))
        many = kronecker.some_rows(n, kronecker.MOST_ROWS)
        weights = self.weights if few is None else self.weights[few]
        if roots is not None:
            sensitivity = [root[:, None, :] if few is None else root[few][:, None, :] for root in roots]
            curved = sensitivity
        else:
            part = self if few is None else replace(self, batch=_take(self.batch, few), weights=weights)
            passing = view.current if few is None else jax.tree.map(lambda leaf: leaf[few], view.current)
            sensitivity = linearization.sensitivities(view.matrices, passing.slopes, view.block)
            curved = [part._curve_all(passing.prediction, s) for s in sensitivity]
        found = []
        for rows, s, c in zip(view.rows, sensitivity, curved, strict=True):
            below = rows if many is None else rows[many]
            total = self.weights if many is None else self.weights[many]
            found.append(kronecker.moments(below, total, rows if few is None else rows[few], s, c, weights))
        return found

    def _curve_all(self, prediction, sensitivity):
        """`ω_n Λ_n S_n` for `S` `(n, k, j)`, column by column."""
        columns = jnp.moveaxis(sensitivity, 2, 0)
        curved = jax.vmap(lambda column: self._curve(column)(prediction))(columns)
        return jnp.moveaxis(curved, 0, 2)

    def _direct(self, view, gradient, damping):
        sensitivity = linearization.sensitivities(view.matrices, view.current.slopes, view.block)
        dense = linearization.jacobian(view.rows, sensitivity)
        n, k, p = dense.shape
        curved = self._curve_all(view.current.prediction, dense).reshape(n * k, p)
        gram = times(dense.reshape(n * k, p).T, curved)
        penalty = jax.vmap(lambda row: _flat(view.transposed(view.to_params(_parts(row, gradient)))))(
            jnp.eye(p, dtype=gram.dtype)
        )
        gram = 0.5 * (gram + gram.T) + self.decay * penalty
        right = -_flat(gradient)
        # Below this share of its mean diagonal the Gram matrix holds nothing but rounding.
        floor = p * float(jnp.finfo(gram.dtype).eps)
        shift = jnp.maximum(damping, floor) * jnp.trace(gram) / p
        if self.solver is not None and self.loss.quadratic:
            x = self._by_rows(view, dense, gradient, damping)
        else:
            tiny = float(jnp.finfo(gram.dtype).tiny) ** 0.5
            x = kronecker.solve(gram + (shift + tiny) * jnp.eye(p, dtype=gram.dtype), right)
        decrease = jnp.dot(right, x) - 0.5 * jnp.dot(x, times(gram, x))
        return _parts(x, gradient), decrease, jnp.zeros((), jnp.int32)

    def _by_rows(self, view, dense, gradient, damping):
        """The same by a solver of the engine, for squared error: its rows, and those of the decay below them."""
        n, k, p = dense.shape
        solver = solvers.qr if self.solver is None else self.solver
        root = jnp.sqrt(self.weights * (2.0 / k))[:, None]
        rows = (root[:, :, None] * dense).reshape(n * k, p)
        right = (root * (self.batch.targets - view.current.prediction)).reshape(n * k)
        own = view.matrices[view.block[0] : view.block[1] + 1]
        basis = jax.vmap(lambda row: _flat(view.to_params(_parts(row, gradient))))(jnp.eye(p, dtype=rows.dtype))
        decay = jnp.sqrt(self.decay)
        rows = jnp.concatenate([rows, decay * basis.T])
        right = jnp.concatenate([right, -decay * _flat(list(own))])
        return solver(rows, right, damping)


def _flat(vector):
    return jnp.concatenate([part.ravel() for part in vector])


def _parts(flat, like):
    """A flat vector in the shapes of another."""
    ends = np.cumsum([part.size for part in like])[:-1]
    return [piece.reshape(part.shape) for piece, part in zip(jnp.split(flat, ends), like, strict=True)]


def _take(batch, rows):
    return Batch(batch.inputs[rows], batch.targets[rows])
