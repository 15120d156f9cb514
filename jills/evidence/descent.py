"""Down the objective from where H was factored: quasi-Newton iterations that begin with that factor.

    θ ← θ − t B g(θ),   t the first of 1, ¼, … that lowers S;   then the output layer solved

`B` is H⁻¹ corrected by the pairs seen since (`jills.quasi_newton`). H holds the prior's α, so no damping is needed
where steps succeed. To factor H costs as much as dozens of gradients, and it leaves out the curvature of the network
times the residuals, which pairs see: ten steps with one factor bring more than two factors with three steps each. Where
H has blocks only, three steps by conjugate gradients, which know what lies between them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.conjugate_gradients import ConjugateGradients
from jills.evidence.factors import Posterior
from jills.evidence.objective import Objective
from jills.linalg import flatten, unflatten
from jills.quasi_newton import Pairs
from jills.transformations import alike

STEPS, EARLY, PAIRS = 10, 3, 8  # iterations with one factor, at first, and how many of them are remembered
STEPS_OF_BLOCKS, PRODUCTS, TOLERANCE = 3, 20, 0.1  # of conjugate gradients
TRIALS = 6  # the whole step, a quarter, a sixteenth, …


class Point(NamedTuple):
    """Parameters of standardised data, and S there."""

    matrices: list[jax.Array]  # θ^l
    value: jax.Array  # () S


class _Carry(NamedTuple):
    """Of the loop over steps."""

    point: Point
    gradient: jax.Array  # (p,) there
    pairs: Pairs
    count: jax.Array  # () int32
    failed: jax.Array  # () bool, whether no share of the last direction was lower


def descend(objective: Objective, start: Point, factored: Posterior, early: jax.Array) -> Point:
    """The lowest point that was found; the start, bit for bit, where none is lower.

    Args:
        objective: S.
        start: where H was factored.
        factored: H.
        early: `()` bool, whether α is still near where it starts. A few iterations, then: at the minimum under that
            prior all hidden units are alike, a saddle that only rounding leaves again.
    """
    if not factored.is_whole:
        return _by_products(objective, start, factored)
    return _by_pairs(objective, start, factored, jnp.where(early, EARLY, STEPS))


def _by_products(objective, start, factored):
    """Each direction by conjugate gradients, with the blocks of H as preconditioner."""

    def going(carry):
        count, failed, _ = carry
        return (count < STEPS_OF_BLOCKS) & ~failed

    def step(carry):
        count, _, point = carry
        current = objective.forward(point.matrices)
        found = ConjugateGradients(PRODUCTS, TOLERANCE).solve(
            lambda change: [objective.product(point.matrices, current, change[0])],
            [-objective.gradient(point.matrices, current)],
            lambda residual: [factored.solve(residual[0])],
        )
        new = _lowered(objective, point, found.x[0])
        return count + 1, ~(new.value < point.value), new

    begin = alike((jnp.zeros((), jnp.int32), jnp.zeros((), bool), start), factored, objective.rows)
    return lax.while_loop(going, step, begin)[2]


def _by_pairs(objective, start, factored, most):
    """Each direction by H⁻¹ and what was seen since."""

    def gradient_at(point):
        return objective.gradient(point.matrices, objective.forward(point.matrices))

    def going(carry):
        return (carry.count < most) & ~carry.failed

    def step(carry):
        new = _lowered(objective, carry.point, carry.pairs.direction(carry.gradient, factored.solve))
        lower, gradient = new.value < carry.point.value, gradient_at(new)
        rise, change = gradient - carry.gradient, flatten(new.matrices) - flatten(carry.point.matrices)
        pairs = carry.pairs.with_pair(lower, change, rise)
        return _Carry(new, gradient, pairs, carry.count + 1, ~lower)

    gradient = gradient_at(start)
    pairs = Pairs.none(PAIRS, gradient.size, gradient.dtype)
    begin = _Carry(start, gradient, pairs, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    return lax.while_loop(going, step, alike(begin, factored, objective.rows)).point


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
