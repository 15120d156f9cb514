"""Down the objective from where H was factored: a few quasi-Newton iterations that begin with that factor.

    θ ← θ − t B g(θ),   then the output layer solved

`B` is H⁻¹ corrected by the pairs seen since (`jills.quasi_newton`), which know what H leaves out: the curvature of the
network times the residuals. H holds the prior's α, so no damping is needed where steps succeed. t is the first
that lowers S: 1, then each time the minimum of the parabola through what is known, between a tenth and a half of the
last one. Where H has blocks only, three steps by conjugate gradients, which know what lies between them.

More iterations with one factor cost less than the next factor, and find a lower S; but for α and β that are not right
yet: with ten, not three, evidence is lower after the same time, and so are the densities of new rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.conjugate_gradients import ConjugateGradients
from jills.evidence.factors import Posterior
from jills.evidence.objective import Objective
from jills.linalg import dot, flatten, unflatten
from jills.linearization import Pass
from jills.quasi_newton import Pairs, pushed
from jills.transformations import alike, cond

STEPS = 3  # iterations with one factor
ENOUGH = 0.01  # nats: no more iterations after one that lowers S by less
STEPS_OF_BLOCKS, PRODUCTS, TOLERANCE = 3, 20, 0.1  # of conjugate gradients
TRIALS = 6  # of t, until none is taken
SHORTEST, LONGEST = 0.1, 0.5  # the next share of a step that was too long


class Point(NamedTuple):
    """Parameters of standardised data, and S there."""

    matrices: list[jax.Array]  # θ^l
    value: jax.Array  # () S
    current: Pass | None  # of `Objective.forward`; None where it is not kept


class _Carry(NamedTuple):
    """Of the loop over steps."""

    point: Point
    before: tuple[jax.Array, jax.Array, jax.Array]  # (p,) each: θ, its gradient g and H⁻¹ g, where the last one began
    pairs: Pairs
    images: jax.Array  # (m, p) H⁻¹ y of the pairs
    count: jax.Array  # () int32
    ended: jax.Array  # () bool, whether S hardly fell, or not at all


def descend(objective: Objective, start: Point, factored: Posterior) -> Point:
    """The lowest point that was found; the start, bit for bit, where none is lower.

    Args:
        objective: S.
        start: where H was factored.
        factored: H.
    """
    if not factored.is_whole:
        return _by_products(objective, start, factored)
    return _by_pairs(objective, start, factored)


def _by_products(objective, start, factored):
    """Each direction by conjugate gradients, with the blocks of H as preconditioner."""

    def going(carry):
        count, failed, _ = carry
        return (count < STEPS_OF_BLOCKS) & ~failed

    def step(carry):
        count, _, point = carry
        current = pass_at(objective, point)
        gradient = objective.gradient(point.matrices, current)
        found = ConjugateGradients(PRODUCTS, TOLERANCE).solve(
            lambda change: [objective.product(point.matrices, current, change[0])],
            [-gradient],
            lambda residual: [factored.solve(residual[0])],
        )
        new = _lowered(objective, point, found.x[0], gradient)
        return count + 1, ~(new.value < point.value), new

    begin = alike((jnp.zeros((), jnp.int32), jnp.zeros((), bool), start), factored, objective.rows)
    return lax.while_loop(going, step, begin)[2]


def _by_pairs(objective, start, factored):
    """Each direction by H⁻¹ and what was seen since."""

    def going(carry):
        return (carry.count < STEPS) & ~carry.ended

    def step(carry):
        point = carry.point
        theta, gradient = flatten(point.matrices), objective.gradient(point.matrices, pass_at(objective, point))
        change, rise = theta - carry.before[0], gradient - carry.before[1]
        raised = factored.solve(rise)
        image = carry.before[2] + raised
        pairs, kept = carry.pairs.with_pair(carry.count > 0, change, rise, raised)
        images = pushed(kept, carry.images, raised)
        new = _lowered(objective, point, pairs.direction(gradient, image, images), gradient)
        ended = ~(point.value - new.value > ENOUGH)
        return _Carry(new, (theta, gradient, image), pairs, images, carry.count + 1, ended)

    theta = flatten(start.matrices)
    pairs = Pairs.none(STEPS - 1, theta.size, theta.dtype)
    nothing = (jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    zeros = jnp.zeros_like(theta)
    begin = _Carry(start, (theta, zeros, zeros), pairs, jnp.zeros_like(pairs.rises), *nothing)
    return lax.while_loop(going, step, alike(begin, factored, objective.rows)).point


def pass_at(objective: Objective, point: Point) -> Pass:
    """The forward pass of a point, made anew where it was not kept."""
    return objective.forward(point.matrices) if point.current is None else point.current


def _lowered(objective, start, change, gradient):
    """The first `θ + t Δ` where S is lower, or else the start."""
    parts, slope = unflatten(change, start.matrices), dot([change], [gradient])

    def going(carry):
        count, _, point = carry
        return (count < TRIALS) & ~(point.value < start.value)

    def attempt(carry):
        count, share, _ = carry
        moved = [old + share * part for old, part in zip(start.matrices, parts, strict=True)]
        matrices, value, current = objective.settled(moved)
        point = Point(matrices, value, objective.kept(current))
        # Of the parabola through S and its slope at the start, and S here; NaN where S is not finite.
        lowest = -0.5 * slope * share / (point.value - start.value - slope * share)
        return count + 1, share * jnp.clip(jnp.nan_to_num(lowest), SHORTEST, LONGEST), point

    begin = alike((jnp.zeros((), jnp.int32), jnp.ones_like(slope), start), change)
    _, _, end = lax.while_loop(going, attempt, begin)
    return cond(end.value < start.value, lambda: end, lambda: start)
