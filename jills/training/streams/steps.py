"""The programs of a training on a stream: a step on a batch, and a look at validation rows."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from jills import checks, results
from jills.algorithm import Algorithm
from jills.arrays import brief, cast
from jills.batches import cast_known
from jills.functions import Static
from jills.results import Stop
from jills.training.validation import Validation, entered, judged
from jills.types import Batch, State


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def step(static: Static, is_judged: bool, hparams: Any, state: State, batch: Batch) -> tuple[State, jax.Array]:
    """The state after a step on a batch, and the loss of its parameters before it on that batch.

    Args:
        static: the algorithm.
        is_judged: whether validation rows choose `best_*`, and not the losses of batches.
        hparams: scalars.
        state: given up: its memory is that of the new one.
        batch: in the dtype of the parameters.
    """
    new, info = static.value.step(hparams, state, batch)
    if is_judged:
        new = new._replace(best_params=state.best_params, best_loss=state.best_loss)
    ended = results.code(new.loss, info, cast(Stop(), new.loss.dtype))
    return new._replace(result=jnp.where(state.result == results.RUNNING, ended, state.result)), info.loss


@partial(jax.jit, static_argnums=0)
def enter(static: Static, state: State, given: Validation) -> tuple[State, Validation, jax.Array]:
    """The state with `best_*` chosen by validation rows, these rows prepared, and their loss."""
    state, prepared = entered(static.value, state, given)
    assert prepared is not None
    return state, prepared, prepared.loss(static.value, state.params)


@partial(jax.jit, static_argnums=0)
def judge(static: Static, state: State, prepared: Validation, steps: jax.Array) -> tuple[State, jax.Array]:
    """The state and the loss of its parameters on validation rows, `steps` after the last look at them."""
    loss = prepared.loss(static.value, state.params)
    waited = state._replace(since_best=state.since_best + steps - 1)
    return judged(state, waited, loss, prepared.patience, jnp.asarray(True)), loss


def checked_batches(algorithm: Algorithm, dtype: Any, source: Any, epoch: int, first: int, epochs: int | None):
    """Batches ready for `step`, and the position after each: its epoch, and the batches of that epoch so far.

    Args:
        algorithm: to train with.
        dtype: of the parameters.
        source: has a method `epoch(number, first)`, such as `Rows`, or is any iterable of batches.
        epoch: to begin with.
        first: batches of it to leave out.
        epochs: to stop after; None: go on for ever.
    """
    wide = bool(jax.config.read("jax_enable_x64"))

    def all_of_them() -> Iterator[tuple[tuple[int, int], Batch]]:
        number, count = epoch, first
        while epochs is None or number < epochs:
            for batch in _from(source, number, count):
                try:
                    with jax.enable_x64(wide):  # of whoever calls; a thread does not inherit it
                        checks.check_batch(algorithm.network, batch, dtype)
                        checks.check_targets(algorithm.loss.allowed, batch)
                        ready = cast_known(batch, dtype)
                except ValueError as error:
                    raise ValueError(f"batch {count} of epoch {number}: {error}") from None
                count += 1
                yield (number, count), ready
            if count == 0:
                again = "; an iterator can be read once only: give a list, or streams.batches" if number else ""
                raise ValueError(f"there are no batches in epoch {number}, but at least one is needed{again}")
            number, count = number + 1, 0

    return all_of_them()


def _from(source, number, first):
    if hasattr(source, "epoch"):
        return source.epoch(number, first)
    return islice(iter(source), first, None)


def check_source(source: Any) -> None:
    """Raises ValueError where something gives no batches."""
    if isinstance(source, Batch):
        raise ValueError(
            "batches is a single jills.Batch; give [batch], or streams.batches(batch.inputs, batch.targets, 2048)"
        )
    if not hasattr(source, "epoch") and not hasattr(source, "__iter__"):
        raise ValueError(f"batches is {brief(source)}, but must be streams.batches(…) or an iterable of jills.Batch")
