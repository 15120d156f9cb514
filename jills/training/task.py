"""What a sweep is asked for, checked and laid out: all that is known of it before anything is compiled."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jills import checks
from jills.algorithm import Algorithm
from jills.arrays import cast
from jills.functions import Static
from jills.hparams import as_columns
from jills.linalg import only_cpu
from jills.results import Stop
from jills.training import chunks
from jills.training.description import describe
from jills.training.members import check_member, first, member_of, ready, split
from jills.training.memory import check_fits, free_bytes, tree_bytes
from jills.training.records import NUMBERS
from jills.training.result import SweepResult
from jills.training.resuming import check_same
from jills.training.run import as_partial, blank_detail, check_static
from jills.training.validation import checked_patience
from jills.types import Batch, Metrics, Problem, State


class Task(NamedTuple):
    """A sweep of M = H · S members: H sets of hyperparameters × S keys.

    They are laid out as W workers with B members each, see `jills.training.chunks.Plan`.
    """

    static: Static  # the algorithm
    described: str  # the same in words, for files
    keys: jax.Array  # (S,)
    shape: tuple[int, int]  # (H, S)
    columns: Any  # hyperparameters, leaves (H,)
    num_steps: int
    chunk_steps: int
    blank: State  # shapes of one member's state
    plan: chunks.Plan
    shared: chunks.Shared
    stacked: list  # training rows and validation rows that are one set a key, leaves (S, …); None where there are none
    earlier: State | None  # to go on from, leaves [H, S, …]
    kept: int  # bytes that states and records take at least

    @property
    def dtype(self) -> Any:
        """Of the parameters."""
        return self.blank.loss.dtype

    def members(self) -> tuple:
        """Hyperparameters, data of the keys and rows of each member, leaves `[W, B, …]`."""
        hparam, key = self._places()
        # By NumPy where that copies nothing to a host: JAX would compile each of these.
        own = jax.tree.map(lambda leaf: (np.asarray(leaf) if only_cpu() else leaf)[key], self.stacked)
        data = np.asarray(jax.random.key_data(self.keys))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[hparam], self.columns), data[key], own

    def start(self) -> chunks.Progress:
        """What is complete before the first step."""
        hparam, key = self._places()
        return chunks.begun(self.plan, jax.tree.map(lambda leaf: np.asarray(leaf)[hparam, key], self.earlier))

    def _places(self):
        """Which set of hyperparameters and which key each member has, `(W, B)` both."""
        return np.divmod(self.plan.members, self.shape[1])

    def laid_out(self, tree: Any) -> Any:
        """Leaves `[M, …]` as `[H, S, …]`."""
        return jax.tree.map(lambda leaf: leaf.reshape(*self.shape, *leaf.shape[1:]), tree)


def checked_task(
    *,
    algorithm: Algorithm,
    hparams: Any,
    problem: Problem,
    keys: jax.Array,
    num_steps: int,
    chunk_steps: int,
    mesh: Mesh | None,
    stop: Stop,
    metrics: Metrics | None,
    state: State | SweepResult | None,
    batch_size: int | None,
    batches: Batch | None,
    validation: Batch | None,
    patience: int | None,
    is_checkpointed: bool,
    is_recorded: bool,
) -> Task:
    """The task that arguments of `sweep` ask for.

    Raises:
        ValueError: an argument is wrong.
        MemoryError: states and records would not fit.
    """
    check_static(algorithm, metrics)
    checks.check_function("problem", problem)
    num_steps = checks.checked_count("sweep: num_steps", num_steps)
    chunk_steps = checks.checked_count("sweep: chunk_steps", chunk_steps)
    batch_size = None if batch_size is None else checks.checked_count("sweep: batch_size", batch_size)
    checks.check_stop(stop, algorithm.blank_detail)
    keys = checks.checked_keys(keys)
    described = describe(algorithm)
    if isinstance(state, SweepResult):
        check_same(state, described, keys, as_columns(hparams)[1])
        state = state.state
    problem, metrics = as_partial(problem), None if metrics is None else as_partial(metrics)
    rows = [split(name, given, len(keys)) for name, given in (("batches", batches), ("validation", validation))]
    one_key = jax.ShapeDtypeStruct((), keys.dtype)
    blank, judged = jax.eval_shape(partial(_checked_blank, algorithm), problem, one_key, *map(first, rows))
    dtype, waits = blank.loss.dtype, checked_patience(judged, patience)
    algorithm.check(hparams, dtype=dtype)
    num_hparams, columns = as_columns(cast(hparams, dtype))
    shape = (num_hparams, len(keys))
    chunk_steps = min(chunk_steps, num_steps)
    in_memory = min(num_steps, NUMBERS // math.prod(shape) + chunk_steps) if is_recorded else num_steps
    copies = 3 if is_checkpointed else 2  # states, old and new, and those that are being written
    kept = math.prod(shape) * (copies * tree_bytes(blank) + 40 * in_memory)
    check_fits(kept, 0, shape, free_bytes())
    state = None if state is None else checks.checked_state(state, blank, shape)

    rows = [ready(each, dtype) for each in rows]
    common = [each and each._replace(stacked=None) for each in rows]
    stacked = [each and each.stacked for each in rows]
    still = blank_detail(algorithm, dtype)
    shared = chunks.Shared(problem, cast(stop, dtype), metrics, common, waits, still)
    plan = chunks.make_plan(math.prod(shape), mesh, batch_size)
    return Task(
        static=Static(algorithm),
        described=described,
        keys=keys,
        shape=shape,
        columns=columns,
        num_steps=num_steps,
        chunk_steps=chunk_steps,
        blank=blank,
        plan=plan,
        shared=shared,
        stacked=stacked,
        earlier=state,
        kept=kept,
    )


def _checked_blank(algorithm, problem, key, rows, validation):
    """A member before it has begun, and its validation rows."""
    member = member_of(problem, key, rows, validation)
    check_member(algorithm, member)
    return algorithm.blank(member.params, member.batch), member.validation
