"""A fully connected network: its sizes and activations, and the pure functions they define."""

import itertools
import math
import numbers
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jills.activations import Activation, identity
from jills.arrays import automatic, cast, check_array, known, native_dtype, typed_keys
from jills.linalg import matmul
from jills.programs import Program
from jills.types import Activations, Layer, Params


@jax.tree_util.register_static
@dataclass(frozen=True)
class Network:
    """`h^l = f_l(h^(l-1) W^l + b^l)` for `l = 1 … L`. Holds no arrays: as a part of a pytree it is static.

    Attributes:
        sizes: widths `(n_0, …, n_L)`, inputs first, outputs last; `(3, 1)` has no hidden layer.
        activation: `f` of the hidden layers: one for all, or a tuple with one for each.
        output: `f_L`.

    Raises:
        ValueError: sizes that are not at least two positive integers, or activations that are not
            `Activation`s or do not match the number of hidden layers.
    """

    sizes: tuple[int, ...]
    activation: Activation | tuple[Activation, ...] = identity
    output: Activation = identity

    def __post_init__(self):
        sizes = tuple(self.sizes)
        whole = all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes)
        if len(sizes) < 2 or not whole or min(sizes) < 1:
            raise ValueError(
                f"Network: sizes are {self.sizes}, but must be at least two positive integers: "
                "inputs, hidden widths …, outputs"
            )
        object.__setattr__(self, "sizes", tuple(int(size) for size in sizes))
        if isinstance(self.activation, list):
            object.__setattr__(self, "activation", tuple(self.activation))
        if isinstance(self.activation, tuple) and len(self.activation) != self.num_layers - 1:
            raise ValueError(
                f"Network: {len(self.activation)} activations for {self.num_layers - 1} hidden "
                "layers; give one for all of them or one for each"
            )
        hidden = self.activation if isinstance(self.activation, tuple) else (self.activation,)
        for activation in (*hidden, self.output):
            if not isinstance(activation, Activation):
                raise ValueError(
                    f"Network: {activation!r} is not a jills.activations.Activation; take one from "
                    "jills.activations or build one with its derivative"
                )

    @property
    def num_layers(self) -> int:
        """`L`, the number of layers with parameters."""
        return len(self.sizes) - 1

    @property
    def activations(self) -> tuple[Activation, ...]:
        """`f_1 … f_L`."""
        if isinstance(self.activation, tuple):
            return (*self.activation, self.output)
        return (self.activation,) * (self.num_layers - 1) + (self.output,)

    @property
    def num_params(self) -> int:
        """The number of weights and biases."""
        return sum((i + 1) * o for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def init(self, key: jax.Array, dtype=None, scale: float = 1.0) -> Params:
        """Draws weights and biases from `N(0, scale² / fan_in)`.

        Args:
            key: a JAX random key.
            dtype: float32 or float64; None: JAX's default floating dtype.
            scale: factor on the standard deviation.

        Raises:
            ValueError: no key, several keys, or a dtype that is no floating one.
        """
        key = typed_keys("key", key, "jax.random.key(0)")
        if key.shape != ():
            raise ValueError(f"key has shape {key.shape}, but must be one key; for several use jax.vmap(network.init)")
        dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype is {dtype}, but must be float32 or float64")
        scales = [scale / math.sqrt(fan_in) for fan_in in self.sizes[:-1]]
        if known(scale):
            scales = list(np.asarray(scales, dtype))  # by NumPy: JAX would compile that
        return _draw("fast", {}, (self.sizes, dtype), key, scales)

    def check_params(self, params: Params) -> None:
        """Raises ValueError where params are not those of this network: shapes, and one floating dtype for all."""
        if not isinstance(params, tuple) or not all(isinstance(layer, Layer) for layer in params):
            raise ValueError("params must be a tuple of jills.Layer(weight, bias); make them with network.init(key)")
        for index, layer in enumerate(params):
            check_array(f"params[{index}].weight", layer.weight, "is")
            check_array(f"params[{index}].bias", layer.bias, "is")
        expected = [((i, o), (o,)) for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        given = [(np.shape(layer.weight), np.shape(layer.bias)) for layer in params]
        if given != expected:
            raise ValueError(
                f"params have shapes {given}, but a network of sizes {self.sizes} has {expected}; "
                f"make them with network.init(key){_several(given, expected)}"
            )
        dtypes = {native_dtype(leaf) for layer in params for leaf in layer}
        if len(dtypes) > 1 or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
            names = ", ".join(sorted(map(str, dtypes)))
            raise ValueError(f"params are {names}; all must be float32 or all float64")

    def check_inputs(self, inputs: jax.Array) -> None:
        """Raises ValueError where inputs are not `(n, d)` for this network, or no real numbers."""
        check_array("inputs", inputs)
        if jnp.ndim(inputs) != 2 or jnp.shape(inputs)[1] != self.sizes[0]:
            one = "; give one row as inputs[None, :]" if jnp.shape(inputs) == self.sizes[:1] else ""
            raise ValueError(
                f"inputs have shape {jnp.shape(inputs)}, but network sizes {self.sizes} want (n, {self.sizes[0]}){one}"
            )

    def forward(self, params: Params, inputs: jax.Array) -> Activations:
        """The activations `h^1 … h^L` of every layer; the last one is the prediction `(n, k)`.

        Args:
            params: of this network, of one floating dtype.
            inputs: `(n, d)`; converted to the dtype of the params.

        Raises:
            ValueError: params of another network, or inputs that are not `(n, d)` or no real numbers.
        """
        self.check_params(params)
        self.check_inputs(inputs)
        activations, dtype = [], native_dtype(params[0].weight)
        params, inputs = automatic(cast((params, inputs), dtype))
        for layer, activation in zip(params, self.activations, strict=True):
            inputs = activation.forward(total_input(layer, inputs))
            activations.append(inputs)
        return tuple(activations)

    def predict(self, params: Params, inputs: jax.Array) -> jax.Array:
        """The prediction `h^L`, `(n, k)`, for inputs `(n, d)`."""
        return self.forward(params, inputs)[-1]


def _several(given, expected):
    """What may have been meant by params with further axes in front."""
    if [(weight[-2:], bias[-1:]) for weight, bias in given] != expected:
        return ""
    return "; for those of several networks, as a sweep returns them, use jax.vmap, or take one with jax.tree.map"


def _drawn(sizes, dtype, key, scales):
    counts = [(fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
    # All layers at once, as many numbers as the largest has: one kernel to compile. Keys of the default kind draw each
    # layer as if by itself.
    each = jax.vmap(lambda key: jax.random.normal(key, (max(counts),), dtype))(jax.random.split(key, len(counts)))
    layers = []
    for at, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        both = each[at, : counts[at]].reshape(fan_in + 1, fan_out) * jnp.asarray(scales[at], dtype)
        layers.append(Layer(both[:-1], both[-1]))
    return tuple(layers)


_draw = Program(_drawn, (0, 1))  # one program: drawn by themselves, matrices would cost a second


def total_input(layer: Layer, below: jax.Array) -> jax.Array:
    """`H = h W + b`, `(n, fan_out)`, from the activations below, `(n, fan_in)`."""
    return matmul(below, layer.weight) + layer.bias[None, :]


def with_bias(below: jax.Array) -> jax.Array:
    """`A = [h, 1]`, `(n, fan_in + 1)`: a column of ones beside the activations below."""
    return jnp.concatenate([below, jnp.ones((below.shape[0], 1), below.dtype)], axis=1)
