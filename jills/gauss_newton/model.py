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
from jills.linalg import HIGHEST, Vector, add, dot, matmul
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
    unit: jax.Array | None  # s, () a power of two: the targets are of this size; None: they are taken as they are
    targets_in_units: jax.Array  # y / s, (n, k)

    @classmethod
    def of(cls, batch: Batch, in_units: bool = False) -> "Rows":
        """Those of a prepared batch; `in_units`: with the size of its targets as their unit."""
        inputs, omega = batch.inputs.T, uniform_weights(batch)
        scaling = Scaling.of(inputs, omega)
        unit = size_of(batch.targets, omega) if in_units else None
        targets = batch.targets if unit is None else batch.targets / unit
        return cls(*batch, omega, scaling, scaling.below(linearization.with_ones(inputs)), unit, targets)


def size_of(targets: jax.Array, omega: jax.Array) -> jax.Array:
    """The power of two next to the standard deviation of targets `(n, k)`; of constant ones, next to the largest."""
    largest = jnp.max(jnp.abs(targets))
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    # By the largest first: squares of 1e-20 vanish in float32.
    relative = targets / largest
    apart = relative - matmul(omega[None, :], relative)
    deviation = jnp.sqrt(jnp.vdot(omega, jnp.mean(jnp.square(apart), axis=1), precision=HIGHEST))
    constant = deviation <= 8 * float(jnp.finfo(targets.dtype).eps)
    exponent = jnp.round(jnp.log2(largest * jnp.where(constant, jnp.ones_like(deviation), deviation)))
    exponent = jnp.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT).astype(jnp.int32)
    return jnp.ldexp(jnp.ones_like(largest), exponent)  # exactly, as exp2 is not


LARGEST_EXPONENT = 60.0  # of a unit: its square must be a number in float32


class Objective(NamedTuple):
    """`loss + ½ δ ‖θ‖²` on a batch; its arrays are features × rows, as everywhere in this wing.

    With a unit s of the targets (squared error, identity as output) everything is in it: predictions and targets over
    s, the parameters of the output layer θ^L / s, the objective over s². So no floor and no damping depends on the
    units that the targets came in.
    """

    network: Network
    loss: Loss
    rows: Rows
    decay: jax.Array  # δ, ()

    def forward(self, matrices: Sequence[jax.Array]) -> Pass:
        """The forward pass of parameters `θ^l`."""
        return linearization.forward(self.network, matrices, self.rows.inputs.T)

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
        """`‖∂ objective / ∂ θ‖` over all layers, `()`, without units."""
        top = len(matrices) - 1
        cotangents = linearization.backward(matrices, current.slopes, (0, top), self.slope(current.prediction))
        pieces = zip(current.below, cotangents, self.decays, matrices, strict=True)
        gradient = self.in_units([matmul(below, one.T) + decay * matrix for below, one, decay, matrix in pieces])
        # Over s² the objective, over s the output layer's parameters: in this order, so that no square vanishes.
        norm, unit = jnp.sqrt(dot(list(gradient), list(gradient))), self.rows.unit
        return norm if unit is None else norm * unit * unit


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

    def product(self, change: Vector, shift: jax.Array, roots: Vector | None, penalty: jax.Array | None) -> Vector:
        """`(G + δ TᵀT + shift I) Δ'`.

        Args:
            change: Δ'.
            shift: `()`.
            roots: `roots()`, taken once for all products.
            penalty: `penalty()`, likewise.
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
        if penalty is not None:
            parts[0] = curved[0] + matmul(penalty, change[0]) + shift * change[0]
        return parts

    def penalty(self) -> jax.Array | None:
        """`δ TᵀT` of the block's first layer, `(d + 1, d + 1)`; None: it is `δ I`."""
        scaling = self.linear.scaling
        return None if scaling is None else self.decays[0] * scaling.square()


def one_sensitivity(linear: LinearBlock) -> Vector | None:
    """`S^l` of the block's layers, `(n_l, n)` each, where there is one output; else None."""
    prediction = linear.current.prediction
    return linear.backward(jnp.ones_like(prediction)) if prediction.shape[0] == 1 else None


def roots_of(objective: Objective, linear: LinearBlock, sensitivity: Vector) -> Vector:
    """`(ω Λ)^½ S` of one output."""
    prediction = linear.current.prediction
    curved = jnp.sqrt(jnp.maximum(objective.curve(prediction, jnp.ones_like(prediction)), 0.0))
    return [one * curved for one in sensitivity]
