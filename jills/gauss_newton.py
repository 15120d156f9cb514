"""Layerwise Gauss–Newton: one damped linear least-squares problem a layer, then one for all layers.

Where ILLS asks what a layer's input should have been, this asks what its parameters should do to the
output. It needs no inverse, so ReLU, any depth and any loss with a curvature work; it uses
sensitivities, so it is not free of backpropagation. A step visits blocks of layers, by default the
layers from the top down and then all of them together. For a block with parameters θ:

    u_n(Δ) = (∂ h^L_n / ∂ θ) Δ                                    the network linearised in the block
    g = ∂ loss / ∂ θ,  G = Σ_n ω_n (∂h^L_n/∂θ)ᵀ Λ_n (∂h^L_n/∂θ)   ω_n = w_n / Σ w,  Λ = ∂² loss / ∂ h²
    (G + δI + λDI) Δ = −(g + δθ)                                  δ: weight_decay,  D = tr(G) / p + δ
    keep the first of θ + Δ, θ + Δ/4, … whose objective,  loss + ½ δ ‖all parameters‖²,  is finite and lower
    λ follows the gain: actual over predicted decrease, of the undamped model

Since a block is kept only if the objective falls, it never rises as long as the batch stays the same.
Going from the top down leaves the activations below a block as they are, so each trial costs the
layers from the block upwards only. The layers one by one are fast at first, all together at the end.
From `MOST_LAYERS_ONE_BY_ONE` layers on a step takes fewer blocks, so that neither its arithmetic nor
its graph grows with the square of the depth; `default_blocks` tells which.

Three ways to solve, chosen by size (`build` tells how to choose yourself):

* an output layer with the identity and squared error is exactly quadratic: solved undamped but for
  `λ = ε`, by conjugate gradients to rounding (with weight decay or not): its least squares;
* a block of up to `dense_limit` parameters: its Gram matrix, by Cholesky, or a solver of the engine;
* any other: conjugate gradients on `G` as a product, with a Kronecker preconditioner. Preconditioner
  and D are taken once a step, before the first such block, for the sake of time; the gradient and the products
  are always those of the present parameters. The block of all layers starts from the direction
  that the step before took. On minibatches preconditioner and D serve
  `RENEWAL` steps, or until one is not taken.

Inside the solves of the first layer the inputs are centred and scaled (`jills.scaling.Scaling`):
a damping of `I` could not hold inputs of 1e6 and of 1 together. λ and D mean those coordinates.

References: Levenberg 1944; Marquardt 1963; Nielsen 1999 (damping); Martens & Grosse 2015
(arXiv 1503.05671, preconditioner); Schraudolph 2002 (products with Gauss–Newton matrices).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import checks, line_search, linearization, losses, results, solvers
from jills.algorithm import Algorithm
from jills.block_problem import BlockProblem, blank_curvatures
from jills.conjugate_gradients import ConjugateGradients, dot, sum_of
from jills.damping import LARGEST_DAMPING, Damping, back_off, follow, undisturbed
from jills.linearization import Block
from jills.network import Network
from jills.types import Batch, Params, State

MOST_LAYERS_ONE_BY_ONE = 5
RENEWAL = 5


class Hparams(NamedTuple):
    """The numbers of layerwise Gauss–Newton; scalars, or `(H,)` in a sweep."""

    weight_decay: float | jax.Array = 0.0  # δ, absolute: the objective is loss + ½ δ ‖θ‖²
    damping: float | jax.Array = 1e-2  # λ at the start; with full_batch=False, the least
    learning_rate: float | jax.Array = 1.0  # with full_batch=False: share of Δ that is taken
    momentum: float | jax.Array = 0.0  # with full_batch=False: share of the last change added, in [0, 1)
    rate_decay: float | jax.Array = (
        0.0  # with full_batch=False: share of the rate lost each step, 1 / steps to end at 0
    )


class Detail(NamedTuple):
    """The signs of health of a Gauss–Newton step."""

    gradient_norm: float | jax.Array  # () of the loss plus decay, each layer where the step last met it
    objective: float | jax.Array  # () loss + ½ δ ‖θ‖² after the step (minibatches: before)
    damping: float | jax.Array  # () the largest λ of all blocks, after the step
    accepted: int | jax.Array  # () int32, blocks whose step was kept
    products: int | jax.Array  # () int32, conjugate-gradient products in all blocks


class Inner(NamedTuple):
    """What is kept between steps."""

    damping: Damping  # of each block
    last_change: Any  # of all layers at once, like params; () where no block holds them all
    shared: Any = ()  # `Shared` where steps receive different batches; () otherwise


class Shared(NamedTuple):
    """What some steps on minibatches have in common."""

    curvatures: Any  # of each layer, by its number
    left: jax.Array  # () int32, steps that they still serve


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Algorithm):
    """The algorithm; make it with `build`."""

    blocks: tuple[Block, ...] = ()
    solver: solvers.Solver | None = None
    wide: ConjugateGradients = ConjugateGradients()
    dense_limit: int = 100

    defaults: Any = Hparams()
    blank_detail: Any = Detail(0.0, 0.0, 0.0, 0, 0)
    limits: tuple[checks.Limit, ...] = (
        checks.Limit("weight_decay", 0.0, float("inf")),
        checks.Limit("damping", 0.0, float("inf"), open_low=True),
        checks.Limit("learning_rate", 0.0, float("inf"), open_low=True),
        checks.Limit("momentum", 0.0, 1.0, open_high=True),
        checks.Limit("rate_decay", 0.0, 1.0),
    )

    def start(self, params: Params) -> Inner:
        """Damping at its start, for every block."""
        zeros = jax.tree.map(jnp.zeros_like, params) if self._whole else ()
        dtype = params[0].weight.dtype
        shared = () if self.full_batch else Shared(blank_curvatures(self.network, dtype), jnp.zeros((), jnp.int32))
        return Inner(undisturbed(len(self.blocks), dtype), zeros, shared)

    @property
    def _whole(self):
        """Whether the last block holds all layers."""
        return not self.full_batch or self.blocks[-1] == (0, self.network.num_layers - 1)

    def advance(self, hparams: Hparams, state: State, batch: Batch) -> tuple[State, Detail]:
        """On a full batch the trials know the loss and activations of the new parameters already."""
        if not self.full_batch:
            return super().advance(hparams, state, batch)
        point, inner, detail = self._full_batch(hparams, state, batch)
        values = (*(below[:-1].T for below in point.current.below[1:]), point.current.prediction.T)
        state = state._replace(params=linearization.split(point.matrices), inner=inner)
        return self.keep_best(state, values, point.loss), detail._replace(objective=point.objective)

    def ended(self, info, code: jax.Array) -> jax.Array:
        """Also where no block can be lowered at the largest damping; and a rejected step has not settled."""
        if not self.full_batch:
            return code
        rejected = info.detail.accepted == 0
        stuck = rejected & (info.detail.damping >= LARGEST_DAMPING)
        running = jnp.full_like(code, results.RUNNING)
        code = jnp.where((code == results.SETTLED) & rejected, running, code)
        return jnp.where((code == running) & stuck, jnp.full_like(code, results.AT_MINIMUM), code)

    def _full_batch(self, hparams, state, batch):
        problem = self._problem(hparams, batch)
        matrices = linearization.stack(state.params)
        current = linearization.forward(self.network, matrices, batch.inputs.T)
        point = line_search.Point(matrices, current, state.loss, state.loss + problem.penalty(matrices))
        lambdas, curvatures, last_change = hparams.damping * state.inner.damping.factor, None, state.inner.last_change
        trials, shares, gains = [], [], []
        for index, block in enumerate(self.blocks):
            iterated = not problem.is_dense(block)
            if problem.takes_curvatures(block) and curvatures is None:
                curvatures = self._curvatures(problem, point, lambdas)
            warm = iterated and self._whole and index == len(self.blocks) - 1
            guess = list(linearization.stack(last_change)) if warm else None
            trial = problem.solve(block, point.matrices, point.current, lambdas[index], curvatures, guess)
            share, new = line_search.shorten(problem, block, point, trial.change)
            if warm:
                last_change = linearization.split(
                    [jnp.where(share > 0, part, jnp.zeros_like(part)) for part in trial.change]
                )
            trials.append(trial)
            shares.append(share)
            gains.append((point.objective - new.objective) / jnp.where(trial.decrease > 0, trial.decrease, 1.0))
            point = new
        share, gain = jnp.stack(shares), jnp.stack(gains)
        # A block that is solved exactly has no use for λ.
        free = np.array([not problem.is_quadratic(block) for block in self.blocks])
        inner = Inner(follow(state.inner.damping, free, share, gain, hparams.damping), last_change)
        return point, inner, self._detail(self.blocks, trials, share > 0, inner, hparams)

    def _curvatures(self, problem, point, dampings):
        """Of all layers that conjugate gradients change in this step, each for λ of its last such block."""
        chosen = {}
        for index, (first, last) in enumerate(self.blocks):
            if problem.takes_curvatures((first, last)):
                chosen |= dict.fromkeys(range(first, last + 1), dampings[index])
        block = (min(chosen), max(chosen))
        wanted = [chosen.get(layer, dampings[-1]) for layer in range(block[0], block[1] + 1)]
        return problem.curvatures(block, point.matrices, point.current, wanted)

    def update(self, hparams: Hparams, state: State, batch: Batch) -> tuple[Params, Inner, Detail]:
        """One step on a minibatch, see `build`; those on a full batch are `advance`'s own."""
        problem = self._problem(hparams, batch)
        matrices = linearization.stack(state.params)
        current = linearization.forward(self.network, matrices, batch.inputs.T)
        objective = problem.loss_of(current.prediction) + problem.penalty(matrices)
        block = (0, self.network.num_layers - 1)
        damping = hparams.damping * state.inner.damping.factor[0]
        curvatures, left = state.inner.shared
        if problem.takes_curvatures(block):
            dampings = [damping] * self.network.num_layers
            curvatures = problem.curvatures(block, matrices, current, dampings, curvatures, renew=left == 0)
        trial = problem.solve(block, matrices, current, damping, curvatures)
        rate = hparams.learning_rate * jnp.maximum(0.0, 1.0 - state.step.astype(state.loss.dtype) * hparams.rate_decay)
        change = [
            hparams.momentum * old + rate * new
            for old, new in zip(linearization.stack(state.inner.last_change), trial.change, strict=True)
        ]
        moved = linearization.moved(matrices, block, change)
        after = linearization.forward(self.network, moved, batch.inputs.T)
        value = problem.loss_of(after.prediction) + problem.penalty(moved)
        # A step that does not even lower the loss of its own batch is not taken, and forgets the momentum.
        kept = jnp.isfinite(value) & (value <= objective)
        last_change = linearization.split([jnp.where(kept, part, jnp.zeros_like(part)) for part in change])
        params = jax.tree.map(jnp.add, state.params, last_change)
        left = jnp.where(kept, (left - 1) % RENEWAL, 0)
        inner = Inner(back_off(state.inner.damping, kept), last_change, Shared(curvatures, left))
        detail = self._detail((block,), (trial,), kept, inner, hparams)
        return params, inner, detail._replace(objective=objective)

    def _detail(self, blocks, trials, accepted, inner, hparams):
        last = {}  # the gradient of each layer where the step last met it
        for block, trial in zip(blocks, trials, strict=True):
            last |= {block[0] + i: part for i, part in enumerate(trial.gradient)}
        gradient = list(last.values())
        # A sum of int32 is int64 where 64 bits are on.
        return Detail(
            gradient_norm=jnp.sqrt(dot(gradient, gradient)),
            objective=jnp.zeros_like(hparams.damping),
            damping=hparams.damping * jnp.max(inner.damping.factor),
            accepted=jnp.sum(accepted, dtype=jnp.int32),
            products=sum_of([trial.products for trial in trials]),
        )

    def _problem(self, hparams, batch):
        n = batch.inputs.shape[0]
        if batch.weights is None:
            weights = jnp.full((n,), 1.0 / n, batch.inputs.dtype)
        else:
            total = jnp.sum(batch.weights)
            weights = batch.weights / jnp.where(total > 0, total, jnp.ones_like(total))
        return BlockProblem(
            self.network, self.loss, batch, weights, hparams.weight_decay, self.solver, self.wide, self.dense_limit
        )


def one_by_one(network: Network) -> tuple[Block, ...]:
    """Blocks for `build`: each layer alone, from the top down."""
    return tuple((layer, layer) for layer in reversed(range(network.num_layers)))


def together(network: Network) -> tuple[Block, ...]:
    """Blocks for `build`: the output layer, then all layers as one block."""
    top = network.num_layers - 1
    return ((0, 0),) if top == 0 else ((top, top), (0, top))


def default_blocks(network: Network, loss: losses.Loss = losses.squared_error) -> tuple[Block, ...]:
    """Each layer from the top down, then all together; fewer where that serves better.

    From `MOST_LAYERS_ONE_BY_ONE` layers on: the output layer, then all together. With squared error, both
    there and where hidden activations have kinks (ReLU), the output layer moves with all others only: solved
    exactly by itself it gets large weights, which sharpen every bend of the layers below.
    """
    top = network.num_layers - 1
    whole = (0, top)
    if top == 0:
        return (whole,)
    deep = network.num_layers >= MOST_LAYERS_ONE_BY_ONE
    kinked = any(activation.kinked for activation in network.activations[:-1])
    layers = ((top, top),) if deep else one_by_one(network)
    return (*(layers[1:] if loss.quadratic and (deep or kinked) else layers), whole)


def build(
    network: Network,
    loss: losses.Loss = losses.squared_error,
    solver: solvers.Solver | ConjugateGradients | None = None,
    *,
    wide: ConjugateGradients = ConjugateGradients(),
    dense_limit: int = 100,
    blocks: tuple[Block, ...] | None = None,
    full_batch: bool = True,
) -> GaussNewton:
    """Layerwise Gauss–Newton for a network.

    Args:
        network: any activations, any depth.
        loss: any with gradient and curvature.
        solver: of blocks with at most `dense_limit` parameters. None: their Gram matrix by Cholesky. A
            `jills.solvers` one works on the rows themselves (squared error only; other losses take
            the Gram matrix all the same). Conjugate gradients: for every block, whatever its size.
        wide: of larger blocks, by products: no matrix of `p × p` is formed.
        dense_limit: the most parameters of a dense block; 0: none is dense.
        blocks: pairs `(first, last)` of layers, counted from zero, solved in this order in each
            step; see `one_by_one`, `together` and `default_blocks`, which None stands for.
        full_batch: False where steps receive different batches. Then all layers are one block, and
            `learning_rate`, `momentum` and `rate_decay` count. The gain on the batch that a step was made
            for says little about others, so λ does not follow it: λ stays at `damping`, except that a
            step which raises the loss of its own batch is not taken and makes λ larger for a while.
            `minibatch_hparams` gives numbers to start with.

    Raises:
        ValueError: blocks that are not runs of layers of the network, or a negative `dense_limit`.
    """
    blocks = default_blocks(network, loss) if blocks is None else tuple((int(a), int(b)) for a, b in blocks)
    if not blocks or not all(0 <= first <= last < network.num_layers for first, last in blocks):
        raise ValueError(
            f"gauss_newton: blocks are {blocks}, but must be pairs (first, last) with "
            f"0 <= first <= last <= {network.num_layers - 1}, at least one; see gauss_newton.one_by_one"
        )
    if dense_limit < 0:
        raise ValueError(f"gauss_newton: dense_limit is {dense_limit}, but must be at least 0")
    if isinstance(solver, ConjugateGradients):
        solver, wide, dense_limit = None, solver, 0
    return GaussNewton(
        network=network,
        loss=loss,
        blocks=blocks,
        solver=solver,
        wide=wide,
        dense_limit=int(dense_limit),
        full_batch=bool(full_batch),
    )


def minibatch_hparams(network: Network, num_rows: int) -> Hparams:
    """Numbers to start with on minibatches of about `num_rows` rows; change them with `_replace`.

    Rate and momentum are 0.5. λ is 0.03 where a minibatch has at least half as many residuals (rows times
    outputs) as the network has parameters. Where it has fewer, as with images, it leaves most directions
    undetermined, and λ is 10: with 0.03 the training loss falls as fast, but weights of inputs that are rarely
    lit grow large, at the cost of test accuracy. Batches of about 2000 rows and
    `ConjugateGradients(max_steps=3)` go with these numbers; `._replace(rate_decay=1 / num_steps)` ends at rest.

    Raises:
        ValueError: `num_rows` is below 1.
    """
    if num_rows < 1:
        raise ValueError(f"minibatch_hparams: num_rows is {num_rows}, but must be at least 1")
    scarce = 2 * num_rows * network.sizes[-1] < network.num_params
    return Hparams(damping=10.0 if scarce else 0.03, learning_rate=0.5, momentum=0.5)


__all__ = [
    "Detail",
    "GaussNewton",
    "Hparams",
    "Inner",
    "build",
    "default_blocks",
    "minibatch_hparams",
    "one_by_one",
    "together",
]
