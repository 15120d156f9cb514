"""What all algorithms share: the state, and the step around an algorithm's own update.

`init` checks its input and starts a state; `step` is `update`, which each algorithm writes, and then
`observe`, which brings activations, loss and best parameters up to date by means of `evaluate`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jills import checks, results
from jills.losses import Loss
from jills.network import HIGHEST, Network
from jills.types import Activations, Batch, Info, Params, State


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """A way to train: `init(params, batch) → state`, `step(hparams, state, batch) → (state, info)`.

    Holds functions and static choices only, so it is hashable and can be a static argument of
    `jax.jit`; all numbers arrive with `hparams`. A new algorithm derives from this class and writes
    `update` (and `evaluate`, if it keeps more than activations and loss).

    Attributes:
        network: the network to train.
        loss: the loss to lower.
        full_batch: True: each step receives the batch of the step before, so what is known of the
            new parameters on it is kept in the state. False: steps may receive other batches, and
            the state is brought up to date with the batch at the start of each step. After a step
            `activations`, `loss` and `best_*` are then those of the parameters it received, on its
            batch (`best_loss` is the lowest loss of any batch), and so is what `Stop.target_loss`
            looks at; `observe` tells those of the new parameters.
        defaults: the algorithm's `Hparams` with default values; says which numbers there are.
        limits: the interval each of them must lie in.
        blank_detail: which fields `Info.detail` has, in plain numbers. A stopped member records NaN for
            the floats and the number itself for the integers.
    """

    network: Network
    loss: Loss
    full_batch: bool = True
    defaults: Any = ()
    limits: tuple[checks.Limit, ...] = ()
    blank_detail: Any = ()

    def start(self, params: Params) -> Any:
        """The part of the state that is the algorithm's own, before the first step."""
        return ()

    def evaluate(self, params: Params, inner: Any, batch: Batch) -> tuple[Activations, jax.Array, Any]:
        """Activations and loss of params on a batch, and `inner` brought up to date with it."""
        activations = self.network.forward(params, batch.inputs)
        return activations, self.loss(activations[-1], batch.targets, batch.weights), inner

    @abstractmethod
    def update(self, hparams: Any, state: State, batch: Batch) -> tuple[Params, Any, Any]:
        """New params, new `inner`, and `Info.detail`, from a state that is up to date."""

    def check(self, hparams: Any, scalar: bool = False) -> None:
        """Raises ValueError where hparams are of the wrong kind or known to be out of range.

        Args:
            hparams: what was given.
            scalar: whether every number must be a scalar, as for one network.
        """
        checks.check_hparams(hparams, self.defaults, self.limits, scalar)

    def check_problem(self, params: Params, batch: Batch) -> None:
        """Raises ValueError where params or batch do not fit the network or are known to be bad."""
        checks.check_params(self.network, params)
        checks.check_batch(self.network, batch, params[0].weight.dtype)
        checks.check_targets(self.loss.allowed, batch)

    def init(self, params: Params, batch: Batch) -> State:
        """The state before the first step.

        Args:
            params: of `network.init`, float32 or float64. The batch is converted to their dtype.
            batch: inputs `(n, d)`, targets `(n, k)`, weights `(n,)` or None.

        Raises:
            ValueError: shapes or dtypes that do not fit, no rows, NaN or inf in the data, targets that
                the loss does not allow.
        """
        self.check_problem(params, batch)
        return self.unchecked_init(params, batch)

    def unchecked_init(self, params: Params, batch: Batch) -> State:
        """`init` without its checks, for callers that have made them (and would warn twice)."""
        params = cast(params, params)
        batch = prepare(batch, params)
        activations, loss, inner = self.evaluate(params, self.start(params), batch)
        finite = jnp.isfinite(loss) & all_finite(params)
        best_loss = jnp.where(finite, loss, jnp.full_like(loss, jnp.inf))
        zero = jnp.zeros((), jnp.int32)
        result = jnp.where(finite, zero, jnp.full_like(zero, results.NON_FINITE))
        return State(params, activations, inner, zero, loss, params, best_loss, result)

    def observe(self, state: State, batch: Batch) -> State:
        """The state of the same parameters seen on a batch, which may be another one."""
        batch = prepare(batch, state.params)
        activations, loss, inner = self.evaluate(state.params, state.inner, batch)
        return self.keep_best(state._replace(inner=inner), activations, loss)

    def keep_best(self, state: State, activations: Activations, loss: jax.Array) -> State:
        """The state with activations and loss of its parameters, and the best parameters so far."""
        better = loss < state.best_loss
        return state._replace(
            activations=activations,
            loss=loss,
            best_params=jax.tree.map(lambda new, old: jnp.where(better, new, old), state.params, state.best_params),
            best_loss=jnp.where(better, loss, state.best_loss),
        )

    def step(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Info]:
        """One step. Pure; `hparams` comes first, so that `partial(step, hparams)` is a scan body.

        Args:
            hparams: the `Hparams` of the algorithm's module, scalars; cast to the params' dtype.
            state: of `init` or an earlier step.
            batch: see `full_batch`.

        Returns:
            The new state, and `Info` about the step.
        """
        checks.check_batch_shapes(self.network, batch)
        batch = prepare(batch, state.params)
        hparams = cast(hparams, state.params)
        if not self.full_batch:
            state = self.observe(state, batch)
        elif state.activations[-1].shape != batch.targets.shape:
            raise ValueError(
                f"the state was taken on {state.activations[-1].shape[0]} rows, the batch has "
                f"{batch.targets.shape[0]}; build the algorithm with full_batch=False"
            )
        new, detail = self.advance(hparams, state, batch)
        change = norm_of_change(new.params, state.params)
        finite = jnp.isfinite(new.loss) & all_finite(new.params)
        return new._replace(step=state.step + 1), Info(state.loss, change, finite, detail)

    def advance(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Any]:
        """`update`, and on a full batch `observe`. An algorithm that knows more afterwards does better."""
        params, inner, detail = self.update(hparams, state, batch)
        state = state._replace(params=params, inner=inner)
        return (self.observe(state, batch) if self.full_batch else state), detail

    def ended(self, info: Info, code: jax.Array) -> jax.Array:
        """The result code of a member after a step, from that by `Stop`; an algorithm may know of more ends."""
        return code


def prepare(batch: Batch, params: Params) -> Batch:
    """The batch in the dtype of params, with zeros in the rows of weight zero (they may hold NaN)."""
    batch = cast(batch, params)
    if batch.weights is None:
        return batch
    used = (batch.weights > 0)[:, None]
    return batch._replace(
        inputs=jnp.where(used, batch.inputs, jnp.zeros_like(batch.inputs)),
        targets=jnp.where(used, batch.targets, jnp.zeros_like(batch.targets)),
    )


def cast(numbers, params: Params):
    """Every leaf as an array of the dtype of params."""
    dtype = params[0].weight.dtype
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), numbers)


def all_finite(params: Params) -> jax.Array:
    """Whether every parameter is finite, `()` bool."""
    return jnp.all(jnp.isfinite(_flat(params)))


def norm_of_change(new: Params, old: Params) -> jax.Array:
    """`‖new − old‖₂` over all parameters, `()`."""
    change = _flat(jax.tree.map(jnp.subtract, new, old))
    return jnp.sqrt(jnp.vdot(change, change, precision=HIGHEST))


def _flat(params):
    # One array, for the sake of the compiler: two leaves a layer make many small kernels.
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
