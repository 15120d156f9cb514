"""Activation functions with what least squares needs of them: inverse, derivative and range.

An activation is a frozen dataclass of plain functions, so it can be compared, hashed, pickled
and passed to `jax.jit` as a static argument. Write your own with `Activation(...)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

Function = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Activation:
    """An elementwise function `h = f(H)`.

    Attributes:
        forward: `f`.
        derivative: `f'`, as a function of the total input `H`.
        inverse: `f⁻¹` on the open range, or None where `f` has none (ReLU).
        range: the open interval `(low, high)` of the values of `f`.
        nonsmooth: whether `f'` jumps, as that of ReLU does.
    """

    forward: Function
    derivative: Function
    inverse: Function | None = None
    range: tuple[float, float] = (-math.inf, math.inf)
    nonsmooth: bool = False

    def __call__(self, total_input: jax.Array) -> jax.Array:
        """`f(H)`."""
        return self.forward(total_input)

    @property
    def derivative_of_value(self) -> Function | None:
        """`f'` as a function of the value `h = f(H)`, where that is known to tell it: it spares an evaluation."""
        slope = self.derivative
        if isinstance(slope, _WithSlope):  # a slope is that of the sign, which values keep
            return slope if self.forward == _WithSlope(_leaky, slope.slope) else None
        return _OF_VALUES.get((self.forward, slope))

    def project(self, values: jax.Array, margin: float | None = None) -> jax.Array:
        """Moves values into the range, at least `margin` away from each of its finite ends.

        Args:
            values: any shape.
            margin: distance kept, in units of the activation. None: `default_margin(dtype)`.
        """
        margin = default_margin(values.dtype) if margin is None else margin
        low, high = self.range
        return jnp.clip(values, low + margin, high - margin)

    def outside(self, values):
        """Which values lie outside the open range and so have no exact ideal total input."""
        low, high = self.range
        return (values <= low) | (values >= high)


def default_margin(dtype) -> float:
    """`max(1e-6, 100 ε)`: 1e-6 in float64, 1.2e-5 in float32.

    The inverse of a saturating function loses its digits at the ends of the range (`arctanh(1)` is
    infinite, and in float32 `tanh(8)` is 1), so the distance kept follows the dtype. With these
    margins tanh is inverted for total inputs within ±7.2 (float64) and ±6 (float32).
    """
    return max(1e-6, 100.0 * float(jnp.finfo(dtype).eps))


@dataclass(frozen=True)
class _WithSlope:
    """`function(slope, ·)`; unlike `functools.partial` two equal ones compare equal."""

    function: Callable[[float, jax.Array], jax.Array]
    slope: float

    def __call__(self, values: jax.Array) -> jax.Array:
        return self.function(self.slope, values)


# Plain functions throughout: those of jax.numpy are wrapped in a jit and cannot be pickled.


def _itself(values):
    return values


def _ones(values):
    return jnp.ones_like(values)


def _tanh(total_input):
    return jnp.tanh(total_input)


def _tanh_inverse(values):
    return jnp.arctanh(values)


def _tanh_derivative(total_input):
    return 1.0 - jnp.square(jnp.tanh(total_input))


def _tanh_slope(values):
    return 1.0 - jnp.square(values)


def _sigmoid(total_input):
    return jax.nn.sigmoid(total_input)


def _sigmoid_derivative(total_input):
    return jax.nn.sigmoid(total_input) * jax.nn.sigmoid(-total_input)


def _sigmoid_slope(values):
    return values * (1.0 - values)


def _sigmoid_inverse(values):
    return jnp.log(values) - jnp.log1p(-values)


def _softplus(total_input):
    return jax.nn.softplus(total_input)


def _softplus_inverse(values):
    # log(exp(y) - 1), written so that neither large nor small y loses digits.
    return values + jnp.log(-jnp.expm1(-values))


def _arcsinh(total_input):
    return jnp.arcsinh(total_input)


def _arcsinh_inverse(values):
    # Beyond log(largest number), 88 in float32, sinh would be infinite.
    largest = math.log(float(jnp.finfo(values.dtype).max))
    return jnp.sinh(jnp.clip(values, -largest, largest))


def _arcsinh_derivative(total_input):
    return 1.0 / jnp.hypot(jnp.ones_like(total_input), total_input)


def _leaky(slope, values):
    return jnp.where(values > 0, values, slope * values)


def _leaky_derivative(slope, values):
    return jnp.where(values > 0, jnp.ones_like(values), jnp.full_like(values, slope))


def _leaky_inverse(slope, values):
    return jnp.where(values > 0, values, values / slope)


def _relu(total_input):
    return jax.nn.relu(total_input)


def _relu_derivative(total_input):
    return jnp.where(total_input > 0, jnp.ones_like(total_input), jnp.zeros_like(total_input))


def _gelu_derivative(total_input):
    # d/dx x Φ(x), with Φ the normal distribution: the exact GELU, not its tanh approximation.
    density = jnp.exp(-0.5 * jnp.square(total_input)) / math.sqrt(2.0 * math.pi)
    return jax.scipy.special.ndtr(total_input) + total_input * density


def _gelu(total_input):
    return jax.nn.gelu(total_input, approximate=False)


def _silu(total_input):
    return total_input * jax.nn.sigmoid(total_input)


def _silu_derivative(total_input):
    gate = jax.nn.sigmoid(total_input)
    return gate * (1.0 + total_input * jax.nn.sigmoid(-total_input))


_OF_VALUES: dict[tuple[Function, Function], Function] = {
    (_tanh, _tanh_derivative): _tanh_slope,
    (_sigmoid, _sigmoid_derivative): _sigmoid_slope,  # zero where the value rounds to one
    (_relu, _relu_derivative): _relu_derivative,
}

identity = Activation(_itself, _ones, _itself)
tanh = Activation(_tanh, _tanh_derivative, _tanh_inverse, (-1.0, 1.0))
sigmoid = Activation(_sigmoid, _sigmoid_derivative, _sigmoid_inverse, (0.0, 1.0))
softplus = Activation(_softplus, _sigmoid, _softplus_inverse, (0.0, math.inf))
arcsinh = Activation(_arcsinh, _arcsinh_derivative, _arcsinh_inverse)
relu = Activation(_relu, _relu_derivative, nonsmooth=True)
gelu = Activation(_gelu, _gelu_derivative)
silu = Activation(_silu, _silu_derivative)


def leaky_relu(slope: float = 0.1) -> Activation:
    """`f(H) = H` above zero and `slope · H` below: invertible, unlike `relu`.

    Raises:
        ValueError: the slope is not a positive finite number.
    """
    if not (0.0 < slope < math.inf):
        raise ValueError(
            f"leaky_relu: slope is {slope}, but must be positive and finite, or the function has "
            "no inverse; for slope 0 use jills.activations.relu"
        )
    slope = float(slope)
    return Activation(
        _WithSlope(_leaky, slope),
        _WithSlope(_leaky_derivative, slope),
        _WithSlope(_leaky_inverse, slope),
        nonsmooth=True,
    )
