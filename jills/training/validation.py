"""Rows that training does not see: they choose the best parameters, and say when to stop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import checks, results
from jills.algorithm import Algorithm
from jills.batches import fingerprint, prepare
from jills.types import Batch, Params, State

FOR_EVER = 2**31 - 1


class Validation(NamedTuple):
    """Validation rows as given, or prepared, and how long to wait."""

    batch: Batch
    patience: Any  # () int32, steps without a lower loss after which a member stops

    def loss(self, algorithm: Algorithm, params: Params) -> jax.Array:
        """That of params on prepared rows, `()`; infinite where it is not finite."""
        loss = algorithm.loss_of(params, self.batch)
        return jnp.where(jnp.isfinite(loss), loss, jnp.full_like(loss, jnp.inf))


def check_validation(algorithm: Algorithm, params: Params, batch: Batch) -> None:
    """Raises ValueError where validation rows are such as could not be trained on."""
    try:
        algorithm.check_problem(params, batch)
    except ValueError as error:
        raise ValueError(f"of the validation rows: {error}") from None


def checked_patience(validation: Any, patience: Any) -> np.int32:
    """How long to wait, for ever where None is given.

    Raises:
        ValueError: it is no positive integer, or there are no rows to wait for.
    """
    if patience is None:
        return np.int32(FOR_EVER)
    count = checks.checked_count("patience", patience)
    if validation is None:
        raise ValueError(f"patience is {count}, but there are no validation rows; give validation=jills.Batch(…)")
    return np.int32(count)


def entered(algorithm: Algorithm, state: State, given: Validation | None) -> tuple[State, Validation | None]:
    """The state with `best_*` chosen by these rows, or by the training loss; and the rows prepared.

    What other rows have chosen is forgotten: the present parameters are the best so far.
    """
    if given is None:
        mark, rows, loss = jnp.zeros_like(state.validation), None, state.loss
    else:
        dtype = state.loss.dtype
        mark = fingerprint(given.batch, dtype)
        rows = given._replace(batch=prepare(given.batch, dtype))
        loss = rows.loss(algorithm, state.params)
    other = state.validation != mark
    choose = lambda new, old: jnp.where(other, new, old)  # noqa: E731 used at once
    waited = other & (state.result == results.PATIENCE)
    return state._replace(
        best_params=jax.tree.map(choose, state.params, state.best_params),
        best_loss=choose(jnp.where(jnp.isfinite(loss), loss, jnp.full_like(loss, jnp.inf)), state.best_loss),
        result=jnp.where(waited, jnp.zeros_like(state.result), state.result),
        validation=mark,
        since_best=choose(jnp.zeros_like(state.since_best), state.since_best),
    ), rows


def judged(new: State, old: State, loss: jax.Array, patience: jax.Array, finite: jax.Array) -> State:
    """A state after a step, with the best parameters by validation loss, and stopped where it waited long enough.

    Args:
        new: after the step, its result told.
        old: before it.
        loss: of the new parameters, `()`.
        patience: `()` int32.
        finite: whether the new parameters are, `()` bool.
    """
    better = finite & (loss < old.best_loss)
    choose = lambda one, other: jnp.where(better, one, other)  # noqa: E731 used at once
    since = choose(jnp.zeros_like(old.since_best), old.since_best + 1)
    ended = (new.result == results.RUNNING) & (since >= patience)
    return new._replace(
        best_params=jax.tree.map(choose, new.params, old.best_params),
        best_loss=choose(loss, old.best_loss),
        since_best=since,
        result=jnp.where(ended, jnp.full_like(new.result, results.PATIENCE), new.result),
    )
