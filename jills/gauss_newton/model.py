"""The objective of a step, and its damped quadratic model in a block of layers: gradient and Gauss–Newton products.

    minimise over Δ:  gᵀΔ + ½ Δᵀ (G + δI + λDI) Δ,  with g here the gradient of the whole objective

The equations stand in `jills.gauss_newton`. A `Model` knows `g` and how `G + δI` multiplies; what solves it is
in `dense` and `iterative`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import activations
from jills.batches import uniform_weights
from jills.gauss_newton import linearization
from jills.gauss_newton.block import LinearBlock
from jills.gauss_newton.coordinates import Scaling
from jills.gauss_newton.linearization import Block, Pass
from jills.linalg import Vector, add, dot, matmul
from jills.losses import Loss
from jills.network import Network
from jills.types import Batch


class Rows(NamedTuple):
    """A prepared batch, with what is known of it before any step."""

    inputs: jax.Array  # (n, d)
    targets: jax.Array  # (n, k)
    weights: jax.Array | None  # (n,), sum 1; None: all alike
    omega: jax.Array  # ω, (n,), the weights in any case
    scaling: Scaling  # of the inputs
    scaled_inputs: jax.Array  # A' of the first layer, (d + 1, n)

    @classmethod
    def of(cls, batch: Batch) -> "Rows":
        """Those of a prepared batch."""
        inputs, omega = batch.inputs.T, uniform_weights(batch)
        scaling = Scaling.of(inputs, omega)
        return cls(*batch, omega, scaling, scaling.below(linearization.with_ones(inputs)))


class Objective(NamedTuple):
    """`loss + ½ δ ‖θ‖²` on a batch; its arrays are features × rows, as everywhere in this wing."""

    network: Network
    loss: Loss
    rows: Rows
    decay: jax.Array  # δ, ()

    def forward(self, matrices: Sequence[jax.Array]) -> Pass:
        """The forward pass of parameters `θ^l`."""
        return linearization.forward(self.network, matrices, self.rows.inputs.T)

    def loss_of(self, prediction: jax.Array) -> jax.Array:
        """The loss of a prediction `(k, n)`, `()`."""
        return self.loss(prediction.T, self.rows.targets, self.rows.weights)

    def penalty(self, matrices: Sequence[jax.Array]) -> jax.Array:
        """`½ δ ‖θ‖²`, `()`."""
        squares = dot(list(matrices), list(matrices))
        # Not where δ = 0: squares of a diverged trial may overflow, and 0 · inf is NaN.
        return jnp.where(self.decay > 0, 0.5 * self.decay * squares, jnp.zeros_like(squares))

    def slope(self, prediction: jax.Array) -> jax.Array:
        """`ω_n ∂ loss_n / ∂ h_n`, `(k, n)`."""
        return self._weigh(self.loss.gradient(prediction.T, self.rows.targets).T)

    def curve(self, prediction: jax.Array, vectors: jax.Array) -> jax.Array:
        """`ω_n Λ_n v_n`, all `(k, n)`."""
        return self._weigh(self.loss.curvature_product(prediction.T, self.rows.targets, vectors.T).T)

    def curve_all(self, prediction: jax.Array, sensitivity: jax.Array) -> jax.Array:
        """`ω_n Λ_n S_n` for `S` `(k, j, n)`."""
        return jax.vmap(lambda part: self.curve(prediction, part), in_axes=1, out_axes=1)(sensitivity)

    def _weigh(self, values):
        """`ω_n v_n` for `(k, n)`, and zero in rows of weight zero, whatever they hold."""
        omega = self.rows.omega[None, :]
        return jnp.where(omega > 0, omega * values, jnp.zeros_like(values))

    def is_quadratic(self, block: Block) -> bool:
        """Whether it is exactly quadratic in a block: the output layer, identity and squared error."""
        top = self.network.num_layers - 1
        return block == (top, top) and self.loss.quadratic and self.network.output == activations.identity

    def num_params(self, block: Block) -> int:
        """How many parameters a block has."""
        sizes = self.network.sizes
        return sum((sizes[i] + 1) * sizes[i + 1] for i in range(block[0], block[1] + 1))

    def linearize(self, block: Block, matrices: Sequence[jax.Array], current: Pass) -> LinearBlock:
        """The network linearised in a block at parameters `θ^l`, from their forward pass."""
        # Inputs may come in any units; and an exact solve must not drown in rounding where activations can be huge.
        first, scaling, below = block[0], None, current.below
        if first == 0:
            scaling, below = self.rows.scaling, (self.rows.scaled_inputs, *below[1:])
        elif self.is_quadratic(block) and not np.all(np.isfinite(self.network.activations[first - 1].range)):
            scaling = Scaling.of(below[first][:-1], self.rows.omega)
            below = (*below[:first], scaling.below(below[first]), *below[first + 1 :])
        return LinearBlock(block, tuple(matrices), current._replace(below=below), scaling)

    def gradient_norm(self, matrices: Sequence[jax.Array], current: Pass) -> jax.Array:
        """`‖∂ objective / ∂ θ‖` over all layers, `()`."""
        top = len(matrices) - 1
        cotangents = linearization.backward(matrices, current.slopes, (0, top), self.slope(current.prediction))
        gradient = [
            matmul(below, one.T) + self.decay * matrix
            for below, one, matrix in zip(current.below, cotangents, matrices, strict=True)
        ]
        return jnp.sqrt(dot(gradient, gradient))


class Model(NamedTuple):
    """The objective to second order in a block's scaled parameters Δ', by its Gauss–Newton matrix G."""

    objective: Objective
    linear: LinearBlock  # J
    sensitivity: Vector | None  # S^l, (n_l, n) each, where there is one output
    gradient: Vector  # of the objective in Δ'

    @classmethod
    def of(cls, objective: Objective, block: Block, matrices: Sequence[jax.Array], current: Pass) -> "Model":
        """That at parameters `θ^l` of all layers, from their forward pass."""
        linear = objective.linearize(block, matrices, current)
        slope, sensitivity = objective.slope(current.prediction), one_sensitivity(linear)
        fall = linear.vjp(slope) if sensitivity is None else linear.gather([one * slope for one in sensitivity])
        decay = linear.transposed([objective.decay * matrix for matrix in linear.params])
        return cls(objective, linear, sensitivity, [g + d for g, d in zip(fall, decay, strict=True)])

    @property
    def is_quadratic(self) -> bool:
        """Whether the objective itself is this model."""
        return self.objective.is_quadratic(self.linear.block)

    @property
    def num_params(self) -> int:
        """How many there are in the block."""
        return sum(part.size for part in self.gradient)

    def roots(self) -> Vector | None:
        """`(ω Λ)^½ S` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
        return None if self.sensitivity is None else roots_of(self.objective, self.linear, self.sensitivity)

    def product(self, change: Vector, shift: jax.Array, roots: Vector | None, penalty: jax.Array | None) -> Vector:
        """`(G + δ TᵀT + shift I) Δ'`.

        Args:
            change: Δ'.
            shift: `()`.
            roots: `roots()`, taken once for all products.
            penalty: `penalty()`, likewise.
        """
        linear, decay = self.linear, self.objective.decay
        if roots is not None:
            response = [
                root * matmul(part.T, below) for below, root, part in zip(linear.below, roots, change, strict=True)
            ]
            total = add([jnp.sum(part, axis=0, keepdims=True) for part in response])
            curved = linear.gather([root * total for root in roots])
        else:
            curved = linear.vjp(self.objective.curve(linear.current.prediction, linear.jvp(change)))
        if penalty is None:
            return [c + (shift + decay) * part for c, part in zip(curved, change, strict=True)]
        first = curved[0] + matmul(penalty, change[0]) + shift * change[0]
        others = zip(curved[1:], change[1:], strict=True)
        return [first, *(c + (shift + decay) * part for c, part in others)]

    def penalty(self) -> jax.Array | None:
        """`δ TᵀT` of the block's first layer, `(d + 1, d + 1)`; None: it is `δ I`."""
        scaling = self.linear.scaling
        return None if scaling is None else self.objective.decay * scaling.square()


def one_sensitivity(linear: LinearBlock) -> Vector | None:
    """`S^l` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
    prediction = linear.current.prediction
    return linear.backward(jnp.ones_like(prediction)) if prediction.shape[0] == 1 else None


def roots_of(objective: Objective, linear: LinearBlock, sensitivity: Vector) -> Vector:
    """`(ω Λ)^½ S` of one output."""
    prediction = linear.current.prediction
    curved = jnp.sqrt(jnp.maximum(objective.curve(prediction, jnp.ones_like(prediction)), 0.0))
    return [one * curved for one in sensitivity]
