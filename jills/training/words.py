"""Networks and losses in words of JSON, their functions by the names of `jills.activations` and `jills.losses`.

A file holds no functions, so those of a user's own cannot be told.
"""

from contextlib import suppress
from typing import Any

from jills import activations, losses
from jills.activations import Activation
from jills.losses import Loss
from jills.network import Network

ACTIVATIONS: dict[str, Any] = {
    name: value for name, value in vars(activations).items() if isinstance(value, Activation)
} | {"leaky_relu": activations.leaky_relu}
LOSSES: dict[str, Any] = {name: value for name, value in vars(losses).items() if isinstance(value, Loss)} | {
    "huber": losses.huber
}
"""Name → the value, or the function of a number that makes it."""


def in_words(value: Activation | Loss, known: dict[str, Any]) -> list:
    """`[name]`, or `[name, number]` for what a function of a number makes.

    Raises:
        ValueError: it is none of those known.
    """
    number = getattr(getattr(value, "value", None), "delta", getattr(getattr(value, "forward", None), "slope", None))
    for name, candidate in known.items():
        if candidate == value:
            return [name]
        if number is not None and not isinstance(candidate, Activation | Loss) and candidate(number) == value:
            return [name, number]
    raise ValueError(f"{value!r} is not one of {', '.join(known)}: a file cannot hold functions of your own")


def of_words(words: list, known: dict[str, Any]) -> Any:
    """The inverse of `in_words`; raises ValueError for a name that is not known."""
    name, *numbers = words
    if name not in known:
        raise ValueError(f"the file names {name!r}, but this jills knows {', '.join(known)}")
    return known[name](*numbers) if numbers else known[name]


def network_in_words(network: Network) -> dict[str, Any]:
    """Its fields, with activations in words; raises ValueError where one is a user's own."""
    one = network.activation
    hidden = [in_words(each, ACTIVATIONS) for each in (one if isinstance(one, tuple) else (one,))]
    return {
        "sizes": network.sizes,
        "activation": hidden if isinstance(one, tuple) else hidden[0],
        "output": in_words(network.output, ACTIVATIONS),
    }


def network_of_words(words: dict[str, Any]) -> Network:
    """The inverse of `network_in_words`."""
    one = words["activation"]
    single = one != [] and isinstance(one[0], str)
    hidden = of_words(one, ACTIVATIONS) if single else tuple(of_words(each, ACTIVATIONS) for each in one)
    return Network(tuple(words["sizes"]), hidden, of_words(words["output"], ACTIVATIONS))


def has_words(network: Network) -> bool:
    """Whether a file can hold it: its activations are those of `jills.activations`."""
    with suppress(ValueError):
        network_in_words(network)
        return type(network) is Network
    return False
