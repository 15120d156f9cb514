"""Which parameters share a precision α: the groups of the prior."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jills.network import Network
from jills.types import Layer

Prior = Callable[[Network], Any]
"""`network → groups`: like its params, but each entry the number of its group, an integer from 0 without gaps."""


def one_group(network: Network) -> tuple[Layer, ...]:
    """All parameters in one group, weights and biases alike: the default, and the safest."""
    return _filled(network, lambda layer: 0)


def by_layer(network: Network) -> tuple[Layer, ...]:
    """A group for each layer, the first hidden layer first."""
    return _filled(network, lambda layer: layer)


def by_input(network: Network) -> tuple[Layer, ...]:
    """A group for the weights of each input column, and a last one for all others (automatic relevance determination).

    Columns that tell nothing are pruned: their α grows and their weights vanish. For tables with many idle columns
    (MacKay 1994; Neal 1996).
    """
    d = network.sizes[0]
    first, *others = _filled(network, lambda layer: d)
    columns: Any = np.broadcast_to(np.arange(d, dtype=np.int32)[:, None], first.weight.shape)
    return (Layer(columns, first.bias), *others)


def _filled(network, group):
    """Groups by layer."""
    layer_of: Any = Layer  # of integers of NumPy
    pairs = zip(network.sizes[:-1], network.sizes[1:], strict=True)
    return tuple(
        layer_of(np.full((fan_in, fan_out), group(layer), np.int32), np.full(fan_out, group(layer), np.int32))
        for layer, (fan_in, fan_out) in enumerate(pairs)
    )


def groups_of(prior: Prior, network: Network) -> np.ndarray:
    """The group of every entry of the stacked parameters, `(p,)` int32, in the order of `linalg.flatten`.

    Raises:
        ValueError: groups that do not have the shapes of the params, or numbers with gaps.
    """
    groups, wanted = prior(network), _filled(network, lambda layer: 0)
    shapes = [(np.shape(layer[0]), np.shape(layer[1])) for layer in groups] if _is_params(groups) else groups
    if shapes != [(layer.weight.shape, layer.bias.shape) for layer in wanted]:
        raise ValueError(
            f"evidence: the prior returned groups of shapes {shapes}, but must return one Layer(weight, bias) of "
            "integers for each layer, shaped like the params; see jills.evidence.by_layer"
        )
    flat = np.concatenate([np.concatenate([layer[0], np.asarray(layer[1])[None]]).ravel() for layer in groups])
    if flat.dtype.kind not in "iu" or not np.array_equal(np.unique(flat), np.arange(flat.max(initial=0) + 1)):
        raise ValueError(
            f"evidence: the prior numbers its groups {np.unique(flat)[:9]}, but must number them 0, 1, 2, … as integers"
        )
    return flat.astype(np.int32)


def _is_params(groups):
    return isinstance(groups, tuple) and all(isinstance(layer, tuple) and len(layer) == 2 for layer in groups)
