"""All layers at once, by quasi-Newton iterations on the objective itself: limited memory over the Kronecker factors.

    θ ← θ + Δ,   Δ = −H g, or 0.3, 0.09, … of it, until the objective falls by a tenth of what its slope promises
    H = γ P  corrected by the last pairs  s = change of θ,  y = change of g     (L-BFGS, Nocedal 1980)

with `P` the inverse of the Kronecker factors of the Gauss–Newton matrix, damped by λ (`kronecker`), and of the last
pair `γ = sᵀy / yᵀPy`. An iteration costs about as much as a product of conjugate gradients with that matrix, but moves
the parameters, where products are spent on a linear model that one step leaves behind; and pairs see what the matrix
leaves out, the curvature of the network times the residuals, which on noisy data never vanish.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills import linearization
from jills.gauss_newton.iterative import Preconditioners
from jills.gauss_newton.line_search import Position
from jills.gauss_newton.model import Model, Objective
from jills.linalg import flatten, positive, unflatten
from jills.transformations import exported

# Of the decrease that the slope promises (Armijo); a quadratic's minimum gives one half of it. Less would let the first
# changes, which no pair corrects yet, go so far beyond that units stay saturated.
ENOUGH = 0.1
SHORTER, TRIALS = 0.3, 5  # a trial that does not lower the objective is followed by one of this share, so often
CURVED = 1e-4  # the least cosine of the angle between s and y of a pair that is kept


@dataclass(frozen=True)
class QuasiNewton:
    """How the block of all layers is lowered, where it is large.

    Attributes:
        trials: of positions, in one step; nearly each one is taken.
        pairs: how many changes are remembered, from step to step.
    """

    trials: int = 10
    pairs: int = 5

    def __post_init__(self):
        if not (self.trials >= 1 and self.pairs >= 1):
            raise ValueError(
                f"QuasiNewton: trials is {self.trials} and pairs {self.pairs}, but both must be at least 1"
            )


@exported
class Pairs(NamedTuple):
    """What is remembered of m changes of p parameters, the latest last; in scaled parameters Δ'."""

    changes: jax.Array  # (m, p) s
    rises: jax.Array  # (m, p) y, of the gradient
    inverse: jax.Array  # (m,) 1 / sᵀy; zero where there is none yet
    scale: jax.Array  # () γ

    @classmethod
    def none(cls, pairs: int, num_params: int, dtype) -> "Pairs":
        """Of nothing seen yet."""
        zeros = jnp.zeros((pairs, num_params), dtype)
        return cls(zeros, zeros, jnp.zeros(pairs, dtype), jnp.ones((), dtype))

    def forgotten(self, where: jax.Array) -> "Pairs":
        """Without any pair, where `()` bool."""
        inverse = jnp.where(where, jnp.zeros_like(self.inverse), self.inverse)
        return self._replace(inverse=inverse, scale=jnp.where(where, jnp.ones_like(self.scale), self.scale))

    def with_pair(self, where: jax.Array, change: jax.Array, rise: jax.Array, preconditioned: jax.Array) -> "Pairs":
        """With one more pair s and y, and `P y`, where `()` bool and where the curvature between them is positive."""
        curvature, size = jnp.vdot(change, rise), jnp.vdot(rise, preconditioned)
        least = CURVED * jnp.linalg.norm(change) * jnp.linalg.norm(rise)
        where = where & (curvature > least) & (size > 0) & jnp.isfinite(size)

        def pushed(old, new):
            return jnp.where(where, jnp.concatenate([old[1:], new[None]]), old)

        return Pairs(
            pushed(self.changes, change),
            pushed(self.rises, rise),
            pushed(self.inverse, 1 / positive(curvature)),
            jnp.where(where, curvature / positive(size), self.scale),
        )

    def direction(self, gradient: jax.Array, precondition) -> jax.Array:
        """`−H g`, by the two loops of Nocedal 1980; the pairs need not be known when the program is made."""
        last = self.inverse.shape[0] - 1

        def backwards(count, carry):
            rest, shares = carry
            index = last - count
            share = self.inverse[index] * jnp.vdot(self.changes[index], rest)
            return rest - share * self.rises[index], shares.at[index].set(share)

        def forwards(index, found):
            share = shares[index] - self.inverse[index] * jnp.vdot(self.rises[index], found)
            return found + share * self.changes[index]

        rest, shares = lax.fori_loop(0, last + 1, backwards, (gradient, jnp.zeros_like(self.inverse)))
        return -lax.fori_loop(0, last + 1, forwards, self.scale * precondition(rest))


class Descent(NamedTuple):
    """Where the iterations of a step lead."""

    position: Position
    pairs: Pairs
    taken: jax.Array  # () int32, trials that lowered the objective
    refused: jax.Array  # () int32, trials that did not
    stuck: jax.Array  # () bool, whether no share of the last direction lowered it; then the pairs are forgotten


class _Carry(NamedTuple):
    """Of the loop over trials."""

    matrices: tuple[jax.Array, ...]
    loss: jax.Array
    value: jax.Array
    gradient: jax.Array  # (p,)
    pairs: Pairs
    direction: jax.Array  # (p,)
    share: jax.Array  # () of the direction that is tried next
    taken: jax.Array
    refused: jax.Array
    stuck: jax.Array


def descend(
    method: QuasiNewton, objective: Objective, start: Position, preconditioners: Preconditioners, pairs: Pairs
) -> Descent:
    """A step's iterations, from a position and the pairs of earlier steps.

    Args:
        method: how many.
        objective: to lower.
        start: where to begin.
        preconditioners: of all layers.
        pairs: of earlier steps, perhaps none.
    """
    block = (0, len(start.matrices) - 1)
    begin = Model.of(objective, block, start.matrices, start.current)
    like, to_params = begin.gradient, begin.linear.to_params

    def precondition(vector):
        parts = unflatten(vector, like)
        return flatten([preconditioners[layer](part) for layer, part in enumerate(parts)])

    def going(carry):
        return (carry.taken + carry.refused < method.trials) & ~carry.stuck

    def trial(carry):
        change = carry.share * carry.direction
        matrices = linearization.moved(carry.matrices, block, to_params(unflatten(change, like)))
        new = Position.of(objective, matrices)
        gradient = flatten(Model.of(objective, block, matrices, new.current).gradient)
        promised = carry.value + ENOUGH * jnp.vdot(change, carry.gradient)
        lower = jnp.isfinite(new.value) & (new.value < carry.value) & (new.value <= promised)
        rise = gradient - carry.gradient
        pairs = carry.pairs.with_pair(lower, change, rise, precondition(rise))
        stuck = ~lower & (carry.share < SHORTER ** (TRIALS - 1.5))
        pairs = pairs.forgotten(stuck)
        gradient = jnp.where(lower, gradient, carry.gradient)
        return _Carry(
            matrices=tuple(jnp.where(lower, one, old) for one, old in zip(matrices, carry.matrices, strict=True)),
            loss=jnp.where(lower, new.loss, carry.loss),
            value=jnp.where(lower, new.value, carry.value),
            gradient=gradient,
            pairs=pairs,
            direction=jnp.where(lower, pairs.direction(gradient, precondition), carry.direction),
            share=jnp.where(lower, jnp.ones_like(carry.share), SHORTER * carry.share),
            taken=carry.taken + lower.astype(jnp.int32),
            refused=carry.refused + (~lower).astype(jnp.int32),
            stuck=stuck,
        )

    gradient, none = flatten(like), jnp.zeros((), jnp.int32)
    direction = pairs.direction(gradient, precondition)
    first = _Carry(
        start.matrices,
        start.loss,
        start.value,
        gradient,
        pairs,
        direction,
        jnp.ones_like(start.loss),
        none,
        none,
        jnp.zeros((), bool),
    )
    end = lax.while_loop(going, trial, first)
    position = Position.of(objective, end.matrices)._replace(loss=end.loss, value=end.value)
    return Descent(position, end.pairs, end.taken, end.refused, end.stuck)
