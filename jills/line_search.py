"""How far to go along a proposed change; private to `jills.gauss_newton`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills import linearization
from jills.block_problem import BlockProblem
from jills.conjugate_gradients import Vector
from jills.linearization import Block

STEPS = 6  # the whole change, a quarter, a sixteenth, …


class Point(NamedTuple):
    """Where a step stands."""

    matrices: tuple[jax.Array, ...]  # θ^l
    current: linearization.Pass  # their forward pass
    loss: jax.Array  # ()
    objective: jax.Array  # () loss + ½ δ ‖θ‖²


def shorten(problem: BlockProblem, block: Block, point: Point, change: Vector) -> tuple[jax.Array, Point]:
    """The first of Δ, Δ/4, … that lowers the objective, or else none: its share of Δ, and where it leads.

    Where a ReLU bends, a short step along Δ goes on long after every long one, however damped, has failed.
    """

    def going(carry):
        count, _, new = carry
        lower = jnp.isfinite(new.objective) & (new.objective < point.objective)
        return (count == 0) | ((count <= STEPS) & ~lower)

    def attempt(carry):
        count, share, _ = carry
        # The last attempt goes nowhere: cheaper than to keep the old pass beside the new one and to choose.
        share = jnp.where(count == 0, share, jnp.where(count < STEPS, 0.25 * share, 0.0))
        taken = share > 0
        moved = linearization.moved(point.matrices, block, [jnp.where(taken, share * part, 0.0) for part in change])
        current = linearization.forward(problem.network, moved, point.current, block[0])
        loss = problem.loss_of(current.prediction)
        objective = loss + problem.penalty(moved)
        loss, objective = jnp.where(taken, loss, point.loss), jnp.where(taken, objective, point.objective)
        return count + 1, share, Point(moved, current, loss, objective)

    return lax.while_loop(going, attempt, (jnp.zeros((), jnp.int32), jnp.ones_like(point.loss), point))[1:]
