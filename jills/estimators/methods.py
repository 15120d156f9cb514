"""From the words of an estimator's parameters to an algorithm of the engine with its hyperparameters."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jills import adam, evidence, gauss_newton, ills
from jills.algorithm import Algorithm
from jills.estimators.forward import activation_of
from jills.losses import Loss, squared_error
from jills.network import Network
from jills.transformations import exported, imported_optax

if TYPE_CHECKING:
    import optax

ALGORITHMS = ("auto", "evidence", "gauss_newton", "ills", "adam")
MOST_COLUMNS = 64  # with an α each; beyond, all parameters share one
STEPS = {"evidence": 40, "gauss_newton": 100, "ills": 100, "adam": 2000}
PATIENCE = {"gauss_newton": 20, "ills": 20, "adam": 200}
RATES = {"ills": (0.1, 0.3, 0.5), "adam": (1e-3, 3e-3, 1e-2)}


@exported
class AdamW(NamedTuple):
    """Adam with a decay that its rate scales (Loshchilov & Hutter 2019)."""

    learning_rate: Any = 1e-3
    weight_decay: Any = 0.0


def adamw(hparams: AdamW) -> "optax.GradientTransformation":
    """Of Optax."""
    return imported_optax().adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)


class Method(NamedTuple):
    """How an estimator trains."""

    name: str  # of the algorithm
    algorithm: Algorithm
    hparams: Any  # scalars, or (H,) candidates
    num_steps: int
    patience: int | None  # None: no validation rows

    @property
    def by_evidence(self) -> bool:
        """Whether predictions know their uncertainty from the posterior."""
        return self.name == "evidence"


def checked_sizes(hidden: Any) -> tuple[int, ...]:
    """The widths of the hidden layers.

    Raises:
        ValueError: something else than positive integers.
    """
    given = (hidden,) if isinstance(hidden, int | np.integer) else tuple(np.atleast_1d(np.asarray(hidden, object)))
    if not all(isinstance(size, int | np.integer) and size > 0 for size in given):
        raise ValueError(f"hidden is {hidden!r}, but must be positive integers, such as (50,) or (20, 20); (): none")
    return tuple(map(int, given))


def method_of(
    sizes: tuple[int, ...], activation: str, loss: Loss, algorithm: str, regularization: Any, max_steps: int | None
) -> Method:
    """What the parameters of an estimator mean.

    Raises:
        ValueError: parameters that are unknown, or do not go together.
    """
    network = Network(sizes, activation_of(activation))
    name, number = _checked(algorithm, regularization)
    if max_steps is not None and not (isinstance(max_steps, int | np.integer) and max_steps >= 1):
        raise ValueError(f"max_steps is {max_steps!r}, but must be an integer of at least 1, or None")
    num_steps = STEPS[name] if max_steps is None else int(max_steps)
    patience = None if name == "evidence" or number is not None else PATIENCE[name]
    decay = 0.0 if number is None else number
    if name == "evidence":
        several = loss == squared_error and 1 < sizes[0] <= MOST_COLUMNS  # labels tell too little to choose columns by
        prior = evidence.by_input if several else evidence.one_group
        built: Algorithm = evidence.build(network, loss, prior)
        return Method(name, built, evidence.Hparams(), num_steps, patience)
    if name == "gauss_newton":
        built = gauss_newton.build(network, loss)
        return Method(name, built, gauss_newton.Hparams(weight_decay=decay), num_steps, patience)
    rates = jnp.asarray(RATES[name])
    if name == "ills":
        return Method(name, ills.build(network, loss), ills.Hparams(rates, decay), num_steps, patience)
    built = adam.build(network, loss, optimizer=adamw, defaults=AdamW())
    return Method(name, built, AdamW(rates, decay), num_steps, patience)


def _checked(algorithm, regularization):
    """The name of the algorithm, and the number that was given as regularisation, or None."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}, but must be one of {', '.join(ALGORITHMS)}")
    number = None
    if isinstance(regularization, int | float | np.number) and not isinstance(regularization, bool):
        number = float(regularization)
    if not (number is not None and number >= 0) and regularization not in ("evidence", "validation"):
        raise ValueError(
            f"regularization is {regularization!r}, but must be 'evidence', 'validation' or a number of at least zero"
        )
    if algorithm == "auto":
        algorithm = "evidence" if regularization == "evidence" else "gauss_newton"
    if algorithm == "evidence" and regularization != "evidence":
        raise ValueError(
            f"algorithm is 'evidence' and regularization {regularization!r}, but evidence regularises by itself; leave "
            "regularization out, or take another algorithm"
        )
    return algorithm, number
