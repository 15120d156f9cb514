"""What all algorithms share: the state, and the step around an algorithm's own update.

**Your own algorithm** is a class with one method, `update`, and a NamedTuple of hyperparameters. It then runs, sweeps,
stops, resumes and saves like those of jills. Gradient descent, complete::

    import jax
    import jax.numpy as jnp
    from typing import NamedTuple

    import jills


    class Hparams(NamedTuple):
        learning_rate: float = 0.1


    class GradientDescent(jills.Algorithm):
        defaults = Hparams()

        def update(self, hparams, state, batch):
            gradient = jax.grad(self.loss_of)(state.params, batch)
            move = lambda param, slope: param - hparams.learning_rate * slope
            return state._replace(params=jax.tree.map(move, state.params, gradient)), ()


    network = jills.Network((1, 5, 1), jills.activations.tanh)
    inputs = jnp.linspace(-1.0, 1.0, 20)[:, None]
    batch = jills.Batch(inputs, jnp.sin(3.0 * inputs))
    algorithm = GradientDescent(network=network)
    state, info = jills.run(algorithm, Hparams(0.2), network.init(jax.random.key(0)), batch, num_steps=300)

Optional, each a line or a method:

* `start` for what the algorithm keeps between steps (`state.inner`);
* a detail, the second item that `update` returns, for what it tells (`info.detail`): a NamedTuple whose defaults are
  what a stopped member records, and `blank_detail`, one of them; `Stop` and `jills.diagnose` look at its
  `gradient_norm`, if it has one;
* `limits` on the hyperparameters, field → `jills.hparams.Limit`;
* a choice made once, as a field; it asks for the decorator `@dataclass(frozen=True, kw_only=True)`;
* the class attributes below.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jills import checks, results
from jills.arrays import automatic, cast, native_dtype
from jills.batches import cast_known, fingerprint, has_weight, of_other_rows, prepare, uniform_weights
from jills.losses import Loss, squared_error
from jills.network import Network
from jills.programs import Program
from jills.states import is_finite, keep_best, norm_of_change, same_loss, share_saturated, with_records
from jills.transformations import alike, cond, forward_only
from jills.types import Batch, Info, Params, State


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """A way to train: `init(params, batch) → state`, `step(hparams, state, batch) → (state, info)`.

    Holds functions and static choices only, so it is hashable and can be a static argument of
    `jax.jit`; all numbers arrive with `hparams`. The module tells how to write one.

    Attributes:
        network: the network to train.
        loss: the loss to lower.
        full_batch: True: steps receive the same batch, so what is known of the new parameters on it is kept in
            the state. False: steps may receive other batches, and the state is brought up to date with the batch
            at the start of each step. After a step `activations`, `loss` and `best_*` are then those of the
            parameters it received, on its batch (`best_loss` is the lowest loss of any batch), and so is what
            `Stop.target_loss` looks at; `observe` tells those of the new parameters.
        defaults: the algorithm's `Hparams` with default values; says which hyperparameters there are.
        blank_detail: `Info.detail` of a member that has stopped: NaN for floats, 0 for integers. (Under
            `jax_debug_nans`, where JAX raises at every NaN that a program returns, a run records 0 for floats too.)
        keeps_activations: whether `update` reads `state.activations`; else they are `()`.
        tells_loss: whether `update` returns a state whose `loss` is that of its new parameters.
        forward_mode_only: why no derivative in reverse mode is taken through its steps; empty: it is.
        compiler_options: of XLA, for its programs in the full tier, see `jills.run`; one that XLA does not know is
            left out.
    """

    network: Network
    loss: Loss = squared_error
    full_batch: bool = True

    defaults: ClassVar[Any] = ()
    blank_detail: ClassVar[Any] = ()
    keeps_activations: ClassVar[bool] = False
    tells_loss: ClassVar[bool] = False
    forward_mode_only: ClassVar[str] = ""
    compiler_options: ClassVar[dict[str, Any]] = {}

    def __post_init__(self):
        checks.check_parts(self.network, self.loss)

    def start(self, params: Params) -> Any:
        """What the algorithm keeps between steps, before the first one: `state.inner`."""
        return ()

    def precompute(self, batch: Batch) -> Any:
        """What `evaluate` and `update` receive in place of a prepared batch: more fields, known once for all steps."""
        return batch

    @abstractmethod
    def update(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Any]:
        """The state with new `params` (and `inner`), and `Info.detail`.

        Args:
            hparams: scalars in the dtype of the parameters.
            state: up to date with the batch.
            batch: prepared: in the dtype of the parameters, weights of sum one, rows of weight zero all zeros.
        """

    def evaluate(self, state: State, batch: Batch) -> State:
        """The state with what is known of its parameters on a batch: the loss, and activations where kept."""
        activations = self.network.forward(state.params, batch.inputs)
        loss = self.loss(activations[-1], batch.targets, batch.weights)
        return state._replace(loss=loss, activations=activations if self.keeps_activations else ())

    def ended(self, info: Info, code: jax.Array) -> jax.Array:
        """The result code of a member after a step, from that by `Stop`; an algorithm may know of more ends."""
        return code

    def loss_of(self, params: Params, batch: Batch) -> jax.Array:
        """The loss of params on a batch, `()`."""
        return self.loss(self.network.predict(params, batch.inputs), batch.targets, batch.weights)

    def in_blocks(self, blocks: int) -> "Algorithm":
        """The same algorithm for rows that are spread over so many devices, where it does something else for them."""
        return self

    def alone(self) -> "Algorithm":
        """The same algorithm for one network by itself, where it does something else for it, as for `jills.run`."""
        return self

    def check(self, hparams: Any, scalar: bool = False, dtype: Any = None) -> None:
        """Raises ValueError where hparams are of the wrong kind or known to be out of range.

        Args:
            hparams: what was given.
            scalar: whether every leaf must be a scalar, as for one network.
            dtype: that they will be used in; None: as they are.
        """
        checks.check_hparams(hparams, self.defaults, scalar, dtype)

    def check_problem(self, params: Params, batch: Batch) -> None:
        """Raises ValueError where params or batch do not fit the network or are known to be bad."""
        checks.check_params(self.network, params)
        checks.check_batch(self.network, batch, native_dtype(params[0].weight))
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
        dtype = native_dtype(params[0].weight)
        return _init("fast", {}, (self,), *automatic((cast(params, dtype), cast_known(batch, dtype))))

    def begin(self, params: Params, batch: Batch) -> tuple[State, Any]:
        """`init` without its checks, and the batch prepared for `advance`; `resume` is the same for a state."""
        state = self.blank(params, batch)
        prepared, mark = self._prepare(batch, state.loss.dtype)
        return self._restart(state, prepared, mark), prepared

    def blank(self, params: Params, batch: Batch) -> State:
        """A state of the right shapes that has not seen the batch; nothing is evaluated."""
        dtype = native_dtype(params[0].weight)
        params = cast(params, dtype)
        infinite, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
        none, unknown = jnp.zeros((), jnp.uint32), jnp.zeros((), dtype)
        state = State(params, (), self.start(params), zero, infinite, params, infinite, zero, none, unknown, none, zero)
        return alike(self._in_shape(state, batch), batch)

    def _in_shape(self, state, batch):
        """Activations of other rows have another shape, and mean nothing: `resume` is to find them anew."""
        rows = batch.inputs.shape[0]
        if not self.keeps_activations or (state.activations and state.activations[-1].shape[0] == rows):
            return state
        zeros = tuple(jnp.zeros((rows, size), state.loss.dtype) for size in self.network.sizes[1:])
        return state._replace(activations=zeros, fingerprint=of_other_rows(state.fingerprint))

    def _entering(self, state, batch):
        """The state that a caller gave, checked with its batch, in arrays of JAX."""
        checks.check_state_kind(state)
        # Not a subclass's own: what that warns of, `init` has told.
        Algorithm.check_problem(self, state.params, batch)
        return checks.checked_state(state, jax.eval_shape(lambda: self.blank(state.params, batch)))

    def _prepare(self, batch, dtype):
        """What `advance` takes in place of a batch, and the batch's fingerprint."""
        return self.precompute(prepare(batch, dtype)), fingerprint(batch, dtype)

    def resume(self, state: State, batch: Batch) -> tuple[State, Any]:
        """The state to go on from on a batch, and the batch prepared for `advance`: where every loop of steps begins.

        A state that was taken on these rows, bit for bit, stays as it is. On others what is known of its parameters
        is found anew, loss and activations, and unless the loss is the same to rounding (as where rows computed in
        another program differ in their last bits), `best_*` and `result` start anew. `inner` and `step` go on.
        """
        state, batch = alike((self._in_shape(state, batch), batch))
        prepared, mark = self._prepare(batch, state.loss.dtype)

        def look():
            fresh = self._restart(state, prepared, mark)
            return with_records(fresh, state, same_loss(fresh, state) & (state.fingerprint != 0))

        return cond(state.fingerprint == mark, lambda: state, look), prepared

    def _restart(self, state, prepared, mark):
        """The state of the same parameters with records that begin on these rows."""
        state = self.evaluate(state, prepared)
        finite, weighed = is_finite(state), has_weight(prepared)
        saturated = share_saturated(
            self.network.activations[0], state.params[0], prepared.inputs, uniform_weights(prepared)
        )
        ended = jnp.where(finite, results.BAD_WEIGHTS, results.NON_FINITE)
        return state._replace(
            best_params=state.params,
            best_loss=jnp.where(finite & weighed, state.loss, jnp.full_like(state.loss, jnp.inf)),
            result=jnp.where(finite & weighed, results.RUNNING, ended).astype(jnp.int32),
            fingerprint=mark,
            saturated=saturated,
            validation=jnp.zeros_like(state.validation),
            since_best=jnp.zeros_like(state.since_best),
        )

    def observe(self, state: State, batch: Batch) -> State:
        """The state of its parameters seen on a batch.

        With `full_batch`, `best_*` and `result` start anew on other rows than before; else `best_loss` stays the
        lowest loss of any batch.

        Raises:
            ValueError: a state of another algorithm, or a batch that `init` would refuse.
        """
        state = self._entering(state, batch)
        prepared, mark = self._prepare(batch, state.loss.dtype)
        state = self._in_shape(state, batch)
        kept = self.evaluate(state, prepared)
        kept = keep_best(kept, is_finite(kept))
        if not self.full_batch:
            return kept
        known, fresh = state.fingerprint == mark, self._restart(state, prepared, mark)
        return jax.tree.map(lambda one, other: jnp.where(known, one, other), kept, fresh)

    def step(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Info]:
        """One step. Pure; `hparams` comes first, so that `partial(step, hparams)` is a scan body.

        With `full_batch`, a state that was taken on other rows is seen on these first, see `resume`. Each call looks
        at all rows for that, and prepares them; inside a `vmap` it evaluates the network once more. A loop that
        stays on its rows is spared this by `jills.run`, or by `resume` once and `advance` for each step.

        Args:
            hparams: the `Hparams` of the algorithm's module, scalars; cast to the params' dtype.
            state: of `init` or an earlier step.
            batch: see `full_batch`.

        Returns:
            The new state, and `Info` about the step.

        Raises:
            ValueError: hparams out of range, a state of another algorithm, or a batch that `init` would refuse.
        """
        state = self._entering(state, batch)
        self.check(hparams, scalar=True, dtype=state.loss.dtype)
        hparams, state, batch = alike(automatic((cast(hparams, state.loss.dtype), state, batch)))
        if self.full_batch:
            state, prepared = self.resume(state, batch)
        else:  # its losses belong to no one batch
            prepared = self.precompute(prepare(batch, state.loss.dtype))
            state = self._in_shape(state, batch)._replace(fingerprint=jnp.zeros_like(state.fingerprint))
        return self.advance(hparams, state, prepared)

    def advance(self, hparams: Any, state: State, prepared: Any) -> tuple[State, Info]:
        """A step with cast hparams, and with the state and the prepared batch of `begin` or `resume`."""
        if not self.full_batch:
            state = self.evaluate(state, prepared)
            state = keep_best(state, is_finite(state))
        new, detail = self.update(hparams, state, prepared)
        if self.full_batch and not self.tells_loss:
            new = self.evaluate(new, prepared)
        finite = is_finite(new)
        if self.full_batch:
            new = keep_best(new, finite)
        change = norm_of_change(new.params, state.params)
        told = new._replace(step=state.step + 1), Info(state.loss, change, finite, detail)
        return forward_only(told, _NO_REVERSE.format(self.forward_mode_only)) if self.forward_mode_only else told


def _begun(algorithm, params, batch):
    # What a program returns is new, every array: a step that donates its state takes nothing from the caller, and
    # nothing twice. And JAX, where it looks for infinite numbers, does not see those of a blank state.
    return algorithm.begin(params, batch)[0]


_init = Program(_begun, (0,))

_NO_REVERSE = (
    "derivatives in reverse mode (jax.grad, jax.vjp) cannot be taken through the steps of this algorithm: {}. With "
    "respect to a few hyperparameters, take them in forward mode (jax.jvp, jax.jacfwd); with respect to data, those of "
    "the minimum that the steps lead to: the docstring of jills.run has the lines to write"
)
