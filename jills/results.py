"""How a member's training ended, as a code inside the trace and in words outside it."""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.transformations import exported


class Code(IntEnum):
    """What `State.result` holds. `Code(state.result)` of one member, or `==` on arrays of them."""

    RUNNING = 0
    TARGET_REACHED = 1
    SETTLED = 2
    NON_FINITE = 3
    FLAT = 4
    AT_MINIMUM = 5
    BAD_WEIGHTS = 6
    STUCK = 7
    PATIENCE = 8
    AT_REST = 9

    @property
    def message(self) -> str:
        """What it means, and what to do."""
        return MESSAGES[self]


RUNNING, TARGET_REACHED, SETTLED, NON_FINITE, FLAT, AT_MINIMUM, BAD_WEIGHTS, STUCK, PATIENCE, AT_REST = Code
FAILED = (NON_FINITE, BAD_WEIGHTS)
SMALL_GRADIENT = 0.01  # of its scale, of algorithms that tell a relative gradient: at a minimum

MESSAGES: dict[Code, str] = {
    RUNNING: "has not stopped on its own",
    TARGET_REACHED: "reached the target loss",
    SETTLED: "settled: its update fell below the tolerance",
    FLAT: "settled: its gradient fell below the tolerance",
    AT_MINIMUM: (
        "settled: its gradient is small beside its terms, and no step lowers its objective, even at the largest "
        "damping: a minimum, or a plateau; another start may end lower"
    ),
    STUCK: (
        "stuck: no step lowers its objective, even at the largest damping, though its gradient is not small beside its "
        "terms: rounding hides what a step would gain, or a bend of ReLU is in the way; train in float64 if it is "
        "float32, scale outliers down, or try another start"
    ),
    PATIENCE: (
        "stopped: its validation loss has found no lower value for as many steps as patience allows; best_params are "
        "those of the lowest"
    ),
    AT_REST: "settled: its log evidence and its objective rest",
    NON_FINITE: (
        "stopped: NaN or inf in the parameters or the loss; best_params holds the best ones before, if best_loss is "
        "finite; take a lower learning rate or more ridge, or look for NaN in its data and its start"
    ),
    BAD_WEIGHTS: (
        "not trained: the weights of its rows are all zero, or some are negative or not finite; give at least one "
        "row a positive weight"
    ),
}
"""What each code means, and what to do."""


@exported
class Stop(NamedTuple):
    """When a member stops on its own. Numbers, so that other values do not compile again.

    A member always stops once it is not finite. A stopped member stays as it is.
    """

    target_loss: float | jax.Array = -jnp.inf  # stop at a loss at or below this
    update_norm: float | jax.Array = -1.0  # stop after an update of at most this Euclidean norm
    gradient_norm: float | jax.Array = -1.0  # stop at a gradient of at most this norm (of algorithms that have one)


def code(loss: jax.Array, info, stop: Stop) -> jax.Array:
    """The `Code` of a member after a step with this `Info` and the loss it led to, `()` int32."""
    update_norm, finite = info.update_norm, info.finite
    settled = jnp.where(update_norm <= stop.update_norm, SETTLED, RUNNING)
    if hasattr(info.detail, "gradient_norm"):
        settled = jnp.where(info.detail.gradient_norm <= stop.gradient_norm, FLAT, settled)
    ended = jnp.where(loss <= stop.target_loss, TARGET_REACHED, settled)
    return jnp.where(finite, ended, NON_FINITE).astype(jnp.int32)
