"""Down the objective from where H was factored: a Gauss–Newton step, and some more with the same factor.

    θ ← θ − t H⁻¹ g(θ),   t the first of 1, ¼, … that lowers S;   then the output layer solved

H holds the prior's α, so no damping is needed where steps succeed. To factor H costs as much as dozens of gradients:
steps with the H of a point near by (Shamanskii 1967) go twice as far in the same time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.conjugate_gradients import ConjugateGradients
from jills.evidence.factors import Posterior
from jills.evidence.objective import Objective
from jills.linalg import unflatten
from jills.transformations import alike

STEPS = 3  # with one factor
PRODUCTS, TOLERANCE = 20, 0.1  # of conjugate gradients
TRIALS = 6  # the whole step, a quarter, a sixteenth, …


class Point(NamedTuple):
    """Parameters of standardised data, and S there."""

    matrices: list[jax.Array]  # θ^l
    value: jax.Array  # () S


def descend(objective: Objective, start: Point, factored: Posterior) -> Point:
    """The lowest point that was found; the start, bit for bit, where none is lower."""

    def going(carry):
        count, failed, _ = carry
        return (count < STEPS) & ~failed

    def step(carry):
        count, _, point = carry
        new = _lowered(objective, point, _direction(objective, point, factored))
        return count + 1, ~(new.value < point.value), new

    begin = alike((jnp.zeros((), jnp.int32), jnp.zeros((), bool), start), factored, objective.rows)
    return lax.while_loop(going, step, begin)[2]


def _direction(objective, point, factored):
    """`−H⁻¹ g`: at once where H is whole, else by conjugate gradients with its blocks as preconditioner."""
    current = objective.forward(point.matrices)
    gradient = objective.gradient(point.matrices, current)
    if factored.is_whole:
        return -factored.solve(gradient)
    found = ConjugateGradients(PRODUCTS, TOLERANCE).solve(
        lambda change: [objective.product(point.matrices, current, change[0])],
        [-gradient],
        lambda residual: [factored.solve(residual[0])],
    )
    return found.x[0]


def _lowered(objective, start, change):
    """The first of `θ + Δ`, `θ + Δ/4`, … where S is lower, or else the start."""
    parts = unflatten(change, start.matrices)

    def going(carry):
        count, point = carry
        return (count < TRIALS) & ~(point.value < start.value)

    def attempt(carry):
        count, _ = carry
        share = jnp.exp2(-2.0 * count.astype(change.dtype))
        moved = [old + share * part for old, part in zip(start.matrices, parts, strict=True)]
        return count + 1, Point(*objective.settled(moved))

    _, end = lax.while_loop(going, attempt, alike((jnp.zeros((), jnp.int32), start), change))
    return jax.tree.map(lambda new, old: jnp.where(end.value < start.value, new, old), end, start)
