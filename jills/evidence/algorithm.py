"""The algorithm: steps on the objective of the present α and β, which are updated after each."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import linearization, results
from jills.algorithm import Algorithm
from jills.evidence.curvature import Curvature, by_size
from jills.evidence.descent import Point, descend, pass_at
from jills.evidence.objective import Objective, Rows, has_units
from jills.evidence.priors import Prior, groups_of, one_group
from jills.evidence.updates import updated
from jills.hparams import Limit, by_keyword
from jills.linalg import flatten
from jills.transformations import cond, exported
from jills.types import Batch, Info, Params, State

FIRST_UPDATE = 2  # steps before α and β are moved
TOGETHER = 12  # steps in which all groups share one α: until then weights say little of what an input is good for
DAMPINGS, GROW, SHRINK = (1e-6, 1e3), 16.0, 0.25  # λ after a step that was not taken, and after one that was
LESS = 0.01  # of α, at the second start
MARGIN, PATIENCE = 0.1, 20  # nats a row by which its evidence must be better, and within how many steps
REST, RESTING = 1e-2, 5  # log evidence that changes by less, in nats, for so many steps is at rest


@exported
@by_keyword
class Hparams(NamedTuple):
    """Where α and β start, by keyword; scalars, or `(H,)` in a sweep."""

    alpha: float | jax.Array = 10.0  # precision of all parameters, of standardised data
    beta: float | jax.Array = 1.0  # of the noise, of standardised targets; losses without noise do not ask for it

    limits = {name: Limit(0.0, math.inf, open_low=True) for name in ("alpha", "beta")}
    elsewhere = "; evidence chooses the weight decay itself, and its steps find their length"


@exported
class Detail(NamedTuple):
    """The signs of health of a step; its defaults stand for a member that has stopped."""

    log_evidence: Any = math.nan  # () by the curvature at the parameters received; so is γ
    alpha: Any = math.nan  # (g,) of each group of the prior, for the next step; of standardised data
    beta: Any = math.nan  # (1,), or (k,) of each output; likewise, of standardised targets
    effective_parameters: Any = math.nan  # (g,) γ
    objective: Any = math.nan  # () S of the parameters that the step set out from
    damping: Any = math.nan  # () λ, zero unless steps have failed
    accepted: Any = 0  # () int32, 1 where the step was kept
    resting: Any = 0  # () int32, steps in a row in which log evidence hardly changed, with no other start to try


@exported
class Course(NamedTuple):
    """How far one way down from the start has come."""

    alpha: jax.Array  # (g,)
    beta: jax.Array  # (1,) or (k,)
    effective: jax.Array  # (g,) γ
    log_evidence: jax.Array  # () the lowest number of its dtype where it is not known yet
    resting: jax.Array  # () int32, steps in a row in which it hardly changed
    damping: jax.Array  # () λ
    steps: jax.Array  # () int32, taken on it


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    course: Course  # of the state's params; its α is zero before the first step
    second: Course  # from the same start with less prior; followed once the first has come to rest
    second_params: Params  # where that is; until then the start
    phase: jax.Array  # () int32: FIRST, SECOND while that is followed, or DONE
    drawn: jax.Array  # () bool, whether the start means standardised data: it was drawn for them, not trained on these


FIRST, SECOND, DONE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Evidence(Algorithm):
    """The algorithm; make it with `build`."""

    prior: Prior = one_group
    noise_per_output: bool = False
    curvature: Curvature = by_size
    single: bool = False  # see `alone`

    defaults: ClassVar = Hparams()
    # Its time goes into products and LAPACK, which are no kernels of XLA's: these compile in half the time without
    # emitters of fusions, and run as fast.
    compiler_options: ClassVar = {"xla_cpu_use_fusion_emitters": False}

    def __post_init__(self):
        super().__post_init__()
        groups_of(self.prior, self.network)

    def alone(self) -> "Evidence":
        """With G of few rows as one product, which all cores share and which compiles sooner."""
        return replace(self, single=True)

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
        zeros, none = jnp.zeros(groups, dtype), jnp.zeros((), jnp.int32)
        unknown = jnp.full((), float(jnp.finfo(dtype).min), dtype)
        blank = Course(zeros, jnp.zeros(betas, dtype), zeros, unknown, none, jnp.zeros((), dtype), none)
        # Without a hidden layer there is one minimum only.
        phase = none + (DONE if self.network.num_layers == 1 else FIRST)
        return Inner(blank, blank, params, phase, jnp.zeros((), bool))

    def _prepare(self, batch: Batch, dtype):
        prepared, mark = super()._prepare(batch, dtype)
        return Rows.of(prepared, batch, self.loss, has_units(self.network, self.loss)), mark

    def objective(self, hparams: Hparams, course: Course, rows: Rows) -> tuple[Objective, jax.Array]:
        """For the α and β of a course, or of the hyperparameters before its first step; and α of each group, `(g,)`."""
        fresh = course.alpha[0] == 0
        alpha = jnp.where(fresh, hparams.alpha, course.alpha)
        learnt = has_units(self.network, self.loss)
        beta = jnp.where(fresh, hparams.beta, course.beta) if learnt else jnp.ones_like(course.beta)
        groups = self.groups
        each = jnp.broadcast_to(alpha, groups.shape) if alpha.shape[0] == 1 else alpha[groups]
        blocks = self.curvature(self.network)
        split, single = self.noise_per_output, self.single
        return Objective.of(self.network, blocks, self.loss, rows, each, beta, split, single), alpha

    def update(self, hparams: Hparams, state: State, batch: Any) -> tuple[State, Detail]:
        """A step of the course that is followed; the state's params are those of the one that is kept."""
        inner: Inner = state.inner
        fresh = (inner.course.steps == 0) & ~(state.loss < batch.useful)
        state = state._replace(inner=inner._replace(drawn=inner.drawn | fresh))
        second = inner.phase == SECOND
        first, other = (inner.course, state.params), (inner.second, inner.second_params)
        course, params = cond(second, lambda: other, lambda: first)
        share = jnp.where(second, LESS, 1.0).astype(state.loss.dtype)
        hparams = hparams._replace(alpha=share * hparams.alpha)
        course, params, detail = self._advanced(hparams, course, params, batch, state.inner.drawn)
        state, resting = _arranged(state, course, params, batch)
        kept = state.inner.course
        return state, detail._replace(
            log_evidence=kept.log_evidence,
            alpha=kept.alpha,
            beta=kept.beta,
            effective_parameters=kept.effective,
            resting=resting,
        )

    def _advanced(self, hparams, course, params, rows, drawn):
        """A step for the present α and β; the next ones come from the curvature at its start, and from where it ends.

        Where H has blocks only, a step does not reach the minimum; there they come from the parameters received.
        """
        objective, alpha = self.objective(hparams, course, rows)
        as_given, pairs = (
            drawn & (course.steps == 0),
            zip(linearization.stack(params), objective.enter(params), strict=True),
        )
        matrices = [jnp.where(as_given, given, entered) for given, entered in pairs]
        current = objective.forward(matrices)
        start = Point(matrices, objective.value(matrices, current), objective.kept(current))
        factored = objective.factor(objective.statistics(matrices, current), course.damping)
        end = descend(objective, start, factored)
        taken = end.value < start.value
        theta, value, linear = flatten(matrices), start.value, self.network.num_layers == 1
        if factored.is_whole or linear:
            # A step ends near the minimum. By the parameters before it, α may swing from one value to another for ever.
            theta, current = flatten(end.matrices), pass_at(objective, end)
            value = end.value if linear else value  # H of a linear model is that of its end, too
        energies = objective.likelihood.energies(current.prediction)
        together = course.steps < (TOGETHER if alpha.shape[0] > 1 else 0)
        found = updated(objective, self.groups, alpha, together, theta, energies, factored, value)
        usable = jnp.isfinite(found.log_evidence) & (course.damping == 0)
        keep = lambda new, old: jnp.where(usable, new, old)  # noqa: E731 used at once
        log_evidence = keep(found.log_evidence, course.log_evidence)
        due = usable & (course.steps >= FIRST_UPDATE)
        resting = jnp.where(together, 0, _rested(course, log_evidence))
        # While α and β move, or have yet to, the next step has another objective to lower.
        failed = ~taken & ~(usable & ((resting == 0) | ~due))
        raised, lowered = course.damping * GROW, course.damping * SHRINK
        new = Course(
            alpha=jnp.where(due, found.alpha, alpha),
            beta=jnp.where(due, found.beta, objective.beta),
            effective=keep(found.effective, course.effective),
            log_evidence=log_evidence,
            resting=resting,
            damping=jnp.where(failed, jnp.clip(raised, *DAMPINGS), jnp.where(lowered < DAMPINGS[0], 0.0, lowered)),
            steps=course.steps + 1,
        )
        detail = Detail(
            objective=start.value,
            damping=course.damping,
            accepted=taken.astype(jnp.int32),
        )
        # A step that is not taken leaves every bit as it is, what the units round off included.
        left = objective.leave(end.matrices)
        return new, cond(taken, lambda: left, lambda: params), detail

    def ended(self, info: Info, code: jax.Array) -> jax.Array:
        """Also where log evidence has come to rest, on both courses."""
        rests = (code == results.RUNNING) & (info.detail.resting >= RESTING)
        return jnp.where(rests, results.AT_REST, code).astype(code.dtype)


def _rested(course, log_evidence):
    """For how many steps in a row log evidence has hardly changed, `()` int32."""
    rounding = 64 * float(jnp.finfo(log_evidence.dtype).eps) * jnp.abs(log_evidence)
    small = jnp.abs(log_evidence - course.log_evidence) <= REST + rounding
    return jnp.where(small, course.resting + 1, jnp.zeros_like(course.resting))


def _arranged(state, course, params, rows):
    """The state after a step of the course that is followed; and for how many steps all that it may do has rested.

    A strong prior at the start serves noisy tables, but may hold a network at a constant or a straight line. So once
    the first course rests, or is no better than a constant after TOGETHER steps, the start is tried again with less;
    the state keeps the first until the second's evidence is better by far.
    """
    inner = state.inner
    second = inner.phase == SECOND
    better = second & (course.log_evidence > inner.course.log_evidence + MARGIN * rows.total)
    given_up = second & ~better & ((course.steps >= PATIENCE) | (course.resting >= RESTING))
    held = (course.steps >= TOGETHER) & ~(state.loss < rows.useful)
    rested = (inner.phase == FIRST) & ((course.resting >= RESTING) | held)
    phase = jnp.where(rested, SECOND, jnp.where(better | given_up, DONE, inner.phase))
    kept = ~second | better  # whether what was followed is what the state keeps
    # The first may still begin where it rested: only the last of both ends a member.
    waiting = course._replace(resting=jnp.where(rested, jnp.zeros_like(course.resting), course.resting))
    old, old_second = (state.params, inner.course), (inner.second_params, inner.second)
    params_kept, first = cond(kept, lambda: (params, waiting), lambda: old)
    second_params, other = cond(second, lambda: (params, course), lambda: old_second)
    inner = inner._replace(course=first, second=other, second_params=second_params, phase=phase.astype(jnp.int32))
    new = state._replace(params=params_kept, inner=inner)
    return new, jnp.where(given_up, RESTING, jnp.where(phase == DONE, course.resting, 0)).astype(jnp.int32)
