"""The algorithm: Gauss–Newton steps on the objective of the present α and β, which are updated after each."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import linearization, results
from jills.algorithm import Algorithm
from jills.evidence.curvature import Curvature, by_size
from jills.evidence.descent import Point, descend
from jills.evidence.objective import Objective, Rows, has_units
from jills.evidence.priors import Prior, groups_of, one_group
from jills.evidence.updates import updated
from jills.hparams import Limit, by_keyword
from jills.linalg import dot, flatten
from jills.transformations import cond, exported
from jills.types import Batch, Info, Params, State

FIRST_UPDATE = 2  # steps before α and β are moved
DAMPINGS, GROW, SHRINK = (1e-6, 1e3), 16.0, 0.25  # λ after a step that was not taken, and after one that was
REST, RESTING = 1e-2, 5  # log evidence that changes by less, in nats, for so many steps is at rest


@exported
@by_keyword
class Hparams(NamedTuple):
    """Where α, β and the damping start, by keyword; scalars, or `(H,)` in a sweep."""

    alpha: float | jax.Array = 10.0  # precision of all parameters, of standardised data
    beta: float | jax.Array = 1.0  # of the noise, of standardised targets; losses without noise do not ask for it

    limits = {name: Limit(0.0, math.inf, open_low=True) for name in ("alpha", "beta")}
    elsewhere = "; evidence chooses the weight decay itself, and its steps find their length"


@exported
class Detail(NamedTuple):
    """The signs of health of a step; its defaults stand for a member that has stopped."""

    log_evidence: Any = math.nan  # () at the last update, NaN before the first
    alpha: Any = math.nan  # (g,) of each group of the prior, of standardised data
    beta: Any = math.nan  # (1,), or (k,) of each output; of standardised targets
    effective_parameters: Any = math.nan  # (g,) γ, at the last update
    objective: Any = math.nan  # () S of the parameters received, for these α and β
    damping: Any = math.nan  # () λ, zero unless steps have failed
    accepted: Any = 0  # () int32, 1 where the step was kept
    resting: Any = 0  # () int32, steps in a row in which log evidence hardly changed
    gradient_norm: Any = math.nan  # () of S, in standardised parameters


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    alpha: jax.Array  # (g,); zero before the first step, which takes it from the hyperparameters
    beta: jax.Array  # (1,) or (k,); likewise
    effective: jax.Array  # (g,) γ of the last update
    log_evidence: jax.Array  # () of the last update
    resting: jax.Array  # () int32, steps in a row in which it hardly changed
    damping: jax.Array  # () λ


@dataclass(frozen=True, kw_only=True)
class Evidence(Algorithm):
    """The algorithm; make it with `build`."""

    prior: Prior = one_group
    noise_per_output: bool = False
    curvature: Curvature = by_size

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
        zeros, unknown = jnp.zeros(groups, dtype), jnp.full((), jnp.nan, dtype)
        rest = jnp.zeros((), jnp.int32)
        return Inner(zeros, jnp.zeros(betas, dtype), zeros, unknown, rest, jnp.zeros((), dtype))

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
        blocks = self.curvature(self.network)
        return Objective.of(self.network, blocks, self.loss, rows, each, beta, self.noise_per_output), alpha

    def update(self, hparams: Hparams, state: State, batch: Any) -> tuple[State, Detail]:
        """A step for the present α and β; the next ones come from the same curvature, at the parameters received."""
        inner = state.inner
        objective, alpha = self.objective(hparams, inner, batch)
        matrices = objective.enter(state.params)
        # A start that was drawn for data of size one may be meant for standardised data.
        drawn = list(linearization.stack(state.params))
        matrices = cond(state.step == 0, lambda: objective.fitted(matrices, drawn), lambda: matrices)
        theta, terms = flatten(matrices), objective.terms(matrices)
        gradient = terms.gradient + objective.alpha * theta
        start = Point(matrices, objective.at(terms.energies, theta), gradient)
        factored = objective.factor(terms, inner.damping)
        end = descend(objective, start, factored)
        taken = end.value < start.value
        found = updated(objective, self.groups, alpha, theta, terms.energies, factored)
        usable = jnp.isfinite(found.log_evidence) & (inner.damping == 0)
        keep = lambda new, old: jnp.where(usable, new, old)  # noqa: E731 used at once
        log_evidence = keep(found.log_evidence, inner.log_evidence)
        due = usable & (state.step >= FIRST_UPDATE)
        resting = rested(inner, log_evidence)
        # While α and β move, the next step has another objective to lower.
        failed = ~taken & ~(due & (resting == 0))
        raised, lowered = inner.damping * GROW, inner.damping * SHRINK
        damping = jnp.where(failed, jnp.clip(raised, *DAMPINGS), jnp.where(lowered < DAMPINGS[0], 0.0, lowered))
        new = Inner(
            alpha=jnp.where(due, found.alpha, alpha),
            beta=jnp.where(due, found.beta, objective.beta),
            effective=keep(found.effective, inner.effective),
            log_evidence=log_evidence,
            resting=resting,
            damping=damping,
        )
        detail = Detail(
            log_evidence=log_evidence,
            alpha=alpha,
            beta=objective.beta,
            effective_parameters=new.effective,
            objective=start.value,
            damping=inner.damping,
            accepted=taken.astype(jnp.int32),
            resting=new.resting,
            gradient_norm=jnp.sqrt(dot([gradient], [gradient])),
        )
        # A step that is not taken leaves every bit as it is, what the units round off included.
        params = jax.tree.map(lambda one, old: jnp.where(taken, one, old), objective.leave(end.matrices), state.params)
        return state._replace(params=params, inner=new), detail

    def ended(self, info: Info, code: jax.Array) -> jax.Array:
        """Also where log evidence has come to rest."""
        rests = (code == results.RUNNING) & (info.detail.resting >= RESTING)
        return jnp.where(rests, results.AT_REST, code).astype(code.dtype)


def rested(inner: Inner, log_evidence: jax.Array) -> jax.Array:
    """For how many steps in a row log evidence has hardly changed, `()` int32."""
    rounding = 64 * float(jnp.finfo(log_evidence.dtype).eps) * jnp.abs(log_evidence)
    small = jnp.abs(log_evidence - inner.log_evidence) <= REST + rounding
    return jnp.where(small, inner.resting + 1, jnp.zeros_like(inner.resting))
