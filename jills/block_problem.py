"""The damped linear least-squares problem of a block of layers; private to `jills.gauss_newton`.

    minimise over Δ:  gᵀΔ + ½ Δᵀ (G + δI + λDI) Δ,  with g here the gradient of the whole objective

The equations and the three ways to solve it stand in `jills.gauss_newton`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills import activations, kronecker, linearization
from jills.conjugate_gradients import ConjugateGradients, Vector, dot, sum_of
from jills.kronecker import Factors
from jills.linearization import Block, Pass, times
from jills.losses import Loss
from jills.network import Network
from jills.scaling import Scaling
from jills.solvers import Solver
from jills.types import Batch
from jills.view import View

MOST_DENSE_ENTRIES = 2**24  # of the dense Jacobian of a block: 64 MB in float32


class Trial(NamedTuple):
    """A block's proposed change."""

    change: Vector  # Δ, one matrix a layer of the block
    decrease: jax.Array  # () of the objective, as the undamped model predicts it
    gradient: Vector  # of the objective
    products: jax.Array  # () int32, conjugate-gradient products


class Curvature(NamedTuple):
    """What the solves of a step share of a layer's Gauss–Newton matrix."""

    factors: Factors  # the inverse of its Kronecker approximation, damped
    trace: jax.Array  # () of the matrix; scales the damping


def blank_curvatures(network: Network, dtype) -> dict[int, Curvature]:
    """The curvature of every layer, by its number, before anything is known of it."""
    zeros = lambda size: jnp.zeros((size, size), dtype)  # noqa: E731
    pairs = enumerate(pairwise(network.sizes))
    return {i: Curvature(Factors(zeros(below + 1), zeros(above)), jnp.zeros((), dtype)) for i, (below, above) in pairs}


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

    def loss_of(self, prediction: jax.Array) -> jax.Array:
        """The loss of a prediction `(k, n)`, `()`."""
        return self.loss(prediction.T, self.batch.targets, self.batch.weights)

    def penalty(self, matrices: Sequence[jax.Array]) -> jax.Array:
        """`½ δ ‖θ‖²`, `()`."""
        squares = dot(list(matrices), list(matrices))
        # Not where δ = 0: squares of a diverged trial may overflow, and 0 · inf is NaN.
        return jnp.where(self.decay > 0, 0.5 * self.decay * squares, jnp.zeros_like(squares))

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

    def takes_curvatures(self, block: Block) -> bool:
        """Whether conjugate gradients solve a block with `curvatures` that steps or blocks may share."""
        return not self.is_dense(block) and not self.is_quadratic(block)

    @cached_property
    def inputs(self) -> tuple[Scaling, jax.Array]:
        """The scaling of the inputs, and `A'` of the first layer."""
        inputs = self.batch.inputs.T
        scaling = Scaling.of(inputs, self.weights)
        return scaling, scaling.below(linearization.with_ones(inputs))

    def view(self, block: Block, matrices: Sequence[jax.Array], current: Pass) -> View:
        """The network linearised in a block."""
        # Inputs may come in any units; and an exact solve must not drown in rounding where activations can be huge.
        first, scaling, below = block[0], None, current.below
        if first == 0:
            scaling, scaled = self.inputs
            below = (scaled, *below[1:])
        elif self.is_quadratic(block) and not np.all(np.isfinite(self.network.activations[first - 1].image)):
            scaling = Scaling.of(below[first][:-1], self.weights)
            below = (*below[:first], scaling.below(below[first]), *below[first + 1 :])
        return View(block, tuple(matrices), current._replace(below=below), scaling)

    def curvatures(
        self,
        block: Block,
        matrices: Sequence[jax.Array],
        current: Pass,
        dampings: Sequence[jax.Array],
        known: dict[int, Curvature] | None = None,
        renew: jax.Array | bool = True,
    ) -> dict[int, Curvature]:
        """The curvature of each layer of a block for its damping `λ`, by the number of the layer.

        Args:
            block: first and last layer.
            matrices: `θ^l` of all layers.
            current: their forward pass.
            dampings: `λ` of each layer of the block.
            known: what was found before; None: nothing.
            renew: whether to take it anew, `()` bool; else what is known stays.
        """
        view = self.view(block, matrices, current)
        take = lambda: self._curvatures(view, self._roots(view, self._sensitivity(view)), dampings)  # noqa: E731
        return take() if known is None else lax.cond(renew, take, lambda: known)

    def _curvatures(self, view, roots, dampings):
        moments = self._moments(view, roots)
        tiny = float(jnp.finfo(self.decay.dtype).tiny) ** 0.5
        mean = sum_of([moment.trace for moment in moments]) / sum(matrix.size for matrix in view.own) + self.decay
        shifts = [damping * mean + self.decay + tiny for damping in dampings]
        factors = kronecker.factors(moments, shifts)
        traces = [moment.trace for moment in moments]
        return {view.block[0] + i: Curvature(*pair) for i, pair in enumerate(zip(factors, traces, strict=True))}

    def solve(
        self,
        block: Block,
        matrices: Sequence[jax.Array],
        current: Pass,
        damping: jax.Array,
        curvatures: dict[int, Curvature] | None = None,
        guess: Vector | None = None,
    ) -> Trial:
        """The change of a block for damping `λ`, `()`; where it is exactly quadratic, undamped whatever λ is.

        Args:
            block: first and last layer.
            matrices: `θ^l` of all layers.
            current: their forward pass.
            damping: `λ`.
            curvatures: of the block's layers, perhaps of slightly older parameters; None: taken anew.
            guess: a change that conjugate gradients start from.
        """
        view = self.view(block, matrices, current)
        slope = self._weigh(self.loss.gradient(current.prediction.T, self.batch.targets).T)
        sensitivity = self._sensitivity(view)
        fall = view.gather(view.carry_down(slope) if sensitivity is None else [one * slope for one in sensitivity])
        decay = view.transposed([self.decay * matrix for matrix in view.own])
        gradient = [g + d for g, d in zip(fall, decay, strict=True)]
        if self.is_dense(block) and not self.is_quadratic(block):
            change, decrease, products = self._direct(view, gradient, damping)
        else:
            roots = self._roots(view, sensitivity)
            change, decrease, products = self._iterate(view, roots, gradient, damping, curvatures, guess)
        return Trial(view.to_params(change), decrease, view.unscaled(gradient), products)

    def _sensitivity(self, view):
        """`S` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
        return view.carry_down(jnp.ones_like(view.current.prediction)) if self.network.sizes[-1] == 1 else None

    def _roots(self, view, sensitivity):
        """`(ω Λ)^½ S` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
        if sensitivity is None:
            return None
        prediction = view.current.prediction
        curved = jnp.sqrt(jnp.maximum(self._curve(prediction, jnp.ones_like(prediction)), 0.0))
        return [one * curved for one in sensitivity]

    def _weigh(self, values):
        """`ω_n v_n` for `(k, n)`, and zero in rows of weight zero, whatever they hold."""
        return jnp.where(self.weights[None, :] > 0, self.weights[None, :] * values, jnp.zeros_like(values))

    def _curve(self, prediction, vectors):
        """`ω_n Λ_n v_n`, all `(k, n)`."""
        return self._weigh(self.loss.curvature_product(prediction.T, self.batch.targets, vectors.T).T)

    def _curve_all(self, prediction, sensitivity):
        """`ω_n Λ_n S_n` for `S` `(k, j, n)`."""
        return jax.vmap(lambda part: self._curve(prediction, part), in_axes=1, out_axes=1)(sensitivity)

    def _iterate(self, view, roots, gradient, damping, curvatures, guess):
        eps = float(jnp.finfo(self.decay.dtype).eps)
        wide, exact = self.wide, self.is_quadratic(view.block)
        if exact:
            # Its factors are exact up to rounding, and a few products reach it. Where units are collinear or dead
            # the Gram matrix holds only rounding: without a floor parameters of 1e14 come of it.
            wide, damping, curvatures = ConjugateGradients(12, 1e3 * eps), jnp.full_like(self.decay, eps), None
        if curvatures is None:
            curvatures = self._curvatures(view, roots, [damping] * len(gradient))
        own = [curvatures[layer] for layer in range(view.block[0], view.block[1] + 1)]
        mean = sum_of([one.trace for one in own]) / sum(part.size for part in gradient) + self.decay
        shift = damping * mean
        penalty = None if view.scaling is None else self.decay * view.scaling.square()

        def product(change):
            if roots is not None:
                response = [
                    root * times(part.T, below) for below, root, part in zip(view.below, roots, change, strict=True)
                ]
                total = sum_of([jnp.sum(part, axis=0, keepdims=True) for part in response])
                curved = view.gather([root * total for root in roots])
            else:
                curved = view.gather(view.carry_down(self._curve(view.current.prediction, view.push(change))))
            if penalty is None:
                return [c + (shift + self.decay) * part for c, part in zip(curved, change, strict=True)]
            first = curved[0] + times(penalty, change[0]) + shift * change[0]
            others = zip(curved[1:], change[1:], strict=True)
            return [first, *(c + (shift + self.decay) * part for c, part in others)]

        def precondition(residual):
            return [one.factors(part) for one, part in zip(own, residual, strict=True)]

        guess = None if guess is None else view.from_params(guess)
        found = wide.solve(product, [-part for part in gradient], precondition, guess)
        # Of the undamped model, −gᵀx − ½ xᵀGx, where (G + shift) x = −g − r.
        squares = shift * dot(found.x, found.x)
        decrease = 0.5 * (dot(found.residual, found.x) - dot(gradient, found.x) + squares)
        return found.x, decrease, found.steps

    def _moments(self, view, roots):
        """Γ, Σ and the trace of every layer of the block, from some of the rows where there are many."""
        k, n = view.current.prediction.shape
        few = kronecker.rows_for_sigma(n, k)
        passing, part = view.current, self
        if few is not None:
            batch = Batch(self.batch.inputs[few], self.batch.targets[few])
            part = replace(self, batch=batch, weights=self.weights[few])
            passing = jax.tree.map(lambda leaf: leaf[:, few], view.current)
        if roots is not None:
            sensitivity = [_columns(root, few)[None] for root in roots]
            curved = sensitivity
        else:
            sensitivity = linearization.sensitivities(view.matrices, passing.slopes, view.block)
            curved = [part._curve_all(passing.prediction, one) for one in sensitivity]
        found = []
        for below, one, other in zip(view.below, sensitivity, curved, strict=True):
            many = kronecker.rows_for_gamma(n, below.shape[0])
            weights = self.weights if many is None else self.weights[many]
            found.append(
                kronecker.moments(_columns(below, many), weights, _columns(below, few), one, other, part.weights)
            )
        return found

    def _direct(self, view, gradient, damping):
        sensitivity = linearization.sensitivities(view.matrices, view.current.slopes, view.block)
        dense = linearization.jacobian(view.below, sensitivity)
        p = dense.shape[1]
        curved = self._curve_all(view.current.prediction, dense)
        gram = jnp.sum(times(dense, jnp.swapaxes(curved, 1, 2)), axis=0)
        penalty = eye = jnp.asarray(np.eye(p), gram.dtype)
        if view.scaling is not None:
            outputs = gradient[0].shape[1]
            first = jnp.kron(view.scaling.square(), jnp.eye(outputs, dtype=gram.dtype))
            penalty = penalty.at[: first.shape[0], : first.shape[0]].set(first)
        right = -_flat(gradient)
        # Below this share of its mean diagonal the Gram matrix holds nothing but rounding.
        floor = p * float(jnp.finfo(gram.dtype).eps)
        shift = jnp.maximum(damping, floor) * (jnp.trace(gram) / p + self.decay)
        gram = 0.5 * (gram + gram.T) + self.decay * penalty
        if self.solver is not None and self.loss.quadratic:
            x = self._by_rows(self.solver, view, dense, gradient, shift)
        else:
            tiny = float(jnp.finfo(gram.dtype).tiny) ** 0.5
            x = kronecker.solve(gram + (shift + tiny) * eye, right)
        decrease = jnp.dot(right, x) - 0.5 * jnp.dot(x, times(gram, x))
        return _parts(x, gradient), decrease, jnp.zeros((), jnp.int32)

    def _by_rows(self, solver, view, dense, gradient, shift):
        """The same by a solver of the engine, for squared error: its rows, and those of the decay below them."""
        k, p, n = dense.shape
        root = jnp.sqrt(self.weights * (2.0 / k))[None, :]
        rows = jnp.moveaxis(root[:, None] * dense, 1, 2).reshape(k * n, p)
        right = (root * (self.batch.targets.T - view.current.prediction)).reshape(k * n)
        basis = jax.vmap(lambda row: _flat(view.to_params(_parts(row, gradient))))(jnp.eye(p, dtype=rows.dtype))
        decay = jnp.sqrt(self.decay)
        rows = jnp.concatenate([rows, decay * basis.T])
        right = jnp.concatenate([right, -decay * _flat(view.own)])
        # The ridge of a solver is relative to the mean square of the columns.
        mean = jnp.sum(jnp.square(rows)) / p
        return solver(rows, right, shift / jnp.where(mean > 0, mean, jnp.ones_like(mean)))


def _columns(array, which):
    return array if which is None else array[:, which]


def _flat(vector):
    return jnp.concatenate([part.ravel() for part in vector])


def _parts(flat, like):
    """A flat vector in the shapes of another."""
    ends = np.cumsum([part.size for part in like])[:-1]
    return [piece.reshape(part.shape) for piece, part in zip(jnp.split(flat, ends), like, strict=True)]
