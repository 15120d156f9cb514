"""All layers at once, by quasi-Newton iterations on the objective itself: limited memory over the Kronecker factors.

    θ ← θ + Δ,   Δ = −H g, or 0.3, 0.09, … of it, until the objective falls by a tenth of what its slope promises

with `H` of `jills.quasi_newton`, from the inverse of the Kronecker factors of the Gauss–Newton matrix, damped by λ
(`kronecker`), and the last pairs, which are kept from step to step. An iteration costs about as much as a product of
conjugate gradients with that matrix, but moves the parameters, where products are spent on a linear model that one step
leaves behind; and pairs see what the matrix leaves out, the curvature of the network times the residuals, which on
noisy data never vanish.
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
from jills.linalg import dot, flatten, unflatten
from jills.quasi_newton import Pairs, pushed
from jills.transformations import alike

# Of the decrease that the slope promises (Armijo); a quadratic's minimum gives one half of it. Less would let the first
# changes, which no pair corrects yet, go so far beyond that units stay saturated.
ENOUGH = 0.1
SHORTER, MOST_SHARES = 0.3, 5  # a trial that does not lower the objective is followed by one of this share, so often


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
        if not all(isinstance(each, int) and each >= 1 for each in (self.trials, self.pairs)):
            raise ValueError(
                f"QuasiNewton: trials is {self.trials!r} and pairs {self.pairs!r}, but both must be "
                "integers of at least 1"
            )


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
    image: jax.Array  # (p,) of the gradient, by the preconditioner
    pairs: Pairs
    images: jax.Array  # (m, p) of the rises
    direction: jax.Array  # (p,)
    share: jax.Array  # () of the direction that is tried next
    taken: jax.Array  # () int32
    refused: jax.Array  # () int32
    stuck: jax.Array  # () bool


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
        promised = carry.value + ENOUGH * dot([change], [carry.gradient])
        lower = jnp.isfinite(new.value) & (new.value < carry.value) & (new.value <= promised)
        rise = gradient - carry.gradient
        raised = precondition(rise)
        image = carry.image + raised
        pairs, kept = carry.pairs.with_pair(lower, change, rise, raised)
        images = pushed(kept, carry.images, raised)
        none_left = (carry.taken == 0) & (carry.refused + 1 >= method.trials)
        stuck = ~lower & ((carry.share < SHORTER ** (MOST_SHARES - 1.5)) | none_left)
        pairs = pairs.forgotten(stuck)
        gradient, image = jnp.where(lower, gradient, carry.gradient), jnp.where(lower, image, carry.image)
        return _Carry(
            matrices=tuple(jnp.where(lower, one, old) for one, old in zip(matrices, carry.matrices, strict=True)),
            loss=jnp.where(lower, new.loss, carry.loss),
            value=jnp.where(lower, new.value, carry.value),
            gradient=gradient,
            image=image,
            pairs=pairs,
            images=images,
            direction=jnp.where(lower, pairs.direction(gradient, image, images), carry.direction),
            share=jnp.where(lower, jnp.ones_like(carry.share), SHORTER * carry.share),
            taken=carry.taken + lower.astype(jnp.int32),
            refused=carry.refused + (~lower).astype(jnp.int32),
            stuck=stuck,
        )

    gradient, zero = flatten(like), jnp.zeros((), jnp.int32)
    image, images = precondition(gradient), jax.vmap(precondition)(pairs.rises)
    first = _Carry(
        matrices=start.matrices,
        loss=start.loss,
        value=start.value,
        gradient=gradient,
        image=image,
        pairs=pairs,
        images=images,
        direction=pairs.direction(gradient, image, images),
        share=jnp.ones_like(start.loss),
        taken=zero,
        refused=zero,
        stuck=jnp.zeros((), bool),
    )
    end = lax.while_loop(going, trial, alike(first, objective.rows, preconditioners))
    # Its forward pass is computed only if somebody asks for it.
    position = Position.of(objective, end.matrices)._replace(loss=end.loss, value=end.value)
    return Descent(position, end.pairs, end.taken, end.refused, end.stuck)
