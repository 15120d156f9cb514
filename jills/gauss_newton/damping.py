"""How λ, the damping of each block, follows what came of its steps.

After Marquardt 1963 and Nielsen 1999: less after a good step, ever more while steps are rejected.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.transformations import exported

LARGEST_DAMPING = 1e8


@exported
class Damping(NamedTuple):
    """λ of all blocks, and what it needs to remember."""

    factor: jax.Array  # (blocks,) λ over its start
    growth: jax.Array  # (blocks,) by what λ grows at the next rejection


def undisturbed(blocks: int, dtype) -> Damping:
    """λ at its start."""
    ones = jnp.ones(blocks, dtype)
    return Damping(ones, 4.0 * ones)


def follow(old: Damping, free: np.ndarray, share: jax.Array, gain: jax.Array, first: jax.Array) -> Damping:
    """λ of each block after its trial: by the gain of a whole step, a little less after a shorter one.

    A shorter step that succeeds says that Δ was too long, not that its direction was too undamped: with more λ
    instead, networks of ReLU came to rest at their kinks, at twice the loss.

    Args:
        old: before the step.
        free: which blocks have a λ that moves, `(blocks,)` bool.
        share: the share of Δ that was taken, `(blocks,)`; 0: rejected.
        gain: actual over predicted decrease, `(blocks,)`.
        first: λ at its start, `()`.
    """
    factor = jnp.where(gain > 0.75, 0.2, jnp.where(gain < 0.25, 2.0, 2.0 / 3.0)).astype(gain.dtype)
    factor = jnp.where(share < 1, 0.7, factor)
    factor = jnp.where(share > 0, factor, old.growth)
    growth = jnp.where(share > 0, 4.0, jnp.minimum(2.0 * old.growth, 1e3)).astype(gain.dtype)
    smallest = 1e-9 if gain.dtype == jnp.float64 else 1e-8
    factor = jnp.clip(first * old.factor * factor, smallest, LARGEST_DAMPING) / first
    return Damping(jnp.where(free, factor, old.factor), jnp.where(free, growth, old.growth))


def back_off(old: Damping, kept: jax.Array) -> Damping:
    """λ on minibatches: never below its start, four times as much after a step not taken, slowly back afterwards."""
    factor = jnp.where(kept, 0.9, 4.0).astype(old.factor.dtype)
    return old._replace(factor=jnp.clip(old.factor * factor, 1.0, LARGEST_DAMPING))
