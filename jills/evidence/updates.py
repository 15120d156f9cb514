"""α, β, effective parameters and log evidence, by the curvature at the parameters of a step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.evidence.objective import Objective, has_units
from jills.evidence.posterior import ALPHA, BETA, LEAST_EFFECTIVE, LEAST_FREEDOM, Factored, moved, sums
from jills.linalg import dot

import os
RANGE = float(os.environ.get("RANGE","10"))  # no group's α lies further below that of all parameters together


class Update(NamedTuple):
    """What an update finds."""

    alpha: jax.Array  # (g,)
    beta: jax.Array  # (1,) or (k,)
    effective: jax.Array  # (g,) γ
    log_evidence: jax.Array  # () for the α and β before it, of the targets in their units


def updated(
    objective: Objective,
    groups: np.ndarray,
    alpha: jax.Array,
    theta: jax.Array,
    energies: jax.Array,
    factored: Factored,
) -> Update:
    """The next α and β. Anything may be NaN where H could not be factored.

    Args:
        objective: for the present α and β.
        groups: `(p,)`, the group of every parameter.
        alpha: `(g,)` of each group.
        theta: `(p,)`, the parameters.
        energies: at θ.
        factored: H at θ.
    """
    determined = factored.determined(objective.alpha)
    sizes = jnp.asarray(np.bincount(groups), theta.dtype)
    effective = jnp.clip(sums(determined, groups), LEAST_EFFECTIVE, sizes)
    squares = sums(jnp.square(theta), groups)
    common = jnp.sum(effective) / jnp.sum(squares)
    # What one layer loses in weight another can make up for: without a bound one α would fall for ever.
    new_alpha = moved(alpha, jnp.maximum(effective / squares, common / RANGE), ALPHA)
    log_evidence = -objective.at(energies, theta) - 0.5 * factored.log_det() + 0.5 * dot([sizes], [jnp.log(alpha)])
    network, beta = objective.network, objective.beta
    if not has_units(network, objective.likelihood.loss):
        return Update(new_alpha, beta, effective, log_evidence)
    total, betas = objective.rows.total, beta.shape[0]
    count = total * (network.sizes[-1] // betas)  # rows times outputs, of each β
    # `−2 β ∂ log Z / ∂ β` is one of Gaussian noise.
    log_normalizer, slope = jax.vmap(jax.value_and_grad(objective.likelihood.loss.noise.log_normalizer))(beta)
    freedom = count * (-2.0 * beta * slope) - _of_outputs(determined, betas, network)
    wanted = 0.5 * jnp.maximum(freedom, LEAST_FREEDOM * count) / energies
    units = total * jnp.sum(jnp.log(objective.rows.standard.targets.scale))
    log_evidence -= count * jnp.sum(log_normalizer) + units
    return Update(new_alpha, moved(beta, wanted, BETA), effective, log_evidence)


def _of_outputs(determined, betas, network):
    """γ of each β: that of an output's own parameters, and an equal share of all others."""
    if betas == 1:
        return jnp.sum(determined)[None]
    last = (network.sizes[-2] + 1) * betas
    own = jnp.sum(determined[-last:].reshape(-1, betas), axis=0)
    return own + jnp.sum(determined[:-last]) / betas
