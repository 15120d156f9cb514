"""The algorithm: damped Gauss–Newton steps on the objective of the present α and β, and their updates between them."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills import linalg
from jills.algorithm import Algorithm
from jills.evidence import posterior
from jills.evidence.curvature import Terms
from jills.evidence.objective import Objective, Rows, has_units
from jills.evidence.priors import Prior, groups_of, one_group
from jills.evidence.updates import updated
from jills.gauss_newton import linearization
from jills.hparams import Limit, by_keyword
from jills.linalg import dot, flatten, unflatten
from jills.transformations import cond, exported
from jills.types import Batch, Params, State

import os
FIRST_UPDATE, BETWEEN = int(os.environ.get("FU","5")), int(os.environ.get("BT","3"))
TRIALS = int(os.environ.get("TR","8"))
LARGEST_GROWTH = 64.0
SMALLEST_DAMPING, LARGEST_DAMPING = 1e-8, 1e8


@exported
@by_keyword
class Hparams(NamedTuple):
    """Where α, β and the damping start, by keyword; scalars, or `(H,)` in a sweep."""

    alpha: float | jax.Array = 10.0  # precision of all parameters, of standardised data
    beta: float | jax.Array = 1.0  # of the noise, of standardised targets; losses without noise do not ask for it
    damping: float | jax.Array = 1e-2  # λ

    limits = {name: Limit(0.0, math.inf, open_low=True) for name in ("alpha", "beta", "damping")}
    elsewhere = "; evidence chooses the weight decay itself, and its steps find their length"


@exported
class Detail(NamedTuple):
    """The signs of health of a step; its defaults stand for a member that has stopped."""

    log_evidence: Any = math.nan  # () at the last update, NaN before the first
    alpha: Any = math.nan  # (g,) of each group of the prior, of standardised data
    beta: Any = math.nan  # (1,), or (k,) of each output; of standardised targets
    effective_parameters: Any = math.nan  # (g,) γ, at the last update
    objective: Any = math.nan  # () S of the parameters received, for these α and β
    damping: Any = math.nan  # () λ
    accepted: Any = 0  # () int32, 1 where the step was kept
    gradient_norm: Any = math.nan  # () of S, in standardised parameters


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    alpha: jax.Array  # (g,); zero before the first step, which takes it from the hyperparameters
    beta: jax.Array  # (1,) or (k,); likewise
    effective: jax.Array  # (g,) γ of the last update
    log_evidence: jax.Array  # () of the last update
    damping: jax.Array  # () λ over that of the hyperparameters
    growth: jax.Array  # () ν, by which the next rejection multiplies λ


@dataclass(frozen=True, kw_only=True)
class Evidence(Algorithm):
    """The algorithm; make it with `build`."""

    prior: Prior = one_group
    noise_per_output: bool = False

    defaults: ClassVar = Hparams()

    def __post_init__(self):
        super().__post_init__()
        groups_of(self.prior, self.network)

    @property
    def groups(self) -> np.ndarray:
        """The group of every parameter, `(p,)`, in the order of the stacked layers `[W; b]`."""
        return groups_of(self.prior, self.network)

    @property
    def blank_detail(self) -> Detail:
        """Of a member that has stopped."""
        groups, betas = self._counts
        several = np.full(groups, np.nan)
        return Detail(alpha=several, beta=np.full(betas, np.nan), effective_parameters=several)

    @property
    def _counts(self):
        return int(self.groups.max()) + 1, self.network.sizes[-1] if self.noise_per_output else 1

    def start(self, params: Params) -> Inner:
        """Nothing is known of α and β before the first step."""
        dtype, (groups, betas) = params[0].weight.dtype, self._counts
        zeros, one = jnp.zeros(groups, dtype), jnp.ones((), dtype)
        return Inner(zeros, jnp.zeros(betas, dtype), zeros, jnp.full((), jnp.nan, dtype), one, 2 * one)

    def _prepare(self, batch: Batch, dtype):
        prepared, mark = super()._prepare(batch, dtype)
        alike = not self.loss.quadratic
        return Rows.of(prepared, batch, has_units(self.network, self.loss), alike), mark

    def objective(self, hparams: Hparams, inner: Inner, rows: Rows) -> tuple[Objective, jax.Array]:
        """For the α and β of a state, or of the hyperparameters before the first step; and α of each group, `(g,)`."""
        fresh = inner.alpha[0] == 0
        alpha = jnp.where(fresh, hparams.alpha, inner.alpha)
        learnt = has_units(self.network, self.loss)
        beta = jnp.where(fresh, hparams.beta, inner.beta) if learnt else jnp.ones_like(inner.beta)
        groups = self.groups
        each = jnp.broadcast_to(alpha, groups.shape) if alpha.shape[0] == 1 else alpha[groups]
        return Objective.of(self.network, self.loss, rows, each, beta, self.noise_per_output), alpha

    def update(self, hparams: Hparams, state: State, batch: Any) -> tuple[State, Detail]:
        """A step for the present α and β; the next ones come from the curvature at the parameters received."""
        inner = state.inner
        objective, alpha = self.objective(hparams, inner, batch)
        matrices = objective.enter(state.params)
        # A start that was drawn for data of size one may be meant for standardised data.
        drawn = list(linearization.stack(state.params))
        matrices = cond(state.step == 0, lambda: objective.fitted(matrices, drawn), lambda: matrices)
        theta, terms = flatten(matrices), objective.terms(matrices)
        gradient = terms.gradient + objective.alpha * theta
        value = objective.at(terms.energies, theta)
        start = Trial(jnp.zeros((), jnp.int32), matrices, value, hparams.damping * inner.damping, inner.growth)
        end = descend(objective, start, terms, gradient)
        taken = end.value < value
        due = (state.step >= FIRST_UPDATE) & ((state.step - FIRST_UPDATE) % BETWEEN == 0)
        inner = inner._replace(alpha=alpha, beta=objective.beta)
        new = cond(due, lambda: self._updated(objective, inner, theta, terms), lambda: inner)
        detail = Detail(
            log_evidence=new.log_evidence,
            alpha=alpha,
            beta=objective.beta,
            effective_parameters=new.effective,
            objective=value,
            damping=start.damping,
            accepted=taken.astype(jnp.int32),
            gradient_norm=jnp.sqrt(dot([gradient], [gradient])),
        )
        # A step that is not taken leaves every bit as it is, what the units round off included.
        params = jax.tree.map(lambda one, old: jnp.where(taken, one, old), objective.leave(end.matrices), state.params)
        new = new._replace(damping=end.damping / hparams.damping, growth=end.growth)
        return state._replace(params=params, inner=new), detail

    def _updated(self, objective, inner, theta, terms):
        """The old α and β stay where those found are not finite."""
        found = updated(objective, self.groups, inner.alpha, theta, terms)
        keep = lambda new, old: jnp.where(jnp.isfinite(found.log_evidence), new, old)  # noqa: E731 used at once
        return inner._replace(
            alpha=keep(found.alpha, inner.alpha),
            beta=keep(found.beta, inner.beta),
            effective=keep(found.effective, inner.effective),
            log_evidence=keep(found.log_evidence, inner.log_evidence),
        )


class Trial(NamedTuple):
    """Where a step stands: before it, or after a trial of a damping."""

    count: jax.Array  # () int32, trials made
    matrices: list[jax.Array]  # θ^l of standardised data
    value: jax.Array  # () S
    damping: jax.Array  # () λ of the next trial
    growth: jax.Array  # () ν


def descend(objective: Objective, start: Trial, terms: Terms, gradient: jax.Array) -> Trial:
    """A step at the first of growing dampings that lowers S; the start, where none does.

        (C + λ I) Δ' = −D^-½ g,  θ + D^-½ Δ',  then the output layer solved;   H = D^½ C D^½

    λ shrinks by the gain, actual over promised decrease, and grows faster with each rejection (Nielsen 1999).
    """
    scaled, diagonal = posterior.scaled_to_unit(terms.gram, objective.alpha)
    root = jnp.sqrt(diagonal)
    right = -gradient / root
    smallest = max(posterior.rounding(scaled), SMALLEST_DAMPING)

    def going(trial):
        return (trial.count < TRIALS) & ~(trial.value < start.value)

    def attempt(trial):
        damping = jnp.clip(trial.damping, smallest, LARGEST_DAMPING)
        change = linalg.solve(posterior.shifted(scaled, damping), right)
        parts = unflatten(change / root, start.matrices)
        matrices = objective.solved([old + part for old, part in zip(start.matrices, parts, strict=True)])
        value = objective.value(matrices)
        promised = 0.5 * (damping * dot([change], [change]) + dot([right], [change]))
        taken = value < start.value
        gain = jnp.minimum((start.value - value) / jnp.where(promised > 0, promised, 1.0), 1.0)
        shrink = jnp.maximum(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3)
        factor = jnp.where(taken, shrink, trial.growth)
        growth = jnp.where(taken, 2.0, jnp.minimum(2.0 * trial.growth, LARGEST_GROWTH))
        return Trial(trial.count + 1, matrices, value, damping * factor, growth)

    end = lax.while_loop(going, attempt, start)
    damping = jnp.clip(end.damping, smallest, LARGEST_DAMPING)
    taken = end.value < start.value
    matrices = [jnp.where(taken, new, old) for new, old in zip(end.matrices, start.matrices, strict=True)]
    return end._replace(matrices=matrices, damping=damping)
