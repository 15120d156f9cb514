"""The network linearised in a block of its layers: its Jacobian, in the block's own coordinates."""

from typing import NamedTuple

import jax

from jills import linearization
from jills.gauss_newton.coordinates import Scaling
from jills.linalg import Vector
from jills.linearization import Block, Pass


class LinearBlock(NamedTuple):
    """The linear map `Δ' → u = J Δ'` from a block's scaled parameters to the predictions, `Δ = T Δ'`."""

    block: Block
    matrices: tuple[jax.Array, ...]  # θ^l of all layers
    current: Pass  # the inputs of the block are scaled, where there is a scaling
    scaling: Scaling | None  # T of the block's first layer; None: the identity

    @property
    def below(self) -> tuple[jax.Array, ...]:
        """`A^l` of the block's layers."""
        return self.current.below[self.block[0] : self.block[1] + 1]

    @property
    def params(self) -> tuple[jax.Array, ...]:
        """`θ^l` of the block's layers."""
        return self.matrices[self.block[0] : self.block[1] + 1]

    def jvp(self, change: Vector) -> jax.Array:
        """`J Δ'`, `(k, n)`."""
        return linearization.jvp(self.matrices, self.below, self.current.slopes, self.block, change)

    def vjp(self, cotangents: jax.Array) -> Vector:
        """`Jᵀ v` for cotangents of the predictions, `(k, n)`."""
        return self.gather(self.backward(cotangents))

    def backward(self, cotangents: jax.Array) -> Vector:
        """Cotangents of the predictions, `(k, n)`, as those of each layer's total inputs, `(n_l, n)`."""
        return linearization.backward(self.matrices, self.current.slopes, self.block, cotangents)

    def gather(self, cotangents: Vector) -> Vector:
        """From cotangents of each layer's total inputs to one matrix per layer, `A^lᵀ s^l`."""
        return [linearization.gathered(*pair) for pair in zip(self.below, cotangents, strict=True)]

    def sensitivities(self) -> Vector:
        """`S^l = ∂ h^L / ∂ H^l` of the block's layers, each `(k, n_l, n)`."""
        return linearization.sensitivities(self.matrices, self.current, self.block)

    def jacobian(self) -> jax.Array:
        """`J` as a dense array, `(k, p, n)`."""
        return linearization.jacobian(self.below, self.sensitivities())

    def to_params(self, change: Vector) -> Vector:
        """`Δ = T Δ'`."""
        return change if self.scaling is None else [self.scaling.to_params(change[0]), *change[1:]]

    def from_params(self, change: Vector) -> Vector:
        """`Δ' = T⁻¹ Δ`."""
        return change if self.scaling is None else [self.scaling.from_params(change[0]), *change[1:]]

    def transposed(self, vector: Vector) -> Vector:
        """`Tᵀ v`."""
        return vector if self.scaling is None else [self.scaling.transposed(vector[0]), *vector[1:]]

    def gradient_in_params(self, gradient: Vector) -> Vector:
        """The gradient in the parameters, `T⁻ᵀ g'`."""
        return gradient if self.scaling is None else [self.scaling.gradient(gradient[0]), *gradient[1:]]
