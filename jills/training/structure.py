"""A pytree as text: what its leaves are and how they stand together, so that a file can say what is in it.

Told in JSON: `null`; a leaf as its entry in the file and its kind; tuples, lists, dictionaries and NamedTuples by what
they hold; a network in words. A NamedTuple is told by its name, and looked up by it among the modules that this program
has imported: nothing is imported or run for the sake of a file.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.network import Network
from jills.training.words import network_in_words, network_of_words

SCALARS = {bool: "bool", int: "int", float: "float", complex: "complex", str: "str"}


class UnknownClass(ValueError):
    """A tree has a part of a class that this program does not know, or knows otherwise."""


class Leaf(NamedTuple):
    """What a file tells of a leaf."""

    entry: str  # the place in the tree, such as `.params[0].weight`, and the name of its array
    kind: str  # jax, numpy, scalar (of NumPy), keys, error, or a name of `SCALARS`
    detail: str = ""  # a dtype that NumPy does not have of itself, or how keys make numbers


def take_apart(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a tree by their place, and its structure for JSON.

    Raises:
        ValueError: a leaf that a file cannot hold, or a network with activations of a user's own.
    """
    arrays = {}

    def describe(node, place):
        if type(node) is Network:
            return {"network": network_in_words(node)}
        children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)[0]
        if len(children) == 1 and children[0][0] == ():
            leaf, array = _of_leaf(node, jax.tree_util.keystr(place))
            arrays[leaf.entry] = array
            return {"leaf": leaf}
        if node is None:
            return None
        parts = [describe(child, (*place, *inner)) for inner, child in children]
        return _composed(node, [inner[0] for inner, _ in children], parts)

    return arrays, describe(tree, ())


def _composed(node, places, parts):
    kind = type(node)
    if kind in (tuple, list):
        return {kind.__name__: parts}
    if kind is dict and all(type(key) in (str, int) for key in node):
        return {"dict": [[place.key, part] for place, part in zip(places, parts, strict=True)]}
    names = getattr(kind, "_fields", None)
    if isinstance(node, tuple) and names is not None:
        return {"named": public_name(kind), "fields": dict(zip(names, parts, strict=True))}
    return {"other": public_name(kind), "parts": parts}


def public_name(value: Any) -> str:
    """Name of a class or function in the outermost package that has it: `jills.State`, wherever it is defined."""
    path = value.__module__.split(".")
    for length in range(1, len(path)):
        module = ".".join(path[:length])
        if getattr(sys.modules.get(module), "__dict__", {}).get(value.__qualname__) is value:
            return f"{module}.{value.__qualname__}"
    return f"{value.__module__}.{value.__qualname__}"


def _of_leaf(value, entry) -> tuple[Leaf, np.ndarray]:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return Leaf(entry, "keys", str(jax.random.key_impl(value))), np.asarray(jax.random.key_data(value))
    if isinstance(value, Exception):
        return Leaf(entry, "error"), np.asarray(repr(value))
    array = np.asarray(value)
    if array.dtype.hasobject or isinstance(value, np.ma.MaskedArray):
        given = " ".join(f"{type(value).__name__} {value!r}".split())[:80]
        raise ValueError(
            f"{entry or 'the tree'} is a {given}; a file holds arrays of numbers, keys, numbers, texts, "
            "networks and None"
        )
    array, detail = plain(array)
    if isinstance(value, np.generic):
        kind = "scalar"
    else:
        kind = SCALARS.get(type(value), "jax" if isinstance(value, jax.Array) else "numpy")
    return Leaf(entry, kind, detail), array


def plain(array: np.ndarray) -> tuple[np.ndarray, str]:
    """An array of a dtype that NumPy reads without help, and the name of its own where that is another: bfloat16."""
    if array.dtype.isbuiltin != 2:  # 2: registered by another package
        return array, ""
    return array.view(f"uint{8 * array.dtype.itemsize}"), array.dtype.name


def restored(array: np.ndarray, detail: str) -> np.ndarray:
    """The inverse of `plain`."""
    return array.view(np.dtype(detail)) if detail else array


def leaves(node: Any) -> list[Leaf]:
    """The leaves of a structure."""
    if node is None:
        return []
    if "leaf" in node:
        return [Leaf(*node["leaf"])]
    return [leaf for part in _parts(node) for leaf in leaves(part)]


def _parts(node):
    if "network" in node:
        return []
    if "fields" in node:
        return list(node["fields"].values())
    if "dict" in node:
        return [part for _, part in node["dict"]]
    return next(node[kind] for kind in ("tuple", "list", "parts") if kind in node)


def put_together(node: Any, value_of: Callable[[Leaf], Any]) -> Any:
    """The tree of a structure.

    Args:
        node: of `take_apart`.
        value_of: the value of each leaf.

    Raises:
        UnknownClass: see there.
    """
    if node is None:
        return None
    if "leaf" in node:
        return value_of(Leaf(*node["leaf"]))
    if "network" in node:
        return network_of_words(node["network"])
    parts = [put_together(part, value_of) for part in _parts(node)]
    if "tuple" in node:
        return tuple(parts)
    if "list" in node:
        return parts
    if "dict" in node:
        return dict(zip([key for key, _ in node["dict"]], parts, strict=True))
    if "other" in node:
        raise UnknownClass(f"it holds a {node['other']}, which is no NamedTuple")
    return _named_tuple(node["named"], dict(zip(node["fields"], parts, strict=True)))


def _named_tuple(name, given):
    """A NamedTuple of values by field; fields that it has got since take their defaults."""
    path = name.split(".")
    for length in range(len(path) - 1, 0, -1):
        found = sys.modules.get(".".join(path[:length]))
        for part in path[length:]:
            found = getattr(found, "__dict__", {}).get(part)  # not by getattr, at which some modules import others
        if isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields"):
            kind: Any = found
            values = kind._field_defaults | given
            if set(values) == set(kind._fields):
                return kind._make(values[field] for field in kind._fields)
    raise UnknownClass(f"it holds a {name} with the fields {', '.join(given)}, and no module imported so far has it")
