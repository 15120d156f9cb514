"""What a program will take in memory, told from its trace, before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import psutil
from jax.extend.core import jaxprs_in_params

MATERIALISED = (
    "dot_general",
    "cholesky",
    "triangular_solve",
    "svd",
    "eigh",
    "qr",
    "geqrf",
    "householder_product",
    "lu",
)
"""Operations whose operands and results lie in memory; what others make is often never written."""


def heaviest_step(jaxpr: Any) -> int:
    """Bytes that the largest single operation of a program holds at once: no run of it takes less.

    Args:
        jaxpr: of `jax.make_jaxpr` or `jax.jit(…).trace(…)`; programs within it are looked at too.
    """
    return max((_bytes(equation) for equation in _equations(jaxpr)), default=0)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in MATERIALISED:
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _bytes(equation) -> int:
    arrays = {id(var): var.aval for var in (*equation.invars, *equation.outvars)}
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())


def free_bytes() -> int:
    """Memory that all local devices have left."""
    limits = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in limits:
        return jax.local_device_count() * (limits["bytes_limit"] - limits.get("bytes_in_use", 0))
    return psutil.virtual_memory().available


def check_fits(kept: int, work: int, shape: tuple[int, int], available: int) -> None:
    """Raises MemoryError where the states and records of a sweep, or beside them the work of a step, would not fit.

    Args:
        kept: bytes of states and records.
        work: bytes of a step; zero: not known yet.
        shape: (H, S).
        available: bytes.
    """
    if kept + work > available:
        raise MemoryError(
            f"this sweep of {shape[0]} x {shape[1]} members needs at least {kept / 1e9:.1f} GB for states and records "
            f"and {work / 1e9:.1f} GB for a step, but {available / 1e9:.1f} GB are free; sweep fewer keys at a time, "
            "fewer rows or fewer steps, or take a smaller batch_size"
        )


def tree_bytes(tree: Any) -> int:
    """Of all arrays of a tree of shapes, such as `jax.eval_shape` returns."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(getattr(leaf, "dtype", None), np.dtype)]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
