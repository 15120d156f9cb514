"""A trained network on disk: its parameters, and what it takes to predict with them again, in one `.npz` file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import dtypes

from jills import activations, losses
from jills.activations import Activation
from jills.losses import Loss
from jills.network import Network
from jills.training.checkpoint import save_arrays
from jills.types import Layer, Params

FORMAT = 1
DESCRIPTION = "jills_model"  # the entry that holds the text


class Model(NamedTuple):
    """What `load_model` returns."""

    network: Network
    params: Params  # leaves may lead with the axes of a sweep
    loss: Loss


def save_model(path: str | Path, network: Network, params: Params, loss: Loss = losses.squared_error) -> None:
    """Writes a network with its parameters; whole or not at all.

    The file is read by `load_model`, and by `numpy.load` without pickle: `weight_1`, `bias_1`, … are arrays, and
    `jills_model` is a text in JSON with the sizes, the activations and the loss.

    Args:
        path: the file, ending in `.npz`; an older one is replaced.
        network: its activations are those of `jills.activations`.
        params: of that network; leaves may have leading axes, those of a sweep.
        loss: that it was trained on, one of `jills.losses`; its prediction may be logits.

    Raises:
        ValueError: params of another network, or functions of a user's own, which a file cannot hold.
    """
    expected = [((i, o), (o,)) for i, o in zip(network.sizes[:-1], network.sizes[1:], strict=True)]
    given = [(np.shape(weight)[-2:], np.shape(bias)[-1:]) for weight, bias in params]
    if given != expected:
        raise ValueError(f"params have shapes {given}, but a network of sizes {network.sizes} has {expected}")
    described = {
        "format": FORMAT,
        "sizes": network.sizes,
        "activations": [_describe(each, ACTIVATIONS) for each in network.activations],
        "loss": _describe(loss, LOSSES),
    }
    entries: dict[str, Any] = {DESCRIPTION: np.array(json.dumps(described))}
    for number, (weight, bias) in enumerate(params, 1):
        entries |= {f"weight_{number}": np.asarray(weight), f"bias_{number}": np.asarray(bias)}
    save_arrays(Path(path), entries)


def load_model(path: str | Path, dtype: Any = None) -> Model:
    """Reads what `save_model` wrote.

    Args:
        path: the file.
        dtype: of the parameters; None: that of the file.

    Raises:
        ValueError: the file holds no model, or one of a later version of jills; or 64 bits, which JAX has off, in
            a file and no `dtype` is given.
    """
    with np.load(path, allow_pickle=False) as file:
        if DESCRIPTION not in file.files:
            raise ValueError(
                f"{path} holds no model of jills.save_model; states and other trees: jills.load(path, like)"
            )
        entries = {name: file[name] for name in file.files}
    described = json.loads(str(entries[DESCRIPTION]))
    if described["format"] > FORMAT:
        raise ValueError(f"{path} is of format {described['format']}, this jills reads up to {FORMAT}; update jills")
    *hidden, output = (_build(each, ACTIVATIONS) for each in described["activations"])
    network = Network(tuple(described["sizes"]), tuple(hidden), output)
    kept = entries["weight_1"].dtype
    if dtype is None and dtypes.canonicalize_dtype(kept) != kept:
        raise ValueError(f"{path} holds {kept}, but JAX has 64 bits off; give dtype='float32', or set jax_enable_x64")
    dtype = kept if dtype is None else dtype
    pairs = ((entries[f"weight_{n}"], entries[f"bias_{n}"]) for n in range(1, network.num_layers + 1))
    params = tuple(Layer(*(jnp.asarray(leaf.astype(dtype)) for leaf in pair)) for pair in pairs)
    return Model(network, params, _build(described["loss"], LOSSES))


ACTIVATIONS: dict[str, Any] = {
    name: value for name, value in vars(activations).items() if isinstance(value, Activation)
} | {"leaky_relu": activations.leaky_relu}
LOSSES: dict[str, Any] = {name: value for name, value in vars(losses).items() if isinstance(value, Loss)} | {
    "huber": losses.huber
}
"""Name → the value, or the function of a number that makes it."""


def _describe(value, known):
    """`[name]`, or `[name, number]` for what a function of a number makes."""
    number = getattr(getattr(value, "value", None), "delta", getattr(getattr(value, "forward", None), "slope", None))
    for name, candidate in known.items():
        if candidate == value:
            return [name]
        if number is not None and not isinstance(candidate, Activation | Loss) and candidate(number) == value:
            return [name, number]
    raise ValueError(f"{value!r} is not one of {', '.join(known)}: a file cannot hold functions of your own")


def _build(described, known):
    name, *numbers = described
    if name not in known:
        raise ValueError(f"the file names {name!r}, but this jills knows {', '.join(known)}")
    return known[name](*numbers) if numbers else known[name]
