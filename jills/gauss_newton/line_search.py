"""How far to go along a proposed change: backtracking."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills import linearization
from jills.gauss_newton.model import Objective
from jills.linalg import Vector
from jills.linearization import Block

STEPS = 6  # the whole change, a quarter, a sixteenth, …


class Position(NamedTuple):
    """Where a step stands."""

    matrices: tuple[jax.Array, ...]  # θ^l
    current: linearization.Pass  # their forward pass
    loss: jax.Array  # ()
    value: jax.Array  # () of the objective, loss + ½ δ ‖θ‖²

    @classmethod
    def of(cls, objective: Objective, matrices: tuple[jax.Array, ...]) -> "Position":
        """That of parameters `θ^l`."""
        current = objective.forward(matrices)
        loss = objective.loss_of(current.prediction)
        return cls(matrices, current, loss, loss + objective.penalty(matrices))


def backtrack(objective: Objective, block: Block, start: Position, change: Vector) -> tuple[jax.Array, Position]:
    """The first of Δ, Δ/4, … that lowers the objective, or else none: its share of Δ, and where it leads.

    Where a ReLU bends, a short step along Δ goes on long after every long one, however damped, has failed.
    """

    def going(carry):
        count, _, new = carry
        lower = jnp.isfinite(new.value) & (new.value < start.value)
        return (count == 0) | ((count <= STEPS) & ~lower)

    def attempt(carry):
        count, share, _ = carry
        # The last attempt goes nowhere: cheaper than to keep the old pass beside the new one and to choose.
        share = jnp.where(count == 0, share, jnp.where(count < STEPS, 0.25 * share, 0.0))
        taken = share > 0
        moved = linearization.moved(start.matrices, block, [jnp.where(taken, share * part, 0.0) for part in change])
        current = linearization.forward(objective.network, moved, start.current, block[0])
        loss = objective.loss_of(current.prediction)
        value = loss + objective.penalty(moved)
        loss, value = jnp.where(taken, loss, start.loss), jnp.where(taken, value, start.value)
        return count + 1, share, Position(moved, current, loss, value)

    return lax.while_loop(going, attempt, (jnp.zeros((), jnp.int32), jnp.ones_like(start.loss), start))[1:]
