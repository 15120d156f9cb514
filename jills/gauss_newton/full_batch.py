"""Gauss–Newton on a full batch: blocks from the top down, each with a line search and its own damping."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import linearization, results
from jills.algorithm import Algorithm
from jills.gauss_newton import iterative
from jills.gauss_newton.damping import LARGEST_DAMPING, Damping, follow, undisturbed
from jills.gauss_newton.gradients import gradients
from jills.gauss_newton.line_search import Position, backtrack
from jills.gauss_newton.model import Model, Objective, has_units, is_quadratic
from jills.gauss_newton.rows import Rows, size_of
from jills.gauss_newton.solve import Automatic, propose
from jills.gauss_newton.start import fitted, lower
from jills.hparams import Limit, by_keyword
from jills.linalg import add
from jills.linearization import Block
from jills.transformations import exported
from jills.types import Batch, Info, Params, State


@exported
@by_keyword
class Hparams(NamedTuple):
    """The hyperparameters of layerwise Gauss–Newton on a full batch, by keyword; scalars, or `(H,)` in a sweep."""

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

    gradient_norm: float | jax.Array = math.nan  # () of loss plus decay, at the parameters received
    objective: float | jax.Array = math.nan  # () loss + ½ δ ‖θ‖², of the parameters received
    damping: float | jax.Array = math.nan  # () the largest λ of all blocks, in this step
    accepted: int | jax.Array = 0  # () int32, blocks whose step was kept
    products: int | jax.Array = 0  # () int32, conjugate-gradient products in all blocks
    relative_gradient: float | jax.Array = math.nan  # () in [0, 1], see `gradients`; 0 at a minimum


LOOPS = "its line searches and conjugate gradients take as many turns as the data ask, and JAX keeps no record of those"


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    damping: Damping  # of each block
    last_change: Any  # of all layers at once, like params; () where no block holds them all


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
        zeros = jax.tree.map(jnp.zeros_like, params) if self._ends_with_all_layers else ()
        return Inner(undisturbed(len(self.blocks), params[0].weight.dtype), zeros)

    @property
    def _ends_with_all_layers(self):
        return self.blocks[-1] == (0, self.network.num_layers - 1)

    def precompute(self, batch: Batch) -> Rows:
        """The inputs centred and scaled, their second moment, and the unit of the targets, once for all steps."""
        unit = size_of(batch, not self.loss.quadratic) if has_units(self.network, self.loss) else None
        exact = is_quadratic(self.network, self.loss, (0, 0))
        return Rows.of(batch, unit, exact).with_moment(exact)

    def update(self, hparams: Any, state: State, batch: Any) -> tuple[State, Detail]:
        """Every block in turn; the line searches know the loss of the new parameters already."""
        objective = Objective.of(self.network, self.loss, batch, hparams.weight_decay)
        start = Position.of(objective, objective.in_units(linearization.stack(state.params)))
        position = fitted(objective, start, state.step)
        lambdas, last_change = hparams.damping * state.inner.damping.factor, state.inner.last_change
        preconditioners, proposals, shares, gains = None, [], [], []
        for index, block in enumerate(self.blocks):
            if self.linear_solver.is_preconditioned(objective, block) and preconditioners is None:
                preconditioners = self._preconditioners(objective, position, lambdas)
            warm = self._warm(objective, index)
            guess = list(objective.in_units(linearization.stack(last_change))) if warm else None
            model = Model.of(objective, block, position.matrices, position.current)
            proposal = propose(self.linear_solver, model, lambdas[index], preconditioners, guess)
            share, new = backtrack(objective, block, position, proposal.change)
            if warm:
                taken = [jnp.where(share > 0, part, jnp.zeros_like(part)) for part in proposal.change]
                last_change = linearization.split(objective.out_of_units(taken))
            proposals.append(proposal)
            shares.append(share)
            promised = jnp.where(proposal.decrease > 0, proposal.decrease, 1.0)
            gains.append((position.value - new.value) / promised)
            position = new
        kept, position = lower(start, position)
        share, gain = jnp.stack(shares), jnp.stack(gains)
        # A block that is solved exactly has no use for λ.
        free = np.array([not objective.is_quadratic(block) for block in self.blocks])
        inner = Inner(follow(state.inner.damping, free, share, gain, hparams.damping), last_change)
        gradient_norm, relative_gradient = gradients(objective, start.matrices, start.current)
        detail = Detail(
            gradient_norm=gradient_norm,
            objective=objective.true(start.value),
            damping=jnp.max(lambdas),
            accepted=jnp.sum(kept & (share > 0), dtype=jnp.int32),  # a sum of int32 is int64 where 64 bits are on
            products=add([proposal.products for proposal in proposals]),
            relative_gradient=relative_gradient,
        )
        params = linearization.split(objective.out_of_units(position.matrices))
        return state._replace(params=params, inner=inner, loss=objective.true(position.loss)), detail

    def _warm(self, objective, index):
        """Whether a block's conjugate gradients start from the last step's direction: that of all layers, the last."""
        last = index == len(self.blocks) - 1
        return last and self._ends_with_all_layers and not self.linear_solver.is_dense(objective, self.blocks[index])

    def _preconditioners(self, objective, position, lambdas):
        """Of all layers that conjugate gradients change in this step, each for λ of its last such block."""
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
        stuck = rejected & (info.detail.damping >= LARGEST_DAMPING)
        small = info.detail.relative_gradient <= results.SMALL_GRADIENT
        end = jnp.where(small, results.AT_MINIMUM, results.STUCK).astype(code.dtype)
        running = jnp.full_like(code, results.RUNNING)
        code = jnp.where((code == results.SETTLED) & rejected, running, code)
        return jnp.where((code == running) & stuck, end, code)
