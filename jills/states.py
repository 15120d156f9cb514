"""What is kept of a state's history: its best parameters, and whether its records still hold."""

import jax
import jax.numpy as jnp

from jills.activations import Activation
from jills.linalg import HIGHEST, flatten, matmul
from jills.types import Layer, Params, State

SAME_LOSS = 100.0  # losses of the same rows differ by less than this many units of rounding
FLAT_SLOPE = 1e-3  # of the steepest: less tells the layers below next to nothing
FEW_ROWS = 0.01  # by weight


def is_finite(state: State) -> jax.Array:
    """Whether the loss and every parameter are finite, `()` bool."""
    # One array, for the sake of the compiler: two leaves for each layer make many small kernels.
    return jnp.isfinite(state.loss) & jnp.all(jnp.isfinite(flatten(jax.tree.leaves(state.params))))


def keep_best(state: State, finite: jax.Array) -> State:
    """The state with its parameters as the best ones where they are finite and their loss is lower than any before."""
    better = finite & (state.loss < state.best_loss)
    return state._replace(
        best_params=jax.tree.map(lambda new, old: jnp.where(better, new, old), state.params, state.best_params),
        best_loss=jnp.where(better, state.loss, state.best_loss),
    )


def same_loss(one: State, other: State) -> jax.Array:
    """Whether two states have the same loss but for rounding, `()` bool."""
    rounding = float(jnp.finfo(one.loss.dtype).eps) * jnp.abs(other.loss)
    return jnp.abs(one.loss - other.loss) <= SAME_LOSS * rounding


def with_records(state: State, old: State, keep: jax.Array) -> State:
    """The state with `best_*`, what chose them, `result` and `saturated` of an old one, where `keep`, `()` bool."""
    choose = lambda one, other: jnp.where(keep, one, other)  # noqa: E731 used at once
    return state._replace(
        best_params=jax.tree.map(choose, old.best_params, state.best_params),
        best_loss=choose(old.best_loss, state.best_loss),
        result=choose(old.result, state.result),
        saturated=choose(old.saturated, state.saturated),
        validation=choose(old.validation, state.validation),
        since_best=choose(old.since_best, state.since_best),
    )


def share_saturated(activation: Activation, layer: Layer, inputs: jax.Array, weights: jax.Array) -> jax.Array:
    """The share of a layer's units that are flat on all but a few rows: saturated, or dead as ReLUs are; `()`.

    Args:
        activation: of the layer; its slope at -1, 0 and 1 tells how steep it can be.
        layer: with m units.
        inputs: of the layer, `(n, d)`.
        weights: of the rows, `(n,)` of sum one.
    """
    slopes = jnp.abs(activation.derivative(matmul(inputs, layer.weight) + layer.bias[None, :]))
    steepest = jnp.max(jnp.abs(activation.derivative(jnp.asarray([-1.0, 0.0, 1.0], inputs.dtype))))
    flat = matmul(weights[None, :], (slopes < FLAT_SLOPE * steepest).astype(weights.dtype))
    return jnp.mean(flat > 1.0 - FEW_ROWS, dtype=inputs.dtype)


def norm_of_change(new: Params, old: Params) -> jax.Array:
    """`‖new − old‖₂` over all parameters, `()`."""
    change = flatten(jax.tree.leaves(jax.tree.map(jnp.subtract, new, old)))
    return jnp.sqrt(jnp.vdot(change, change, precision=HIGHEST))
