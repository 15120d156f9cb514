"""A start that is made for data in other units: what the first step does about it, before any block is solved."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.gauss_newton.gradients import gradients
from jills.gauss_newton.line_search import Position
from jills.gauss_newton.model import Objective
from jills.linalg import HIGHEST, matmul
from jills.transformations import cond

LARGEST, SMALLEST = 30.0, 0.01  # root mean square of the first layer's total inputs, and their deviation over the rows
OUTSIZED = 1e4  # a mean square of the predictions of so many squares of the targets' size


class Received(NamedTuple):
    """The parameters that a step received."""

    matrices: tuple[jax.Array, ...]  # θ^l
    loss: jax.Array  # ()
    value: jax.Array  # () of the objective


def fitted(objective: Objective, matrices: tuple[jax.Array, ...], step: jax.Array) -> tuple[Received, Position]:
    """What was received, and where to set out from: in a first step both of these, later only what `shrunk` does.

    Args:
        objective: to lower.
        matrices: `θ^l`, as they were received.
        step: `()`, 0 in a first one.
    """
    several, first = objective.network.num_layers > 1, matrices[0]
    if several:
        first = cond(step == 0, lambda: _rescaled(objective, matrices[0]), lambda: matrices[0])
    start = Position.of(objective, (first, *matrices[1:]))
    given = (start.loss, start.value)
    if several:  # in later steps nothing has changed so far
        given = cond(step == 0, lambda: Position.of(objective, matrices)[2:], lambda: (start.loss, start.value))
    return Received(matrices, *given), start if objective.rows.unit is None else _shrunk(objective, start)


def gradients_at(
    objective: Objective, received: Received, start: Position, kept: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`gradients` where a step set out from; those of no minimum where it ends with what it received instead."""
    norm, relative = gradients(objective, start.matrices, start.current)
    elsewhere = (start.value < received.value) | (start.value > received.value)
    known = kept | ~elsewhere
    largest = jnp.full_like(norm, float(jnp.finfo(norm.dtype).max))
    return jnp.where(known, norm, largest), jnp.where(known, relative, jnp.ones_like(relative))


def lower(start: Received, end: Position) -> tuple[jax.Array, Position]:
    """Whether a step got below its start, `()` bool, as it need not if it set out elsewhere; and where it ends then."""
    kept = end.value <= start.value
    choose = lambda new, old: jnp.where(kept, new, old)  # noqa: E731 used at once
    matrices = tuple(map(choose, end.matrices, start.matrices))
    return kept, end._replace(
        matrices=matrices, loss=choose(end.loss, start.loss), value=choose(end.value, start.value)
    )


def _rescaled(objective, first):
    """The first layer's parameters taken for inputs that are centred and scaled, where its units are out of range.

    Raw years saturate every unit of a start that was drawn for inputs of size one, inputs of 1e-6 leave them linear.
    """
    rows = objective.rows
    total = matmul(first.T, rows.with_ones)
    square = matmul(jnp.square(total), rows.omega[:, None])
    spread = matmul(jnp.square(total - matmul(total, rows.omega[:, None])), rows.omega[:, None])
    out_of_range = (jnp.mean(square) > LARGEST**2) | (jnp.mean(spread) < SMALLEST**2)
    return jnp.where(out_of_range, rows.scaling.to_params(first), first)


def _shrunk(objective, start):
    """Where predictions dwarf the targets, the output layer times the factor `t` that lowers the squared error most.

    `t = Σ_n ω_n p_n y_n / Σ_n ω_n p_n²`. (In other units than the network was started for, no digit of its first exact
    solve would be right, and hidden units would be saturated to make up for it.)
    """
    prediction = start.current.prediction
    weighed = objective.rows.omega[None, :] * prediction
    overlap = jnp.vdot(weighed, objective.rows.targets_in_units.T, precision=HIGHEST)
    square = jnp.vdot(weighed, prediction, precision=HIGHEST)
    share = jnp.clip(overlap / square, -1.0, 1.0)  # more is no shrinking: one outlier of the targets may ask for it
    share = jnp.where(jnp.isfinite(share), share, jnp.zeros_like(share))
    factor = jnp.where(square > OUTSIZED * prediction.shape[0], share, jnp.ones_like(share))
    matrices = (*start.matrices[:-1], factor * start.matrices[-1])
    current = start.current._replace(prediction=factor * prediction)
    loss = objective.loss_of(current.prediction)
    # The penalty is less than before; taken as it was, for it costs a pass over all parameters.
    return Position(matrices, current, loss, loss + (start.value - start.loss))
