"""Conjugate gradients for operators: `B x = b` with `B` symmetric positive definite, given as a product."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.linalg import Vector, dot


class Iterate(NamedTuple):
    """What conjugate gradients found."""

    x: Vector
    residual: Vector  # b − B x
    steps: jax.Array  # () int32, products with B taken


@dataclass(frozen=True)
class ConjugateGradients:
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952).

    A truncated solution already lowers the quadratic `½ xᵀBx − bᵀx`, each step further, so it is a
    descent direction however early it ends.

    Attributes:
        max_steps: the most products with `B`.
        tolerance: ends once `√(rᵀM⁻¹r)` is below this share of its start, with `M` the preconditioner.
    """

    max_steps: int = 10
    tolerance: float = 0.3

    def __post_init__(self):
        if not (self.max_steps >= 1 and 0.0 <= self.tolerance < 1.0):
            raise ValueError(
                f"ConjugateGradients: max_steps is {self.max_steps} and tolerance {self.tolerance}, but "
                "max_steps must be at least 1 and tolerance lie in [0, 1)"
            )

    def solve(
        self,
        product: Callable[[Vector], Vector],
        right: Vector,
        precondition: Callable[[Vector], Vector],
        guess: Vector | None = None,
    ) -> Iterate:
        """`x ≈ B⁻¹ b`.

        A NaN, or a direction without positive curvature, ends the iteration where it stands.

        Args:
            product: `p → B p`.
            right: `b`.
            precondition: `r → M⁻¹ r`, symmetric positive definite.
            guess: a direction; the iteration starts from its positive multiple that lowers the quadratic
                most, or from zero; this takes one product. None: it starts from zero.
        """
        extra = 0 if guess is None else 1
        direction = precondition(right) if guess is None else guess
        size = dot(right, direction)

        def going(carry):
            steps, _, _, _, size, first = carry
            return (steps < self.max_steps + extra) & ((steps < extra) | (size > self.tolerance**2 * first))

        def body(carry):
            steps, x, residual, direction, size, first = carry
            image = product(direction)
            curvature = dot(direction, image)
            # Not backwards: a guess that must be undone tells nothing of where to go.
            usable = (curvature > 0) & (size > 0)
            length = jnp.where(usable, size / jnp.where(usable, curvature, jnp.ones_like(curvature)), 0.0)
            x = [old + length * part for old, part in zip(x, direction, strict=True)]
            residual = [old - length * part for old, part in zip(residual, image, strict=True)]
            gradient = precondition(residual)
            new = dot(residual, gradient)
            guessed = steps < extra
            new = jnp.where(usable | guessed, new, jnp.zeros_like(size))
            turn = jnp.where(guessed, 0.0, new / size)
            direction = [part + turn * old for part, old in zip(gradient, direction, strict=True)]
            return steps + 1, x, residual, direction, new, jnp.where(guessed, new, first)

        zeros = [jnp.zeros_like(part) for part in right]
        start = (jnp.zeros((), jnp.int32), zeros, right, direction, size, size)
        steps, x, residual, _, _, _ = lax.while_loop(going, body, start)
        return Iterate(x, residual, steps)
