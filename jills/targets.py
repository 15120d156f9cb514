"""Where ILLS aims: `t^L`, the total input that its output layer is solved for.

The paper's is `f_L⁻¹(y)`. The cross-entropies have none, since probabilities 0 and 1 lie at infinity;
so there are three finite ways for them, all chosen here, none from the paper. Their `t^L` are logits,
hence the output activation is the identity.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jills.activations import Activation, identity
from jills.losses import Loss


class Target(ABC):
    """A way from targets `y` to `t^L`. A frozen value; derive from it for a way of your own."""

    @abstractmethod
    def check(self, loss: Loss, output: Activation) -> None:
        """Raises ValueError where the loss or the output activation does not fit."""

    @abstractmethod
    def __call__(
        self, loss: Loss, output: Activation, margin: float | None, targets: jax.Array, predictions: jax.Array
    ) -> jax.Array:
        """`t^L`, `(n, k)`.

        Args:
            loss: to lower.
            output: `f_L`.
            margin: of projections into the range of `f_L`; None: `activations.default_margin`.
            targets: `y`, `(n, k)`.
            predictions: `(n, k)`, of the parameters that the step received.
        """


@dataclass(frozen=True)
class Ideal(Target):
    """`t^L = f_L⁻¹(y)`, or what else the loss says is its `ideal_input`: the paper's."""

    def check(self, loss: Loss, output: Activation) -> None:
        """See `Target`."""
        if loss.ideal_input is None:
            raise ValueError(
                "ills: this loss has no ideal total input; use jills.losses.squared_error, or give target= "
                "jills.ills.working_response, softened() or scaled(), which suit the cross-entropies"
            )
        if output.inverse is None:
            raise ValueError(
                "ills: the output activation has no inverse, so targets have no ideal total input; give "
                "the network output=jills.activations.identity or another invertible one"
            )

    def __call__(self, loss, output, margin, targets, predictions) -> jax.Array:
        """See `Target`."""
        assert loss.ideal_input is not None  # checked at build
        return loss.ideal_input(targets, output, margin)


@dataclass(frozen=True)
class WorkingResponse(Target):
    """`t^L = z - g / β`: `z + 2 (y - p)` for the softmax, `z + 4 (y - p)` for sigmoids.

    With `β` the loss's `bound`, `g (t) + ½ β ‖t - z‖²` lies nowhere below the loss, touches it at the
    current prediction `z`, and is least at `t^L`. All rows share `β`, so the plain solve of the output
    layer for `t^L` minimises the sum of these bounds over θ: at ridge 0 it never raises the loss
    (Böhning & Lindsay, Ann. Inst. Statist. Math. 40, 1988). The shifts below give no such promise.
    For squared error `t^L = y`.
    """

    def check(self, loss: Loss, output: Activation) -> None:
        """See `Target`."""
        if loss.bound is None:
            raise ValueError(
                "ills: the working response needs a bound on the curvature, and this loss has none; "
                "give the Loss its bound, or another target, such as jills.ills.ideal"
            )
        _check_identity("the working response is a total input", output)

    def __call__(self, loss, output, margin, targets, predictions) -> jax.Array:
        """See `Target`."""
        assert loss.bound is not None  # checked at build
        return predictions - loss.gradient(predictions, targets) / loss.bound(predictions.shape[1])


@dataclass(frozen=True)
class Softened(Target):
    """`t^L = logits((1 - ε) y + ε u)`, with `u` the probabilities of knowing nothing; make it with `softened`."""

    epsilon: float

    def check(self, loss: Loss, output: Activation) -> None:
        """See `Target`."""
        if loss.probabilities is None or loss.logits is None:
            raise ValueError(_NO_PROBABILITIES.format("softened targets need"))
        _check_identity("softened targets are logits", output)

    def __call__(self, loss, output, margin, targets, predictions) -> jax.Array:
        """See `Target`."""
        assert loss.probabilities is not None  # checked at build
        assert loss.logits is not None
        uniform = loss.probabilities(jnp.zeros_like(targets))
        return loss.logits((1.0 - self.epsilon) * targets + self.epsilon * uniform)


@dataclass(frozen=True)
class Scaled(Target):
    """`t^L = c (2 y - 1)`: logit `c` where the target is 1 and `-c` where it is 0; make it with `scaled`."""

    logit: float

    def check(self, loss: Loss, output: Activation) -> None:
        """See `Target`."""
        if loss.probabilities is None:
            raise ValueError(_NO_PROBABILITIES.format("scaled logits need"))
        _check_identity("scaled targets are logits", output)

    def __call__(self, loss, output, margin, targets, predictions) -> jax.Array:
        """See `Target`."""
        return self.logit * (2.0 * targets - 1.0)


_NO_PROBABILITIES = (
    "ills: {} a loss whose targets are probabilities, such as jills.losses.softmax_cross_entropy or "
    "sigmoid_cross_entropy; for another loss give target=jills.ills.ideal or working_response"
)


def _check_identity(what, output):
    if output != identity:
        raise ValueError(
            f"ills: {what}, so the output activation must be jills.activations.identity; "
            "take jax.nn.softmax or jax.nn.sigmoid of the prediction afterwards where you want probabilities"
        )


ideal = Ideal()
working_response = WorkingResponse()


def softened(epsilon: float = 0.1) -> Softened:
    """Targets mixed with the uniform distribution, so that their logits are finite: label smoothing.

    `log` of `(1 - ε) y + ε / k`, centred in each row, for the softmax; `logit` of `(1 - ε) y + ε / 2`
    for sigmoids. A smaller ε asks for larger logits.

    Raises:
        ValueError: ε does not lie in (0, 1).
    """
    if not 0.0 < epsilon < 1.0:
        raise ValueError(
            f"softened: epsilon is {epsilon}, but must lie in (0, 1): at 0 the logits are infinite, at 1 nothing "
            "of the targets is left"
        )
    return Softened(float(epsilon))


def scaled(logit: float = 3.0) -> Scaled:
    """Targets 0 and 1 as logits `-c` and `c`, those between in proportion.

    Raises:
        ValueError: the logit is not a positive finite number.
    """
    if not 0.0 < logit < math.inf:
        raise ValueError(f"scaled: logit is {logit}, but must be positive and finite")
    return Scaled(float(logit))


def default_target(loss: Loss) -> Target:
    """The working response where the loss has a bound and is not quadratic itself, else the ideal total input."""
    return ideal if loss.quadratic or loss.bound is None else working_response


__all__ = [
    "Ideal",
    "Scaled",
    "Softened",
    "Target",
    "WorkingResponse",
    "default_target",
    "ideal",
    "scaled",
    "softened",
    "working_response",
]
