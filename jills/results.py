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

    @property
    def message(self) -> str:
        """What it means, and what to do."""
        return MESSAGES[self]


RUNNING, TARGET_REACHED, SETTLED, NON_FINITE, FLAT, AT_MINIMUM, BAD_WEIGHTS = Code
FAILED = (NON_FINITE, BAD_WEIGHTS)

MESSAGES: dict[Code, str] = {
    RUNNING: "ran all its steps",
    TARGET_REACHED: "reached the target loss",
    SETTLED: "settled: its update fell below the tolerance",
    FLAT: "settled: its gradient fell below the tolerance",
    AT_MINIMUM: (
        "settled: no step lowers its objective, even at the largest damping; it is at a minimum as far as "
        "rounding can tell: train in float64, or from another start, for less"
    ),
    NON_FINITE: (
        "stopped: NaN or inf in the parameters or the loss; see best_params for the last good ones, "
        "lower the learning rate, add ridge, or look for NaN in its data"
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
