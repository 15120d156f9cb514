"""Gauss–Newton on minibatches: one block of all layers, its direction followed by an Optax optimizer.

    Δ = −(G + δI + λDI)⁻¹ (g + δθ)                       by conjugate gradients, from this batch
    change, optimizer ← optimizer(−Δ, optimizer)         −Δ in place of a gradient: rate, momentum, schedules
    θ ← θ + change                                       if that does not raise the objective of this batch

The gain on the batch that a step was made for says little about others, so λ does not follow it: λ stays at `damping`,
except that a step which raises the objective of its own batch is not taken and makes λ larger for a while. For the
optimizer such a step is one of direction zero: momentum fades, and the counts on which schedules run go on.
Preconditioner and D serve `RENEWAL` steps, or until one is not taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jills import linearization
from jills.algorithm import Algorithm
from jills.gauss_newton import iterative
from jills.gauss_newton.damping import Damping, back_off, undisturbed
from jills.gauss_newton.full_batch import LOOPS, Detail
from jills.gauss_newton.kronecker import Preconditioner
from jills.gauss_newton.line_search import Position
from jills.gauss_newton.model import Model, Objective, has_units
from jills.gauss_newton.rows import Rows, size_of
from jills.gauss_newton.solve import Automatic, propose
from jills.gauss_newton.start import fitted, gradients_at
from jills.hparams import Limit, by_keyword, in_dtype
from jills.linearization import Block
from jills.losses import Loss, squared_error
from jills.network import Network
from jills.transformations import cond, exported, imported_optax
from jills.types import Batch, Params, State

if TYPE_CHECKING:
    import optax

RENEWAL = 5


@exported
@by_keyword
class MinibatchHparams(NamedTuple):
    """The hyperparameters of Gauss–Newton on minibatches, by keyword; scalars, or `(H,)` in a sweep."""

    weight_decay: float | jax.Array = 0.0  # δ, absolute: the objective is loss + ½ δ ‖θ‖²
    damping: float | jax.Array = 1e-2  # λ, the least
    learning_rate: float | jax.Array = 1.0  # of `heavy_ball`
    momentum: float | jax.Array = 0.0  # of `heavy_ball`, in [0, 1)

    limits = {
        "weight_decay": Limit(0.0, math.inf),
        "damping": Limit(0.0, math.inf, open_low=True),
        "learning_rate": Limit(0.0, math.inf, open_low=True),
        "momentum": Limit(0.0, 1.0, open_high=True),
    }
    elsewhere = "; for a rate that falls give build an Optax schedule by optimizer="


def heavy_ball(hparams: MinibatchHparams) -> "optax.GradientTransformation":
    """`optax.sgd`: `v ← momentum v − Δ`, `change = −learning_rate v`."""
    return imported_optax().sgd(hparams.learning_rate, hparams.momentum)


def minibatch_hparams(network: Network, num_rows: int, loss: Loss = squared_error) -> MinibatchHparams:
    """Hyperparameters to start with on minibatches of about `num_rows` rows; change them with `_replace`.

    Rate and momentum are 0.5. With ρ = parameters / (rows × outputs), how scarce residuals are, λ is `0.03 max(1, ρ)`,
    and `0.03 + 10 ρ` for losses of classes (those without a noise to be learnt): with less the training loss falls
    faster there, but outputs grow too sure. Both were chosen by the loss on validation rows, cut from the training rows
    of digits, Fashion-MNIST and tables, for ρ from 0.2 to 50. Batches of about 2000 rows and
    `ConjugateGradients(max_steps=3)` go with them.

    Args:
        network: to be trained.
        num_rows: of a minibatch.
        loss: that of `build`.

    Raises:
        ValueError: `num_rows` is below 1.
    """
    if num_rows < 1:
        raise ValueError(f"minibatch_hparams: num_rows is {num_rows}, but must be at least 1")
    scarcity = network.num_params / (num_rows * network.sizes[-1])
    damping = 0.03 + 10.0 * scarcity if loss.noise is None else 0.03 * max(1.0, scarcity)
    return MinibatchHparams(damping=damping, learning_rate=0.5, momentum=0.5)


@exported
class Inner(NamedTuple):
    """What is kept between steps."""

    damping: Damping  # of the one block
    optimizer: Any  # Optax's state
    preconditioners: tuple[Preconditioner, ...]  # of each layer; () where each step takes its own
    left: jax.Array  # () int32, steps that they still serve
    unit: jax.Array  # () of the targets, that of the first batch, since preconditioners outlive theirs; 0 before it


@dataclass(frozen=True, kw_only=True)
class Minibatch(Algorithm):
    """The algorithm for steps on changing batches; make it with `build(…, full_batch=False)`."""

    linear_solver: Automatic
    optimizer: "Callable[[Any], optax.GradientTransformation]" = heavy_ball
    defaults: Any = MinibatchHparams()
    full_batch: bool = False

    blank_detail: ClassVar = Detail()
    forward_mode_only: ClassVar = LOOPS

    @property
    def block(self) -> Block:
        """All layers."""
        return (0, self.network.num_layers - 1)

    def start(self, params: Params) -> Inner:
        """Damping and optimizer at their start; nothing is known of the curvature."""
        dtype = params[0].weight.dtype
        optimizer = in_dtype(self.optimizer(self.defaults).init(params), dtype)
        blank = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        return Inner(undisturbed(1, dtype), optimizer, (), *blank)

    def blank(self, params: Params, batch: Batch) -> State:
        """See `Algorithm`; with room for preconditioners, where their size does not depend on the number of rows."""
        state = super().blank(params, batch)
        known = tuple(iterative.blank_preconditioners(self.network, batch.inputs.shape[0], state.loss.dtype).values())
        return state._replace(inner=state.inner._replace(preconditioners=known))

    def update(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Detail]:
        """One step from the direction of this batch."""
        unit = self._unit(state.inner.unit, batch)
        objective = Objective.of(self.network, self.loss, Rows.of(batch, unit), hparams.weight_decay)
        received, position = fitted(objective, objective.in_units(linearization.stack(state.params)), state.step)
        damping = hparams.damping * state.inner.damping.factor[0]
        preconditioners, known = self._preconditioners(objective, position, damping, state.inner)
        model = Model.of(objective, self.block, position.matrices, position.current)
        proposal = propose(self.linear_solver, model, damping, dict(enumerate(preconditioners)))
        direction = linearization.split(objective.out_of_units(proposal.change))
        change, followed = self._follow(hparams, state, direction)
        base = linearization.split(objective.out_of_units(position.matrices))
        moved = jax.tree.map(jnp.add, base, change)
        after = Position.of(objective, objective.in_units(linearization.stack(moved))).value
        # A step that does not even lower the objective of its own batch is not taken.
        kept = jnp.isfinite(after) & (after <= received.value)
        _, faded = self._follow(hparams, state, jax.tree.map(jnp.zeros_like, state.params))
        params, optimizer = jax.tree.map(
            lambda new, old: jnp.where(kept, new, old), (moved, followed), (state.params, faded)
        )
        left = jnp.where(kept, (state.inner.left - 1) % RENEWAL, 0)
        unit = state.inner.unit if unit is None else jnp.where(kept, unit, state.inner.unit)
        inner = Inner(back_off(state.inner.damping, kept), optimizer, known, left, unit)
        gradient_norm, relative = gradients_at(objective, received, position, kept)
        value, accepted = objective.true(received.value), kept.astype(jnp.int32)
        detail = Detail(gradient_norm, value, damping, accepted, proposal.products, relative)
        return state._replace(params=params, inner=inner), detail

    def _unit(self, known, batch):
        """That of the targets: known from the first batch on; None where they have none."""
        if not has_units(self.network, self.loss):
            return None
        return cond(known > 0, lambda: known, lambda: size_of(batch, not self.loss.quadratic))

    def _preconditioners(self, objective, position, damping, inner):
        """Those of this step, maybe of earlier ones as long as they serve; and what the next step is to know."""
        known = inner.preconditioners
        if not self.linear_solver.is_preconditioned(objective, self.block):
            return known, known
        dampings = [damping] * self.network.num_layers

        def take():
            matrices, current = position.matrices, position.current
            return tuple(iterative.preconditioners(objective, self.block, matrices, current, dampings).values())

        if jax.eval_shape(take) != jax.eval_shape(lambda: known):
            return take(), known  # kept as columns, as many as there are rows: cheap to take anew
        chosen = cond(inner.left == 0, take, lambda: known)
        return chosen, chosen

    def _follow(self, hparams, state, direction):
        """The optimizer's change of the parameters, and its state."""
        downhill = jax.tree.map(jnp.negative, direction)
        # Optax multiplies integer counts with rates, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            change, optimizer = self.optimizer(hparams).update(downhill, state.inner.optimizer, state.params)
        return in_dtype((change, optimizer), state.loss.dtype)
