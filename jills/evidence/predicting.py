"""What the posterior of a network says of new rows: linearised Laplace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jills import checks, linearization
from jills.arrays import cast
from jills.evidence.algorithm import Evidence
from jills.evidence.curvature import in_blocks
from jills.evidence.objective import has_units
from jills.evidence.updates import noise_share
from jills.predictions import Prediction
from jills.types import Batch, State

MOST_ENTRIES = 2**22  # of the Jacobian of a block of rows


def predict(algorithm: Evidence, state: State, batch: Batch, inputs: Any) -> Prediction:
    """The prediction for new rows, with the variance of the function and of the noise.

        mean = f(x; θ),   variance = J H⁻¹ Jᵀ,  J = ∂ f(x) / ∂ θ,  H = G + diag(α),   noise = τ / β = 2 Σ e / (N − γ)

    in the units of the targets (of Huber's loss, τ times the variance of its density). Of classes `mean` holds the
    probabilities at θ, `variance` that of the logits, and `moderated` the probabilities of logits that are shrunk by
    `√(1 + π/8 variance)` (MacKay 1992), which are less sure.

    Pure: `jax.vmap` over states takes all members of a sweep at once.

    Args:
        algorithm: of `jills.evidence.build`.
        state: trained by it; its `params` are taken, with their α and β.
        batch: the rows it was trained on, with their weights: H is taken anew from them.
        inputs: `(m, d)`.

    Raises:
        ValueError: a state of another algorithm, or arrays that do not fit.
    """
    checks.check_kind("algorithm", algorithm, Evidence, "one of jills.evidence.build(network)")
    checks.check_state_kind(state)
    algorithm.check_problem(state.params, batch)
    algorithm.network.check_inputs(inputs)
    state = checks.checked_state(state, jax.eval_shape(lambda: algorithm.blank(state.params, batch)))
    dtype = state.loss.dtype
    return _predict(algorithm, state, batch, cast(inputs, dtype))


def _predict(algorithm, state, batch, inputs):
    network, dtype = algorithm.network, state.loss.dtype
    rows = algorithm.resume(state, batch)[1]
    objective, _ = algorithm.objective(cast(algorithm.defaults, dtype), state.inner.course, rows)
    matrices = objective.enter(state.params)
    factored = objective.factor(objective.statistics(matrices, objective.forward(matrices)))
    columns = rows.standard.rows(inputs)
    layers = [block.layers for block in objective.blocks]
    k, m = network.sizes[-1], columns.shape[1]
    size = max(1, min(m, MOST_ENTRIES // (k * network.num_params)))

    def block(columns):
        current = linearization.forward(network, matrices, columns)
        sensitivity = linearization.sensitivities(matrices, current, (0, network.num_layers - 1))
        return current.prediction, factored.variances(layers, current.below, sensitivity)

    values, variance = jax.lax.map(block, in_blocks(columns, size))
    values, variance = (jnp.moveaxis(part, 0, 1).reshape(k, -1)[:, :m].T for part in (values, variance))
    loss, targets = algorithm.loss, rows.standard.targets
    if loss.probabilities is not None:
        shrunk = values / jnp.sqrt(1.0 + (np.pi / 8.0) * variance)
        return Prediction(loss.probabilities(values), variance, jnp.zeros(k, dtype), loss.probabilities(shrunk))
    noise = jnp.zeros(k, dtype)
    if has_units(network, loss):
        variance_of = objective.likelihood.loss.noise.variance
        share = noise_share(factored.determined(), rows.total, network)
        noise = share * jnp.broadcast_to(jax.vmap(variance_of)(objective.beta), (k,)) * jnp.square(targets.scale)
    mean = values * targets.scale[None, :] + targets.mean[None, :]
    return Prediction(mean, variance * jnp.square(targets.scale)[None, :], noise, mean)
