"""Gauss–Newton on a full batch: all layers by quasi-Newton, or blocks from the top down; each with its own damping."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jills import linearization, results
from jills.algorithm import Algorithm
from jills.gauss_newton import iterative
from jills.gauss_newton.damping import LARGEST_DAMPING, Damping, after_trials, follow, undisturbed
from jills.gauss_newton.line_search import Position, backtrack
from jills.gauss_newton.model import Model, Objective, has_units, is_quadratic
from jills.gauss_newton.quasi_newton import descend
from jills.gauss_newton.rows import Rows, size_of
from jills.gauss_newton.solve import Automatic, propose
from jills.gauss_newton.start import fitted, gradients_at, lower
from jills.hparams import Limit, by_keyword
from jills.linearization import Block
from jills.quasi_newton import Pairs
from jills.transformations import exported
from jills.types import Batch, Info, Params, State


@exported
@by_keyword
class Hparams(NamedTuple):
    """The hyperparameters of Gauss–Newton on a full batch, by keyword; scalars, or `(H,)` in a sweep."""

    weight_decay: float | jax.Array = 0.0  # δ, absolute: the objective is loss + ½ δ ‖θ‖²
    damping: float | jax.Array = 1e-2  # λ at the start

    limits = {"weight_decay": Limit(0.0, math.inf), "damping": Limit(0.0, math.inf, open_low=True)}
    elsewhere = (
        "; a full-batch step finds its length itself; on minibatches (full_batch=False) learning_rate and momentum are "
        "those of gauss_newton.MinibatchHparams"
    )


@exported
class Detail(NamedTuple):
    """The signs of health of a Gauss–Newton step; its defaults stand for a member that has stopped."""

    gradient_norm: float | jax.Array = math.nan  # () of loss plus decay, where the step sets out from
    objective: float | jax.Array = math.nan  # () loss + ½ δ ‖θ‖², of the parameters received
    damping: float | jax.Array = math.nan  # () the largest λ of all blocks, in this step
    accepted: int | jax.Array = 0  # () int32, blocks whose step was kept, and quasi-Newton trials that were
    products: int | jax.Array = 0  # () int32, conjugate-gradient products in all blocks, and quasi-Newton trials
    relative_gradient: float | jax.Array = math.nan  # () in [0, 1], see `gradients`, there too; 0 at a minimum


LOOPS = "its line searches and conjugate gradients take as many turns as the data ask, and JAX keeps no record of those"


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    damping: Damping  # of each block
    last_change: Any  # of all layers at once, like params, for conjugate gradients; () where they are no last block
    pairs: Any  # `Pairs` of quasi-Newton, in scaled parameters Δ' and units of the targets; () without


class _Visit(NamedTuple):
    """What a step knows after some of its blocks."""

    position: Position
    inner: Inner
    preconditioners: Any = None
    accepted: int | jax.Array = 0  # () int32
    products: int | jax.Array = 0  # () int32

    def after(self, position, inner, accepted, products):
        """After one block more."""
        accepted = self.accepted + accepted.astype(jnp.int32)
        return self._replace(position=position, inner=inner, accepted=accepted, products=self.products + products)


@dataclass(frozen=True, kw_only=True)
class FullBatch(Algorithm):
    """The algorithm for steps on one batch; make it with `build`."""

    blocks: tuple[Block, ...]
    linear_solver: Automatic

    defaults: ClassVar = Hparams()
    blank_detail: ClassVar = Detail()
    forward_mode_only: ClassVar = LOOPS
    tells_loss: ClassVar = True

    def start(self, params: Params) -> Inner:
        """Damping at its start, for every block."""
        dtype, last_change, pairs = params[0].weight.dtype, (), ()
        if self._quasi_newton is not None:
            pairs = Pairs.none(self._quasi_newton.pairs, self.network.num_params, dtype)
        elif self._ends_with_all_layers:
            last_change = jax.tree.map(jnp.zeros_like, params)
        return Inner(undisturbed(len(self.blocks), dtype), last_change, pairs)

    @property
    def _ends_with_all_layers(self):
        return self.blocks[-1] == (0, self.network.num_layers - 1)

    @property
    def _quasi_newton(self):
        """How the last block is lowered, where it is so; else None."""
        solver = self.linear_solver
        return solver.quasi_newton if solver.is_quasi_newton(self.network, self.blocks[-1]) else None

    def _restart(self, state, prepared, mark):
        """Pairs of other rows are none of these: their coordinates, and the objective, were others."""
        state = super()._restart(state, prepared, mark)
        if self._quasi_newton is None:
            return state
        forgotten = state.inner.pairs.forgotten(jnp.ones((), bool))
        return state._replace(inner=state.inner._replace(pairs=forgotten))

    def precompute(self, batch: Batch) -> Rows:
        """The inputs centred and scaled, their second moment, and the unit of the targets, once for all steps."""
        unit = size_of(batch, not self.loss.quadratic) if has_units(self.network, self.loss) else None
        exact = is_quadratic(self.network, self.loss, (0, 0))
        return Rows.of(batch, unit, exact).with_moment(exact)

    def update(self, hparams: Any, state: State, batch: Any) -> tuple[State, Detail]:
        """Every block in turn; the line searches know the loss of the new parameters already."""
        objective = Objective.of(self.network, self.loss, batch, hparams.weight_decay)
        received, start = fitted(objective, objective.in_units(linearization.stack(state.params)), state.step)
        lambdas = hparams.damping * state.inner.damping.factor
        visit = _Visit(start, state.inner)
        for index in range(len(self.blocks)):
            if self._quasi_newton is not None and index == len(self.blocks) - 1:
                visit = self._descended(self._quasi_newton, hparams, objective, lambdas, visit, index)
            else:
                visit = self._solved(hparams, objective, lambdas, visit, index)
        kept, position = lower(received, visit.position)
        gradient_norm, relative_gradient = gradients_at(objective, received, start, kept)
        detail = Detail(
            gradient_norm=gradient_norm,
            objective=objective.true(received.value),
            damping=jnp.max(lambdas),
            accepted=jnp.where(kept, visit.accepted, 0),
            products=visit.products,
            relative_gradient=relative_gradient,
        )
        params = linearization.split(objective.out_of_units(position.matrices))
        return state._replace(params=params, inner=visit.inner, loss=objective.true(position.loss)), detail

    def _solved(self, hparams, objective, lambdas, visit, index):
        """After a block's damped model was solved."""
        block, inner, position = self.blocks[index], visit.inner, visit.position
        visit = self._preconditioned(objective, lambdas, visit, block)
        warm = self._warm(objective, index)
        guess = list(objective.in_units(linearization.stack(inner.last_change))) if warm else None
        model = Model.of(objective, block, position.matrices, position.current)
        proposal = propose(self.linear_solver, model, lambdas[index], visit.preconditioners, guess)
        share, new = backtrack(objective, block, position, proposal.change)
        if warm:
            taken = [jnp.where(share > 0, part, jnp.zeros_like(part)) for part in proposal.change]
            inner = inner._replace(last_change=linearization.split(objective.out_of_units(taken)))
        if not objective.is_quadratic(block):  # what is solved exactly has no use for λ
            promised = jnp.where(proposal.decrease > 0, proposal.decrease, 1.0)
            gain = (position.value - new.value) / promised
            damping = inner.damping.at(index, follow(inner.damping.of(index), share, gain, hparams.damping))
            inner = inner._replace(damping=damping)
        return visit.after(new, inner, share > 0, proposal.products)

    def _descended(self, method, hparams, objective, lambdas, visit, index):
        """After the quasi-Newton iterations of all layers."""
        visit = self._preconditioned(objective, lambdas, visit, self.blocks[index])
        inner = visit.inner
        found = descend(method, objective, visit.position, visit.preconditioners, inner.pairs)
        damping = after_trials(inner.damping.of(index), found.refused, found.stuck, hparams.damping)
        inner = inner._replace(pairs=found.pairs, damping=inner.damping.at(index, damping))
        return visit.after(found.position, inner, found.taken, found.taken + found.refused)

    def _warm(self, objective, index):
        """Whether a block's conjugate gradients start from the last step's direction: that of all layers, the last."""
        last = index == len(self.blocks) - 1
        return last and self._ends_with_all_layers and not self.linear_solver.is_dense(objective, self.blocks[index])

    def _preconditioned(self, objective, lambdas, visit, block):
        """With preconditioners, from the first block on that wants them."""
        if visit.preconditioners is not None or not self.linear_solver.is_preconditioned(objective, block):
            return visit
        return visit._replace(preconditioners=self._preconditioners(objective, visit.position, lambdas))

    def _preconditioners(self, objective, position, lambdas):
        """Of all layers that need them in this step, each for λ of its last such block."""
        chosen = {}
        for index, (first, last) in enumerate(self.blocks):
            if self.linear_solver.is_preconditioned(objective, (first, last)):
                chosen |= dict.fromkeys(range(first, last + 1), lambdas[index])
        block = (min(chosen), max(chosen))
        wanted = [chosen.get(layer, lambdas[-1]) for layer in range(block[0], block[1] + 1)]
        return iterative.preconditioners(objective, block, position.matrices, position.current, wanted)

    def ended(self, info: Info, code: jax.Array) -> jax.Array:
        """Also where no block can be lowered at the largest damping; and a rejected step has not settled."""
        rejected = info.detail.accepted == 0
        stuck = rejected & (info.detail.damping >= 0.99 * LARGEST_DAMPING)  # it is kept over its start, and rounded
        small = info.detail.relative_gradient <= results.SMALL_GRADIENT
        end = jnp.where(small, results.AT_MINIMUM, results.STUCK).astype(code.dtype)
        running = jnp.full_like(code, results.RUNNING)
        code = jnp.where((code == results.SETTLED) & rejected, running, code)
        return jnp.where((code == running) & stuck, end, code)
