"""A trained network on disk: its parameters, and what it takes to predict with them again, in one `.npz` file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jills import losses
from jills.losses import Loss
from jills.network import Network
from jills.training.checkpoint import as_jax, read_arrays, read_description, save_arrays
from jills.training.structure import plain, restored
from jills.training.words import ACTIVATIONS, LOSSES, in_words, of_words
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
    `jills_model` is a text in JSON with the sizes, the activations, the loss, and, where the arrays are the bits of
    bfloat16 or another dtype that NumPy does not know of itself, its name.

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
        "activations": [in_words(each, ACTIVATIONS) for each in network.activations],
        "loss": in_words(loss, LOSSES),
    }
    entries: dict[str, Any] = {}
    for number, layer in enumerate(params, 1):
        for name, leaf in zip(("weight", "bias"), layer, strict=True):
            entries[f"{name}_{number}"], dtype = plain(np.asarray(leaf))
            described |= {"dtype": dtype} if dtype else {}
    save_arrays(Path(path), {DESCRIPTION: np.array(json.dumps(described)), **entries})


def load_model(path: str | Path, dtype: Any = None) -> Model:
    """Reads what `save_model` wrote.

    Args:
        path: the file.
        dtype: of the parameters; None: that of the file.

    Raises:
        ValueError: the file holds no model, or one of a later version of jills; or 64 bits, which JAX has off, in
            a file and no `dtype` is given.
    """
    entries = read_arrays(path)
    if DESCRIPTION not in entries:
        raise ValueError(f"{path} holds no model of jills.save_model; states and other trees: jills.load(path, like)")
    described = read_description(path, entries[DESCRIPTION], FORMAT)
    *hidden, output = (of_words(each, ACTIVATIONS) for each in described["activations"])
    network = Network(tuple(described["sizes"]), tuple(hidden), output)

    def parameter(name):
        array = restored(entries[name], described.get("dtype", ""))
        return as_jax(path, array if dtype is None else array.astype(dtype))

    numbers = range(1, network.num_layers + 1)
    params = tuple(Layer(parameter(f"weight_{number}"), parameter(f"bias_{number}")) for number in numbers)
    return Model(network, params, of_words(described["loss"], LOSSES))
