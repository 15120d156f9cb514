"""The data every part of jills passes around: plain tuples of arrays, so that each is a pytree.

Notation, used in every docstring: `n` rows, layers `l = 1 … L` of widths `n_0 … n_L`, `h^0` the
inputs, `A^l = [h^(l-1), 1]`, total input `H^l = A^l θ^l`, activation `h^l = f_l(H^l)`.
Python indexes layers from zero: `params[l - 1]` and `activations[l - 1]` belong to layer `l`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jills.transformations import exported


@exported
class Layer(NamedTuple):
    """The parameters θ of one layer: `total_input = activations_below @ weight + bias`."""

    weight: jax.Array  # (fan_in, fan_out)
    bias: jax.Array  # (fan_out,)


Params = tuple[Layer, ...]
"""One `Layer` for each layer, the first hidden layer first."""

Activations = tuple[jax.Array, ...]
"""`h^1 … h^L`, each `(n, n_l)`; the last one is the prediction. `h^0` is the batch's inputs."""


@exported
class Batch(NamedTuple):
    """Rows to train on."""

    inputs: Any  # (n, d), an array of JAX or NumPy, as all three
    targets: Any  # (n, k)
    weights: Any = None  # (n,) not negative; a row of weight zero changes nothing; None: all alike


@exported
class State(NamedTuple):
    """One network in training. `activations` and `loss` belong to `params`, on the batch of the last step.

    (With `full_batch=False` to those before the last step, see `jills.Algorithm`.) Whoever replaces `params` by hand
    calls `algorithm.observe` afterwards.
    """

    params: Params
    activations: Activations  # h^1 … h^L, where the algorithm reads them (ILLS); else ()
    inner: Any  # what the algorithm keeps between steps (Optax's state, damping, …)
    step: jax.Array  # () int32, steps taken
    loss: jax.Array  # () the true forward loss of `params`
    best_params: Params  # the parameters of the lowest loss seen so far; of validation rows, where there are such
    best_loss: jax.Array  # () that loss; inf before the first finite one
    result: jax.Array  # () int32, a `jills.results.Code`: 0 while running
    fingerprint: jax.Array | np.uint32 = np.uint32(0)  # () of the batch that `loss` and `best_*` belong to; 0: of none
    saturated: jax.Array | np.float32 = np.float32(0)  # () share of the first layer's units that started saturated
    validation: jax.Array | np.uint32 = np.uint32(
        0
    )  # () fingerprint of the validation rows that chose `best_*`; 0: none
    since_best: jax.Array | np.int32 = np.int32(0)  # () int32, steps since these rows chose others


@exported
class Info(NamedTuple):
    """What one step tells. In a run each leaf leads with `[T]`, in a sweep with `[H, S, T]`."""

    loss: jax.Array  # () the true forward loss of the parameters the step received
    update_norm: jax.Array  # () Euclidean length of the change of all parameters
    finite: jax.Array  # () bool: the new parameters and their loss are finite
    detail: Any = ()  # a NamedTuple of the algorithm's own signs, see its module
    metrics: Any = ()  # what `metrics(params)` returned for the parameters received
    validation: Any = ()  # () the loss of the parameters received on validation rows, where there are such


Metrics = Callable[[Params], Any]
"""`metrics(params) → pytree of arrays`, pure: recorded at each step. (For a validation loss see `run`.)"""


class Member(NamedTuple):
    """One network of a sweep: where it starts, what it is trained on, what is recorded of it."""

    params: Params
    batch: Batch
    metrics: Metrics | None = None  # may close over what the key gave; None: those of the sweep
    validation: Batch | None = None  # rows that choose its best parameters; None: those of the sweep


Problem = Callable[[jax.Array], Member | tuple[Params, Batch] | tuple[Params, Batch, Metrics] | Params]
"""`problem(key) → Member(params, batch)`, pure: the start and the data of one member; a plain tuple will do.

Where a sweep is given `batches`, `problem(key) → params`, such as `network.init`.

Arrays that it closes over are compiled in, and read again at each call to see whether they are still the same. Where
they change between sweeps, or are large, pass them as arguments of a `jax.tree_util.Partial`: other data of the same
shape then compile nothing. One that is made anew with the same contents (a lambda, a partial, a method of an equal
object) compiles nothing either, see `jills.functions`.
"""
