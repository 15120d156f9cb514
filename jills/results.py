"""How a member's training ended, as a code inside the trace and in words outside it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

RUNNING, TARGET_REACHED, SETTLED, NON_FINITE = range(4)

MESSAGES = {
    RUNNING: "ran all its steps",
    TARGET_REACHED: "reached the target loss",
    SETTLED: "settled: its update fell below the tolerance",
    NON_FINITE: (
        "stopped: NaN or inf in the parameters or the loss; see best_params for the last good ones, "
        "lower the learning rate, add ridge, or look for NaN in its data"
    ),
}
"""What each code means, and what to do."""


class Stop(NamedTuple):
    """When a member stops on its own. Numbers, so that other values do not compile again.

    A member always stops once it is not finite. A stopped member stays as it is.
    """

    target_loss: float | jax.Array = -jnp.inf  # stop at a loss at or below this
    update_norm: float | jax.Array = -1.0  # stop after an update of at most this Euclidean norm


def code(loss: jax.Array, update_norm: jax.Array, finite: jax.Array, stop: Stop) -> jax.Array:
    """The result code of a member after a step, `()` int32."""
    settled = jnp.where(update_norm <= stop.update_norm, SETTLED, RUNNING)
    ended = jnp.where(loss <= stop.target_loss, TARGET_REACHED, settled)
    return jnp.where(finite, ended, NON_FINITE).astype(jnp.int32)
