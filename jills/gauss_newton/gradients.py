"""The gradient of the objective over all layers: its norm, and how small it is beside what cancels in it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jills import linearization
from jills.gauss_newton.model import Objective
from jills.linalg import dot, matmul
from jills.linearization import Pass, gathered


def gradients(objective: Objective, matrices: Sequence[jax.Array], current: Pass) -> tuple[jax.Array, jax.Array]:
    """The norm of the objective's gradient, without units, and beside its terms before they cancel; both `()`.

    The latter lies in [0, 1] and is small at a minimum:

        max_l ‖A^lᵀ s^l + δ θ^l‖ / (‖A^l‖² ‖s^l‖² + ‖δ θ^l‖²)^½  ·  ‖s‖ / (‖s‖² + ‖s_e‖²)^½

    with `s^l` the slopes of the loss in the total inputs, `s` those in the predictions, and `s_e` the slopes of an
    error of the targets' size (of the predictions' deviation, where targets have no unit): slopes that are mere
    rounding beside it belong to an exact fit. No units matter, and no outlier that outweighs the loss but pulls like
    any other row, as with Huber's: a gradient over the loss would vanish beside it.
    """
    rows = objective.rows
    slope = objective.slope(current.prediction)
    cotangents = _cotangents(matrices, current, slope)
    largest = jnp.max(jnp.abs(slope))
    shrink = 1.0 / jnp.where(largest > 0, largest, jnp.ones_like(largest))  # squares must be numbers in float32
    # Norms over rows by weight: of A with it, of slopes, which hold it already, with its inverse.
    omega = rows.omega
    inverse = jnp.where(omega > 0, _over(1.0, omega), jnp.zeros_like(omega))
    gradient, shares = [], []
    below = (rows.scaled_inputs, *current.below[1:])
    for layer, (inputs, cotangent, matrix) in enumerate(zip(below, cotangents, matrices, strict=True)):
        decay, fall = objective.decays[layer] * matrix, gathered(inputs, cotangent)
        if layer > 0:
            gradient.append(fall + decay)
        else:  # in inputs that are centred and scaled
            gradient.append(rows.scaling.gradient(fall) + decay)
            decay = rows.scaling.transposed(decay)
        whole = _weighed(inputs, omega) * _weighed(shrink * cotangent, inverse) + _square(shrink * decay)
        shares.append(_over(_square(shrink * (fall + decay)), whole))
    values = current.prediction
    error = shrink * (values - matmul(values, rows.omega)[:, None] if rows.unit is None else jnp.ones_like(values))
    own, other = _weighed(shrink * slope, inverse), _weighed(objective.curve(values, error), inverse)
    relative = jnp.sqrt(jnp.minimum(jnp.max(jnp.stack(shares)) * _over(own, own + other), 1.0))
    # Over s² the objective, over s the output layer's parameters: in this order, so that no square vanishes.
    parts, unit = list(objective.in_units(gradient)), rows.unit
    norm = jnp.sqrt(dot(parts, parts))
    return norm if unit is None else norm * unit * unit, relative


def _cotangents(matrices, current, slope):
    """`s^l` of all layers; of one output as a `Model` takes them, so that XLA computes them and what follows once."""
    block = (0, len(matrices) - 1)
    if slope.shape[0] > 1:
        return linearization.backward(matrices, current.slopes, block, slope)
    return [one * slope for one in linearization.backward(matrices, current.slopes, block, jnp.ones_like(slope))]


def _square(array):
    return dot([array], [array])


def _weighed(array, weights):
    """`Σ_n w_n ‖a_n‖²` of `(m, n)`."""
    # By a product with the weights: as one sum it would be a long one, see `jills.compilation`.
    return jnp.sum(matmul(jnp.square(array), weights))


def _over(part, whole):
    """`part / whole`, and zero where both are."""
    return part / jnp.where(whole > 0, whole, jnp.ones_like(whole))
