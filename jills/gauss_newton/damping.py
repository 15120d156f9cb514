"""How λ, the damping of each block, follows what came of its steps.

After Marquardt 1963 and Nielsen 1999: less after a good step, ever more while steps are rejected.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.transformations import exported

LARGEST_DAMPING = 1e8


@exported
class Damping(NamedTuple):
    """λ of all blocks, and what it needs to remember."""

    factor: jax.Array  # (blocks,) λ over its start
    growth: jax.Array  # (blocks,) by what λ grows at the next rejection

    def of(self, index: int) -> "Damping":
        """That of one block, `()`."""
        return Damping(self.factor[index], self.growth[index])

    def at(self, index: int, new: "Damping") -> "Damping":
        """With that of one block."""
        return Damping(self.factor.at[index].set(new.factor), self.growth.at[index].set(new.growth))


def undisturbed(blocks: int, dtype) -> Damping:
    """λ at its start."""
    ones = jnp.ones(blocks, dtype)
    return Damping(ones, 4.0 * ones)


def follow(old: Damping, share: jax.Array, gain: jax.Array, first: jax.Array) -> Damping:
    """λ of a block after its trial: by the gain of a whole step, a little less after a shorter one.

    A shorter step that succeeds says that Δ was too long, not that its direction was too undamped: with more λ
    instead, networks of ReLU came to rest at their kinks, at twice the loss.

    Args:
        old: before the step; all here are `()`.
        share: the share of Δ that was taken; 0: rejected.
        gain: actual over predicted decrease.
        first: λ at its start.
    """
    factor = jnp.where(gain > 0.75, 0.2, jnp.where(gain < 0.25, 2.0, 2.0 / 3.0)).astype(gain.dtype)
    factor = jnp.where(share < 1, 0.7, factor)
    factor = jnp.where(share > 0, factor, old.growth)
    growth = jnp.where(share > 0, 4.0, _grown(old.growth)).astype(gain.dtype)
    smallest = 1e-9 if gain.dtype == jnp.float64 else 1e-8
    return Damping(jnp.clip(first * old.factor * factor, smallest, LARGEST_DAMPING) / first, growth)


FEWEST, LOWEST = 3, 0.1  # trials refused that raise λ; what it never falls below, beside its start


def after_trials(old: Damping, refused: jax.Array, stuck: jax.Array, first: jax.Array) -> Damping:
    """λ of the factors that quasi-Newton iterations start from: less where all trials were taken, more after refusals.

    It falls slowly and stays near its start. The pairs undo what λ holds back where the objective is seen to curve
    less; a λ near zero makes first steps that leave units saturated for good.

    Args:
        old: before the step; all here are `()`.
        refused: how many trials did not lower the objective.
        stuck: whether no share of a direction did.
        first: λ at its start.
    """
    factor = jnp.where(refused == 0, 0.7, jnp.where(refused >= FEWEST, 4.0, 1.0)).astype(old.factor.dtype)
    factor = jnp.where(stuck, old.growth, factor)
    growth = jnp.where(stuck, _grown(old.growth), 4.0).astype(old.growth.dtype)
    return Damping(jnp.clip(old.factor * factor, LOWEST, LARGEST_DAMPING / first), growth)


def _grown(growth):
    return jnp.minimum(2.0 * growth, 1e3)


def back_off(old: Damping, kept: jax.Array) -> Damping:
    """λ on minibatches: never below its start, four times as much after a step not taken, slowly back afterwards."""
    factor = jnp.where(kept, 0.9, 4.0).astype(old.factor.dtype)
    return old._replace(factor=jnp.clip(old.factor * factor, 1.0, LARGEST_DAMPING))
