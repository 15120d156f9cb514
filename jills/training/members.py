"""What each member of a sweep is trained on: by its key, or by its place in stacked arrays."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jills import checks
from jills.algorithm import Algorithm
from jills.arrays import check_array
from jills.batches import cast_known
from jills.training.validation import check_validation
from jills.types import Batch, Member

NDIM = (2, 2, 1)  # of the arrays of one member


class Rows(NamedTuple):
    """Batches of many members: each array either stacked, `(M, …)`, or one for all of them."""

    stacked: Batch  # None in place of what all share
    shared: Batch  # None in place of what is stacked

    def merged(self) -> Batch:
        """The batch of one member, where the stacked arrays are those of this one."""
        return Batch(*(two if one is None else one for one, two in zip(self.stacked, self.shared, strict=True)))

    def taken(self, at: Any) -> "Rows":
        """Those of some members, or of one."""
        return self._replace(stacked=jax.tree.map(lambda array: array[at], self.stacked))


def split(name: str, batch: Any, count: int) -> Rows | None:
    """A batch with stacked arrays taken apart.

    Args:
        name: for messages.
        batch: inputs `(n, d)` or `(M, n, d)`, targets and weights likewise; None.
        count: M, the number of keys.

    Raises:
        ValueError: it is no batch, or its arrays are stacked for another number of members.
    """
    if batch is None:
        return None
    checks.check_kind(name, batch, Batch, "a jills.Batch(inputs, targets, weights=None)")
    stacked = [_is_stacked(f"{field} of {name}", value, ndim, count) for field, value, ndim in _arrays(batch)]
    own = (array if is_own else None for array, is_own in zip(batch, stacked, strict=True))
    common = (None if is_own else array for array, is_own in zip(batch, stacked, strict=True))
    return Rows(Batch(*own), Batch(*common))


def _arrays(batch) -> Any:
    return zip(Batch._fields, batch, NDIM, strict=True)


def _is_stacked(name, array, ndim, count):
    """Whether an array has an axis of members; raises ValueError where that is of another length."""
    if array is None:
        return False
    check_array(name, array)
    shape = np.shape(array)
    if len(shape) != ndim + 1:
        return False
    if shape[0] != count:
        raise ValueError(
            f"{name} have shape {shape}, stacked for {shape[0]} members, but there are {count} keys; give one key for "
            f"each data set: jax.random.split(key, {shape[0]})"
        )
    return True


def ready(rows: Rows | None, dtype) -> Rows | None:
    """In a dtype, for a program."""
    return None if rows is None else Rows(*(_cast(part, dtype) for part in rows))


def _cast(part, dtype):
    """`cast_known` of the arrays that there are."""
    some = next(array for array in (*part, np.zeros(1)) if array is not None)
    inputs, targets = (some if array is None else array for array in part[:2])
    filled = cast_known(Batch(inputs, targets, part.weights), dtype)
    return Batch(*(None if old is None else new for old, new in zip(part, filled, strict=True)))


def first(rows: Rows | None) -> Rows | None:
    """The shapes of one member's."""
    return None if rows is None else rows._replace(stacked=jax.eval_shape(lambda part: part.taken(0), rows).stacked)


def member_of(problem: Any, key: jax.Array, rows: Rows | None, validation: Rows | None) -> Member:
    """What a problem returns for a key, completed by the rows of the sweep.

    Raises:
        ValueError: it returns something else than is asked for.
    """
    returned = problem(key)
    member = checks.checked_member(returned) if rows is None else Member(_only_params(returned), rows.merged())
    if validation is not None and member.validation is None:
        member = member._replace(validation=validation.merged())
    return member


def _only_params(returned):
    if isinstance(returned, Member) or (isinstance(returned, tuple) and any(isinstance(x, Batch) for x in returned)):
        raise ValueError(
            "problem(key) returned a batch, but the sweep was given batches; let it return params only, such as "
            "network.init, or leave batches out"
        )
    return returned


def check_member(algorithm: Algorithm, member: Member) -> None:
    """Raises ValueError where a member does not fit the algorithm."""
    algorithm.check_problem(member.params, member.batch)
    if member.validation is not None:
        check_validation(algorithm, member.params, member.validation)
