"""Adam, the baseline, and any other Optax optimizer behind the same step.

    g ← ∂ loss / ∂ params;   change, inner ← optax.adam(learning_rate, b1, b2, eps)(g, inner)
    params ← params + change

(Kingma & Ba, arXiv 1412.6980, as in Optax.) The optimizer is built from `hparams` inside the trace,
so its rate stays a number that can differ between the members of a sweep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jills import losses
from jills.algorithm import Algorithm
from jills.hparams import Limit, in_dtype
from jills.network import Network
from jills.transformations import exported, imported_optax
from jills.types import Batch, Params, State

if TYPE_CHECKING:
    import optax


@exported
class Hparams(NamedTuple):
    """The hyperparameters of Adam; scalars, or `(H,)` in a sweep."""

    learning_rate: float | jax.Array = 1e-2  # positive
    b1: float | jax.Array = 0.9  # in [0, 1)
    b2: float | jax.Array = 0.999  # in [0, 1)
    eps: float | jax.Array = 1e-8  # not negative

    limits = {
        "learning_rate": Limit(0.0, math.inf, open_low=True),
        "b1": Limit(0.0, 1.0, open_high=True),
        "b2": Limit(0.0, 1.0, open_high=True),
        "eps": Limit(0.0, math.inf),
    }


@exported
class Detail(NamedTuple):
    """The signs of health of a gradient step; its defaults stand for a member that has stopped."""

    gradient_norm: float | jax.Array = math.nan  # () Euclidean, at the parameters received


@exported
class Inner(NamedTuple):
    """Optax's state, and the gradient at the state's parameters (so that no pass is done twice)."""

    optimizer: Any
    gradient: Params


def adam(hparams: Hparams) -> "optax.GradientTransformation":
    """`optax.adam` with these hyperparameters."""
    return imported_optax().adam(hparams.learning_rate, b1=hparams.b1, b2=hparams.b2, eps=hparams.eps)


@dataclass(frozen=True, kw_only=True)
class OptaxAlgorithm(Algorithm):
    """The algorithm; make it with `build`."""

    optimizer: "Callable[[Any], optax.GradientTransformation]" = adam
    defaults: Any = Hparams()

    blank_detail: ClassVar = Detail()

    def start(self, params: Params) -> Inner:
        """Optax's initial state, and a gradient that `evaluate` will replace."""
        state = self._optimizer(self.defaults).init(params)
        return Inner(in_dtype(state, params[0].weight.dtype), jax.tree.map(jnp.zeros_like, params))

    def evaluate(self, state: State, batch: Batch) -> State:
        """Loss and gradient in one forward and backward pass."""
        loss, gradient = jax.value_and_grad(self.loss_of)(state.params, batch)
        return state._replace(loss=loss, inner=state.inner._replace(gradient=gradient))

    def update(self, hparams: Any, state: State, batch: Batch) -> tuple[State, Detail]:
        """One step of the optimizer along the gradient kept in the state."""
        optimizer_state, gradient = state.inner
        # Line searches (optax.lbfgs) ask for the loss as a function; others ignore the extra arguments.
        # Optax multiplies integer counts with rates, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            change, optimizer_state = self._optimizer(hparams).update(
                gradient,
                optimizer_state,
                state.params,
                value=state.loss,
                grad=gradient,
                value_fn=lambda params: self.loss_of(params, batch),
            )
        params = jax.tree.map(jnp.add, state.params, change)
        inner = Inner(in_dtype(optimizer_state, state.loss.dtype), gradient)
        return state._replace(params=params, inner=inner), Detail(imported_optax().tree.norm(gradient))

    def _optimizer(self, hparams):
        return imported_optax().with_extra_args_support(self.optimizer(hparams))


def build(
    network: Network,
    loss: losses.Loss = losses.squared_error,
    optimizer: "Callable[[Any], optax.GradientTransformation]" = adam,
    defaults: Any = Hparams(),
    *,
    full_batch: bool = True,
) -> OptaxAlgorithm:
    """Adam for a network, or another Optax optimizer.

    Args:
        network: any.
        loss: any.
        optimizer: `hparams → optax.GradientTransformation`. Two builds with functions of equal contents share what
            `run` and `sweep` compile; one at module level can also be pickled.
        defaults: the hparams of that optimizer, a NamedTuple of numbers; says which there are. Its class may have
            `limits`, field → `jills.hparams.Limit`.
        full_batch: False where steps receive different batches.

    Any optimizer, for example::

        class Rate(NamedTuple):
            learning_rate: float = 0.1

        def sgd(hparams):
            return optax.sgd(hparams.learning_rate)

        algorithm = jills.adam.build(network, optimizer=sgd, defaults=Rate())
    """
    return OptaxAlgorithm(
        network=network, loss=loss, optimizer=optimizer, defaults=defaults, full_batch=bool(full_batch)
    )
