"""Hyperparameters: every algorithm has a NamedTuple of numbers, its `Hparams`; a sweep varies them.

A leaf is a scalar, shared by all members, or `(H,)`. Leaves of a sweep are zipped; `product` makes all
combinations of lists.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jills.arrays import brief, is_argument, is_real, known, native

Kind = TypeVar("Kind", bound=type)
Hparams = TypeVar("Hparams", bound=tuple)


class Limit(NamedTuple):
    """The interval that a hyperparameter must lie in."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Which values lie inside; a NaN does not."""
        above = values > self.low if self.open_low else values >= self.low
        below = values < self.high if self.open_high else values <= self.high
        return above & below

    def __str__(self):
        left = "(" if self.open_low else "["
        right = ")" if self.open_high or np.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


def by_keyword(kind: Kind) -> Kind:
    """Makes a NamedTuple refuse hyperparameters by position, and names that it does not have.

    For algorithms whose first hyperparameter is not the learning rate that others have in that place. (All fields
    by position are let through: this is how pytrees and pickle build a tuple.) A class attribute `elsewhere` may
    end the message: where what was meant is to be found.
    """
    make: Any = kind.__new__
    fields: Any = inspect.signature(make).parameters.values()

    def __new__(cls, *values, **named):
        wrong = set(named) - set(cls._fields)
        if wrong or 0 < len(values) < len(cls._fields):
            given = ", ".join([*map(repr, values), *(f"{name}={value!r}" for name, value in named.items())])
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__}({given}): its hyperparameters are {', '.join(cls._fields)}, "
                f"each given by keyword{getattr(cls, 'elsewhere', '')}"
            )
        return make(cls, *values, **named)

    by_name = [field.replace(kind=field.KEYWORD_ONLY) for field in fields if field.name in kind._fields]
    kind.__new__ = __new__
    kind.__signature__ = inspect.Signature(by_name)
    return kind


def product(kind: Callable[..., Hparams], **axes: Any) -> Hparams:
    """All combinations of lists of hyperparameters, for a sweep: leaves `(H,)`, the last field varies fastest.

    Args:
        kind: an `Hparams`, such as `jills.adam.Hparams`.
        axes: a number or a list for each field to set; others keep their default.

    Raises:
        ValueError: a list that is empty or nested or not of numbers, or a hyperparameter that there is not.

    Six pairs, for example::

        jills.product(jills.ills.Hparams, learning_rate=[0.1, 0.3, 1.0], ridge=[0.0, 1e-3])
    """
    fields = getattr(kind, "_fields", axes)
    unknown = [name for name in axes if name not in fields]
    if unknown:
        raise ValueError(f"product: there is no {', '.join(unknown)}; the hyperparameters are {', '.join(fields)}")
    chosen: Any = kind(**axes)
    every = np.meshgrid(*(_column(*field) for field in chosen._asdict().items()), indexing="ij")
    return kind(*(each.ravel() for each in every))


def _column(name, values):
    """A number or a list of numbers as `(m,)`."""
    try:
        column = np.atleast_1d(np.asarray(values))
    except (ValueError, TypeError, RuntimeError):  # a list of lists of several lengths, an array that was deleted
        column = np.empty(0)
    if isinstance(values, np.ma.MaskedArray) or not is_real(column.dtype) or column.ndim > 1 or column.size == 0:
        raise ValueError(f"product: {name} is {brief(values)}, but must be a number or a list of numbers")
    return column.astype(float)


def as_columns(hparams: Hparams) -> tuple[int, Hparams]:
    """H, and every leaf as `(H,)`.

    Raises:
        ValueError: leaves that are no numbers, or neither scalars nor `(H,)` with one H for all.
    """
    leaves = jax.tree.leaves(hparams)
    wrong = [leaf for leaf in leaves if not is_argument(leaf)]
    if wrong:
        raise ValueError(f"a leaf of hparams is {brief(wrong[0])}, but must be a number or an array of numbers")
    shapes = [np.shape(leaf) for leaf in leaves]
    lengths = {shape[0] for shape in shapes if shape}
    if any(len(shape) > 1 for shape in shapes) or len(lengths) > 1 or lengths == {0}:
        raise ValueError(
            f"the leaves of hparams have shapes {shapes}; each must be a scalar, shared by all, or (H,) with "
            "one H ≥ 1 for all (they are zipped; jills.product makes all combinations)"
        )
    count = lengths.pop() if lengths else 1
    return count, jax.tree.map(lambda leaf: _spread(leaf, count), native(hparams))


def _spread(leaf, count):
    if isinstance(leaf, jax.Array) and known(leaf) and not leaf.weak_type:
        return np.broadcast_to(np.asarray(leaf), (count,))  # by NumPy: JAX would compile it
    return jnp.broadcast_to(leaf, (count,))


def in_dtype(tree: Any, dtype) -> Any:
    """Optax's state in a dtype: it starts some leaves as weak Python numbers, for which a scan would compile twice."""

    def fix(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    return jax.tree.map(fix, tree)
