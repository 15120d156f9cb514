"""What transformations by JAX ask for: types under `shard_map`, names in exported programs, reasons for no gradient."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import register_namedtuple_serialization
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")
Kind = TypeVar("Kind", bound=type)


def alike(tree: Tree, *others: Any) -> Tree:
    """The same arrays, each typed as varying between devices wherever any of them, or of `others`, varies.

    Inside `jax.shard_map` a type says over which axes of the mesh an array may vary. Data that are split over devices
    do, a constant does not; and the branches of a `lax.cond`, like what goes into a loop and comes out of it, must
    be of one type. Nothing is computed, and outside of `shard_map` nothing is done.
    """
    axes = _varying((tree, others))

    def cast(leaf):
        missing = tuple(axes - _varying(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def cond(predicate: jax.Array, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """`lax.cond`; but where devices vary (see `alike`), both branches are taken, and one is chosen.

    There JAX refuses a `vmap` of a `lax.cond` of which a branch holds a constant.
    """
    if not _varying((predicate, operands)):
        return lax.cond(predicate, yes, no, *operands)
    one, other = alike((yes(*operands), no(*operands)), predicate)
    return jax.tree.map(lambda this, that: jnp.where(predicate, this, that), one, other)


def _varying(tree) -> frozenset:
    """Axes of a mesh over which any of the arrays varies; none outside of `shard_map`, or without its check."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    return frozenset().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(tree)))


def forward_only(tree: Tree, message: str) -> Tree:
    """The same arrays; a derivative in reverse mode raises NotImplementedError with the message, others pass.

    What is differentiated in reverse begins at its outputs, so there this stands before whatever JAX would refuse
    in words of its own.
    """

    def guard(leaf):
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return _forward_only.bind(leaf, message=message) if floating else leaf

    return jax.tree.map(guard, tree)


def exported(kind: Kind) -> Kind:
    """Lets a NamedTuple stand in the signature of a program that `jax.export` writes to a file."""
    with suppress(ValueError):  # somebody has registered it already; or a notebook loads its module again
        register_namedtuple_serialization(kind, serialized_name=f"{kind.__module__}.{kind.__qualname__}")
    return kind


@cache
def imported_optax() -> Any:
    """Optax, imported where it is used: to train without it begins sooner. Exported programs may hold its states."""
    import optax

    for kind in (optax.ScaleByAdamState, optax.EmptyState, optax.TraceState):
        exported(kind)
    return optax


def _refuse(cotangent, operand, *, message):
    raise NotImplementedError(message)


# The identity. `jax.custom_vjp` would refuse forward mode too, and `linear_call` has no rule for `vmap`.
_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda leaf, message: leaf)
_forward_only.def_abstract_eval(lambda leaf, message: leaf)
ad.deflinear2(_forward_only, _refuse)
batching.defvectorized(_forward_only)
mlir.register_lowering(_forward_only, lambda context, leaf, message: [leaf])
