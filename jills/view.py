"""A network, linearised in a block of its layers and seen in scaled parameters; private to `jills.block_problem`."""

from typing import NamedTuple

import jax

from jills import linearization
from jills.conjugate_gradients import Vector
from jills.linearization import Block, Pass, times
from jills.scaling import Scaling


class View(NamedTuple):
    """A network linearised in a block, in scaled coordinates Δ'."""

    block: Block
    matrices: tuple[jax.Array, ...]  # θ^l of all layers
    current: Pass  # what lies below the block is scaled, where there is a scaling
    scaling: Scaling | None  # of the block's first layer

    @property
    def below(self) -> tuple[jax.Array, ...]:
        """`A^l` of the block's layers."""
        return self.current.below[self.block[0] : self.block[1] + 1]

    @property
    def own(self) -> tuple[jax.Array, ...]:
        """`θ^l` of the block's layers."""
        return self.matrices[self.block[0] : self.block[1] + 1]

    def push(self, change: Vector) -> jax.Array:
        """The change of the prediction, `(k, n)`."""
        return linearization.push(self.matrices, self.below, self.current.slopes, self.block, change)

    def carry_down(self, weights: jax.Array) -> Vector:
        """Weights of the predictions, `(k, n)`, as weights of each layer's total inputs, `(n_l, n)`."""
        return linearization.carry_down(self.matrices, self.current.slopes, self.block, weights)

    def gather(self, weights: Vector) -> Vector:
        """From weights of each layer's total inputs to one matrix a layer, `A^lᵀ s^l`."""
        return [times(below, one.T) for below, one in zip(self.below, weights, strict=True)]

    def to_params(self, change: Vector) -> Vector:
        """`Δ = T Δ'`."""
        return change if self.scaling is None else [self.scaling.to_params(change[0]), *change[1:]]

    def from_params(self, change: Vector) -> Vector:
        """`Δ' = T⁻¹ Δ`."""
        return change if self.scaling is None else [self.scaling.from_params(change[0]), *change[1:]]

    def transposed(self, vector: Vector) -> Vector:
        """`Tᵀ v`."""
        return vector if self.scaling is None else [self.scaling.transposed(vector[0]), *vector[1:]]

    def unscaled(self, gradient: Vector) -> Vector:
        """The gradient in the parameters, `T⁻ᵀ g'`."""
        return gradient if self.scaling is None else [self.scaling.gradient(gradient[0]), *gradient[1:]]
