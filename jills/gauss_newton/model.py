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

from jills import activations, linearization
from jills.gauss_newton import kronecker
from jills.gauss_newton.block import LinearBlock
from jills.gauss_newton.coordinates import Scaling
from jills.gauss_newton.kronecker import Factor
from jills.gauss_newton.rows import Rows
from jills.linalg import Vector, add, dot, matmul
from jills.linearization import Block, Pass
from jills.losses import Loss
from jills.network import Network


def has_units(network: Network, loss: Loss) -> bool:
    """Whether predictions are in the units of the targets, and proportional to the output layer's parameters."""
    return loss.in_units is not None and network.output == activations.identity


def is_quadratic(network: Network, loss: Loss, block: Block) -> bool:
    """Whether a loss is exactly quadratic in a block: the output layer, identity and squared error."""
    top = network.num_layers - 1
    return block == (top, top) and loss.quadratic and network.output == activations.identity


class Objective(NamedTuple):
    """`loss + ½ δ ‖θ‖²` on a batch; its arrays are features × rows, as everywhere in this wing.

    With a unit s of the targets everything is in it: predictions and targets over s, the parameters of the output
    layer θ^L / s, the objective over s². So no floor and no damping depends on the units that the targets came in.
    """

    network: Network
    loss: Loss  # in units of the targets
    rows: Rows
    decay: jax.Array  # δ, ()

    @classmethod
    def of(cls, network: Network, loss: Loss, rows: Rows, decay: jax.Array) -> "Objective":
        """That of a loss as it is; the unit is that of the rows."""
        loss = loss if rows.unit is None or loss.in_units is None else loss.in_units(rows.unit)
        return cls(network, loss, rows, decay)

    def forward(self, matrices: Sequence[jax.Array]) -> Pass:
        """The forward pass of parameters `θ^l`."""
        return linearization.forward(self.network, matrices, self.rows.with_ones)

    def in_units(self, matrices: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """`θ^l` of all layers, that of the output layer over s; also for changes."""
        unit = self.rows.unit
        return tuple(matrices) if unit is None else (*matrices[:-1], matrices[-1] / unit)

    def out_of_units(self, matrices: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """The inverse of `in_units`."""
        unit = self.rows.unit
        return tuple(matrices) if unit is None else (*matrices[:-1], matrices[-1] * unit)

    def true(self, value: jax.Array) -> jax.Array:
        """A loss or objective as it is without units."""
        return value if self.rows.unit is None else value * jnp.square(self.rows.unit)

    @property
    def decays(self) -> tuple[jax.Array, ...]:
        """`δ` of each layer: the output layer's parameters have the unit of the targets, those of others none."""
        unit, layers = self.rows.unit, self.network.num_layers
        if unit is None:
            return (self.decay,) * layers
        return (*((self.decay / jnp.square(unit),) * (layers - 1)), self.decay)

    def loss_of(self, prediction: jax.Array) -> jax.Array:
        """The loss of a prediction `(k, n)`, `()`."""
        return self.loss(prediction.T, self.rows.targets_in_units, self.rows.weights)

    def penalty(self, matrices: Sequence[jax.Array]) -> jax.Array:
        """`½ Σ_l δ_l ‖θ^l‖²`, `()`."""
        squares = 0.5 * add([decay * dot([one], [one]) for decay, one in zip(self.decays, matrices, strict=True)])
        # Not where δ = 0: squares of a diverged trial may overflow, and 0 · inf is NaN.
        return jnp.where(self.decay > 0, squares, jnp.zeros_like(squares))

    def slope(self, prediction: jax.Array) -> jax.Array:
        """`ω_n ∂ loss_n / ∂ h_n`, `(k, n)`."""
        return self._weigh(self.loss.gradient(prediction.T, self.rows.targets_in_units).T)

    def curve(self, prediction: jax.Array, vectors: jax.Array) -> jax.Array:
        """`ω_n Λ_n v_n`, all `(k, n)`."""
        return self._weigh(self.loss.curvature_product(prediction.T, self.rows.targets_in_units, vectors.T).T)

    def curve_all(self, prediction: jax.Array, sensitivity: jax.Array) -> jax.Array:
        """`ω_n Λ_n S_n` for `S` `(k, j, n)`."""
        return jax.vmap(lambda part: self.curve(prediction, part), in_axes=1, out_axes=1)(sensitivity)

    def _weigh(self, values):
        """`ω_n v_n` for `(k, n)`, and zero in rows of weight zero, whatever they hold."""
        omega = self.rows.omega[None, :]
        return jnp.where(omega > 0, omega * values, jnp.zeros_like(values))

    def is_quadratic(self, block: Block) -> bool:
        """Whether it is exactly quadratic in a block."""
        return is_quadratic(self.network, self.loss, block)

    def num_params(self, block: Block) -> int:
        """How many parameters a block has."""
        sizes = self.network.sizes
        return sum((sizes[i] + 1) * sizes[i + 1] for i in range(block[0], block[1] + 1))

    def input_factor(self, linear: LinearBlock, layer: int) -> Factor:
        """A of a layer of a linearised block; exact where the block is exactly quadratic."""
        if layer == 0 and self.rows.moment is not None:
            return self.rows.moment
        below = linear.below[layer - linear.block[0]]
        return kronecker.input_factor(below, self.rows.omega, exact=self.is_quadratic(linear.block))

    def linearize(self, block: Block, matrices: Sequence[jax.Array], current: Pass) -> LinearBlock:
        """The network linearised in a block at parameters `θ^l`, from their forward pass."""
        # Inputs may come in any units; and an exact solve must not drown in rounding where activations can be huge.
        first, scaling, below = block[0], None, current.below
        if first == 0:
            scaling, below = self.rows.scaling, (self.rows.scaled_inputs, *below[1:])
        elif self.is_quadratic(block) and not np.all(np.isfinite(self.network.activations[first - 1].range)):
            scaling = Scaling.of(below[first][:-1], self.rows.omega, exact=True)
            below = (*below[:first], scaling.below(below[first]), *below[first + 1 :])
        return LinearBlock(block, tuple(matrices), current._replace(below=below), scaling)


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
        own = objective.decays[block[0] : block[1] + 1]
        decay = linear.transposed([decay * matrix for decay, matrix in zip(own, linear.params, strict=True)])
        return cls(objective, linear, sensitivity, [g + d for g, d in zip(fall, decay, strict=True)])

    @property
    def is_quadratic(self) -> bool:
        """Whether the objective itself is this model."""
        return self.objective.is_quadratic(self.linear.block)

    @property
    def num_params(self) -> int:
        """How many there are in the block."""
        return sum(part.size for part in self.gradient)

    @property
    def decays(self) -> tuple[jax.Array, ...]:
        """`δ` of the block's layers."""
        first, last = self.linear.block
        return self.objective.decays[first : last + 1]

    def roots(self) -> Vector | None:
        """`(ω Λ)^½ S` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
        return None if self.sensitivity is None else roots_of(self.objective, self.linear, self.sensitivity)

    def product(self, change: Vector, shift: jax.Array, roots: Vector | None) -> Vector:
        """`(G + δ TᵀT + shift I) Δ'`.

        Args:
            change: Δ'.
            shift: `()`.
            roots: `roots()`, taken once for all products.
        """
        linear, decays = self.linear, self.decays
        if roots is not None:
            response = [
                root * matmul(part.T, below) for below, root, part in zip(linear.below, roots, change, strict=True)
            ]
            total = add([jnp.sum(part, axis=0, keepdims=True) for part in response])
            curved = linear.gather([root * total for root in roots])
        else:
            curved = linear.vjp(self.objective.curve(linear.current.prediction, linear.jvp(change)))
        parts = [c + (shift + decay) * part for c, decay, part in zip(curved, decays, change, strict=True)]
        if linear.scaling is not None:
            parts[0] = curved[0] + decays[0] * linear.scaling.square()(change[0]) + shift * change[0]
        return parts


def one_sensitivity(linear: LinearBlock) -> Vector | None:
    """`S^l` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
    prediction = linear.current.prediction
    return linear.backward(jnp.ones_like(prediction)) if prediction.shape[0] == 1 else None


def roots_of(objective: Objective, linear: LinearBlock, sensitivity: Vector) -> Vector:
    """`(ω Λ)^½ S` of one output."""
    prediction = linear.current.prediction
    curved = jnp.sqrt(jnp.maximum(objective.curve(prediction, jnp.ones_like(prediction)), 0.0))
    return [one * curved for one in sensitivity]
