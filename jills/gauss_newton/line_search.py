"""How far to go along a proposed change: backtracking."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.gauss_newton import linearization
from jills.gauss_newton.linearization import Block
from jills.gauss_newton.model import Objective
from jills.linalg import HIGHEST, Vector

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


OUTSIZED = 1e4  # a loss of so many variances of the targets


def shrunk(objective: Objective, start: Position) -> Position:
    """Where predictions dwarf the targets, the output layer times the factor `t` that lowers the squared error most.

    `t = Σ_n ω_n p_n y_n / Σ_n ω_n p_n²`. (In other units than the network was started for, no digit of its first exact
    solve would be right, and hidden units would be saturated to make up for it.)
    """
    prediction = start.current.prediction
    weighed = objective.rows.omega[None, :] * prediction
    overlap = jnp.vdot(weighed, objective.rows.targets_in_units.T, precision=HIGHEST)
    share = overlap / jnp.vdot(weighed, prediction, precision=HIGHEST)
    share = jnp.where(jnp.isfinite(share), share, jnp.zeros_like(share))
    factor = jnp.where(start.loss > OUTSIZED, share, jnp.ones_like(share))
    matrices = (*start.matrices[:-1], factor * start.matrices[-1])
    current = start.current._replace(prediction=factor * prediction)
    loss = objective.loss_of(current.prediction)
    # The penalty is less than before; taken as it was, for it costs a pass over all parameters.
    return Position(matrices, current, loss, loss + (start.value - start.loss))


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
