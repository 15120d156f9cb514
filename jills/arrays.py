"""Arrays as they come in: what is one of real numbers, and how it becomes an array of JAX.

JAX misreads NumPy's arrays of another byte order where a program is compiled already, trains on what a mask hides, and
may share memory with the array of the caller, who goes on to change it. So whatever comes in passes here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

REAL = (jnp.floating, jnp.integer, jnp.bool_)


def known(*trees) -> bool:
    """Whether all arrays are at hand, that is, none of them is a tracer, or lies in part with other processes.

    Arrays closed over are at hand even inside a trace, as long as only NumPy looks at them.
    """
    return not has_tracers(trees) and all(is_within_reach(leaf) for leaf in jax.tree.leaves(trees))


def has_tracers(*trees) -> bool:
    """Whether any array is one that a trace stands in for."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def is_within_reach(array: Any) -> bool:
    """Whether this process has all entries of an array; what is no array of JAX it has."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated


def check_array(name: str, array, verb: str = "are") -> None:
    """Raises ValueError where something is no plain array of real numbers; the message has the line to write."""
    kind = type(array)
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name} {verb} a masked array; fill them ({name}.filled(…)) and give those rows weight zero")
    if not is_plain(array):
        raise ValueError(f"{name} {verb} a {kind.__name__}, but must be an array of numbers; {_line(name, array)}")
    if not is_real(array.dtype):
        raise ValueError(
            f"{name} {verb} of dtype {array.dtype}, but must be real numbers; where they are numbers under another "
            f"name, give numpy.asarray({name}, float)"
        )
    if is_deleted(array):
        raise ValueError(
            f"{name} {verb} an array of JAX that was deleted or donated to another computation; keep a copy, "
            f"numpy.asarray({name}), from before"
        )


def is_plain(array) -> bool:
    """Whether it is an array of JAX or NumPy, and no kind of NumPy's that means more than its numbers."""
    return isinstance(array, jax.Array) or type(array) in (np.ndarray, np.memmap)


def is_real(dtype) -> bool:
    """Whether a dtype is of real numbers; a difference of times, an integer as NumPy has it, is none."""
    return any(jnp.issubdtype(dtype, kind) for kind in REAL) and not jnp.issubdtype(dtype, np.timedelta64)


def is_deleted(array) -> bool:
    """Whether nothing is left of an array of JAX."""
    return isinstance(array, jax.Array) and not isinstance(array, Tracer) and array.is_deleted()


def is_number(value) -> bool:
    """Whether it is a real number or an array of them, of Python, NumPy or JAX."""
    if isinstance(value, int | float):
        return _fits(value)
    array = is_plain(value) or isinstance(value, np.generic)
    return array and is_real(value.dtype) and not is_deleted(value)


def is_argument(value) -> bool:
    """Whether a compiled program may be given it: a number, an array of them, or any array of JAX, such as keys."""
    if isinstance(value, jax.Array):
        return not is_deleted(value)
    if isinstance(value, int):
        largest = int(jnp.iinfo(jnp.asarray(0).dtype).max)
        return -largest <= value <= largest
    return is_number(value)


def _fits(value):
    try:
        float(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
    return True


def _line(name, array):
    """How to make an array of numbers of what was given instead."""
    for method in ("to_numpy", "toarray", "todense"):  # frames; sparse matrices of SciPy, and of JAX
        if hasattr(array, method):
            return f"give {name}.{method}()"
    if hasattr(array, "__next__"):
        return f"give numpy.asarray(list({name}), float)"
    return f"give numpy.asarray({name}, float)"


def brief(value) -> str:
    """What was given, for a message: as Python writes it, where it can, in one line that is not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of an array of JAX that was deleted, say
        text = f"a {type(value).__name__}"
    return text if len(text) < 100 else f"{text[:60]} … (a {type(value).__name__})"


def typed_keys(name: str, keys, line: str) -> jax.Array:
    """Random keys of JAX, of the kind with a dtype of its own; those of the older kind, uint32, are made such.

    Raises:
        ValueError: they are something else; `line` says what to write.
    """
    given = f"{name} {'are' if name == 'keys' else 'is'}"
    if not is_plain(keys) or is_deleted(keys):
        raise ValueError(f"{given} {brief(keys)}, but must be of JAX: {line}")
    if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        return keys
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
    if native_dtype(keys) != np.uint32 or keys.shape[-1:] != size:
        raise ValueError(f"{given} {keys.dtype}{list(keys.shape)}, but must be of JAX: {line}")
    return jax.random.wrap_key_data(native(keys))


def cast(tree: Any, dtype: Any) -> Any:
    """Every leaf as an array of JAX of a dtype; of NumPy's a copy is taken, in the byte order of this machine."""
    return jax.tree.map(lambda leaf: _cast(leaf, dtype), tree)


def _cast(leaf, dtype):
    if not isinstance(leaf, jax.Array):
        # By NumPy: JAX would first bring float64 and int64 to 32 bits where 64 are off.
        # By `device_put`: under `jax_debug_infs` JAX raises at every infinite number that it converts otherwise.
        with np.errstate(all="ignore"):
            return jax.device_put(np.array(leaf, dtype))
    return leaf if leaf.dtype == dtype and not leaf.weak_type else jnp.asarray(leaf, dtype)


def automatic(tree: Any) -> Any:
    """The same arrays, those on a mesh of explicit axes on one of automatic ones: XLA is to share the work out.

    `jax.make_mesh` makes explicit ones, whose arrays refuse each product that sums over their rows.
    """

    def moved(leaf):
        sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
            return leaf
        mesh = sharding.mesh
        if all(kind == AxisType.Auto for kind in mesh.axis_types):
            return leaf
        alike = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
        return jax.device_put(leaf, NamedSharding(alike, sharding.spec))

    return jax.tree.map(moved, tree)


def blocks_of_rows(array: Any) -> int:
    """Over how many devices the rows of an array at hand are spread, as many on each; 1 where they are not."""
    if isinstance(array, Tracer) or not isinstance(array, jax.Array) or array.size == 0:
        return 1
    return array.shape[0] // array.sharding.shard_shape(array.shape)[0]


def native(tree: Any) -> Any:
    """The tree with copies of NumPy's arrays in place of them, in the byte order of this machine and its own dtypes."""

    def copy(leaf):
        if not isinstance(leaf, np.ndarray | np.generic):
            return leaf
        return np.array(leaf, np.float64 if leaf.dtype.kind == "f" and leaf.dtype.itemsize > 8 else native_dtype(leaf))

    return jax.tree.map(copy, tree)


def native_dtype(array) -> np.dtype:
    """The dtype of an array in the byte order of this machine."""
    return array.dtype if isinstance(array, jax.Array) else array.dtype.newbyteorder("=")
