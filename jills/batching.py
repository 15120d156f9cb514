"""How LAPACK calls behave under `vmap`: looped over on the CPU, one batched call elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def fold_batches(one: Callable[..., Any], at_once: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays with one leading batch axis, into which every `vmap` around it is folded.

    On the CPU the axis is looped over: batched LAPACK calls share the thread pool they run on and were
    seen to wait for each other for ever on two cores. Elsewhere the whole batch is one call.

    Args:
        one: on the arrays of one member, without the axis.
        at_once: on the arrays of all members, with it.
    """

    def one_by_one(*args):
        if args[0].shape[0] == 1:
            return jax.tree.map(lambda leaf: leaf[None], one(*(arg[0] for arg in args)))
        return lax.map(lambda member: one(*member), args)

    @jax.custom_batching.custom_vmap
    def over_batch(*args):
        return lax.platform_dependent(*args, cpu=one_by_one, default=at_once)

    @over_batch.def_vmap
    def fold(axis_size, in_batched, *args):
        full = [
            arg if batched else jnp.broadcast_to(arg[None], (axis_size, *arg.shape))
            for arg, batched in zip(args, in_batched, strict=True)
        ]
        flat = over_batch(*(arg.reshape(-1, *arg.shape[2:]) for arg in full))
        outer = full[0].shape[:2]
        out = jax.tree.map(lambda leaf: leaf.reshape(*outer, *leaf.shape[1:]), flat)
        return out, jax.tree.map(lambda _: True, out)

    return over_batch
