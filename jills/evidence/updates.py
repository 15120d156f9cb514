"""α, β, effective parameters and log evidence, by the curvature that a step has factored.

    γ_g = Σ_(i in g) (1 − α_g H⁻¹_ii)
    log evidence = −S − ½ log det H + ½ Σ_g p_g log α_g − N Σ log Z(β)
    α_g ← max(γ_g / ‖θ_g‖², γ / ‖θ‖²),   β ← τ max(N − γ, N / 50) / 2 Σ e,   τ = 1 − γ_hidden / N

(MacKay, Neural Computation 4, 1992, but for the maximum and τ.) N − γ counts what a linear model takes from the noise.
Hidden layers turn their basis towards it besides: by as much again, so training takes the noise for larger by 1/τ, as
generalised cross-validation would; without them τ is one. The noise that is told remains `τ/β = 2 Σ e / (N − γ)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.evidence.factors import Posterior
from jills.evidence.objective import Objective, has_units
from jills.linalg import dot, matmul
from jills.network import Network

ALPHA = (1e-4, 1e6)  # limits, of standardised data
BETA = (1e-3, 1e8)
LARGEST_CHANGE = 10.0  # a factor, of an α or β in one update
LEAST_FREEDOM = 0.02  # of the rows: what is left of them beside the effective parameters
LEAST_EFFECTIVE = 1e-3


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
    together: jax.Array,
    theta: jax.Array,
    energies: jax.Array,
    factored: Posterior,
    value: jax.Array,
) -> Update:
    """The next α and β. Anything may be NaN where H could not be factored.

    Args:
        objective: for the present α and β.
        groups: `(p,)`, the group of every parameter.
        alpha: `(g,)` of each group.
        together: `()` bool, whether all groups still share one α.
        theta: `(p,)`, the parameters.
        energies: at θ.
        factored: H at θ, or where the step that led to θ began.
        value: S, `()`, where H was factored.
    """
    determined = factored.determined()
    sizes = jnp.asarray(np.bincount(groups), theta.dtype)
    effective = jnp.clip(sums(determined, groups), LEAST_EFFECTIVE, sizes)
    squares = sums(jnp.square(theta), groups)
    common = jnp.sum(effective) / jnp.sum(squares)
    # What one layer loses in weight another can make up for: an α below the common one would fall for ever.
    own = jnp.where(together, common, jnp.maximum(effective / squares, common))
    new_alpha = moved(alpha, own, ALPHA)
    log_evidence = -value - 0.5 * factored.log_det() + 0.5 * dot([sizes], [jnp.log(alpha)])
    network, beta = objective.network, objective.beta
    if not has_units(network, objective.likelihood.loss):
        return Update(new_alpha, beta, effective, log_evidence)
    total, betas = objective.rows.total, beta.shape[0]
    count = total * (network.sizes[-1] // betas)  # rows times outputs, of each β
    noise: Any = objective.likelihood.loss.noise
    # `−2 β ∂ log Z / ∂ β` is one of Gaussian noise.
    log_normalizer, slope = jax.vmap(jax.value_and_grad(noise.log_normalizer))(beta)
    freedom = count * (-2.0 * beta * slope) - _of_outputs(determined, betas, network)
    wanted = 0.5 * noise_share(determined, total, network) * jnp.maximum(freedom, LEAST_FREEDOM * count) / energies
    units = total * jnp.sum(jnp.log(objective.rows.standard.targets.scale))
    log_evidence -= count * jnp.sum(log_normalizer) + units
    return Update(new_alpha, moved(beta, wanted, BETA), effective, log_evidence)


def noise_share(determined: jax.Array, total: jax.Array, network: Network) -> jax.Array:
    """τ, `()`: the noise, as a share of what training takes for it.

    Args:
        determined: how far the data determine each parameter, `(p,)`.
        total: N.
        network: with k outputs.
    """
    *_, last, k = network.sizes
    hidden = jnp.sum(determined[: -(last + 1) * k])
    return jnp.maximum(1.0 - hidden / (total * k), LEAST_FREEDOM)


def _of_outputs(determined, betas, network):
    """γ of each β: that of an output's own parameters, and an equal share of all others."""
    if betas == 1:
        return jnp.sum(determined)[None]
    last = (network.sizes[-2] + 1) * betas
    own = jnp.sum(determined[-last:].reshape(-1, betas), axis=0)
    return own + jnp.sum(determined[:-last]) / betas


def sums(values: jax.Array, groups: np.ndarray) -> jax.Array:
    """Of each group, `(g,)`, of values `(p,)`."""
    count = int(groups.max()) + 1
    if count == 1:
        return jnp.sum(values)[None]
    member = groups[None, :] == np.arange(count)[:, None]
    return matmul(jnp.asarray(member, values.dtype), values)


def moved(old: jax.Array, wanted: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """Towards what is wanted, by at most a factor, within limits; the old one where that is not finite."""
    near = jnp.clip(wanted, old / LARGEST_CHANGE, old * LARGEST_CHANGE)
    return jnp.where(jnp.isfinite(wanted), jnp.clip(near, *limits), old)
