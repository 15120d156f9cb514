"""From the words of an estimator's parameters to an algorithm of the engine with its hyperparameters."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jills import adam, evidence, gauss_newton, ills
from jills.algorithm import Algorithm
from jills.estimators.forward import activation_of
from jills.hparams import product
from jills.losses import Loss, squared_error
from jills.network import Network
from jills.transformations import exported, imported_optax

if TYPE_CHECKING:
    import optax

CANDIDATES = ((10,), (50,), (20, 20))  # of hidden="auto"
ALGORITHMS = ("auto", "evidence", "gauss_newton", "ills", "adam")
MOST_COLUMNS = 64  # with an α each; beyond, all parameters share one
STEPS = {"evidence": 30, "gauss_newton": 100, "ills": 100, "adam": 2000}
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
    hparams: Any  # scalars, or (H,) candidates; of several decays the next one stands next to it
    num_steps: int
    patience: int | None  # None: no validation rows

    @property
    def by_evidence(self) -> bool:
        """Whether predictions know their uncertainty from the posterior."""
        return self.name == "evidence"


def candidates_of(hidden: Any) -> tuple[tuple[int, ...], ...]:
    """The widths of the hidden layers, or several of them to choose among.

    Raises:
        ValueError: something else than positive integers, or lists of them.
    """
    if isinstance(hidden, str) and hidden == "auto":
        return CANDIDATES
    lists = [isinstance(each, list | tuple) for each in hidden] if isinstance(hidden, list | tuple) else []
    if hidden == [] or (any(lists) and not all(lists)):
        raise ValueError(
            f"hidden is {hidden!r}, but must be widths, such as (20, 20), (): none, or a list of several to choose "
            "among, such as [(50,), (20, 20)]"
        )
    return tuple(map(checked_sizes, hidden)) if any(lists) else (checked_sizes(hidden),)


def checked_sizes(hidden: Any) -> tuple[int, ...]:
    """The widths of the hidden layers.

    Raises:
        ValueError: something else than positive integers.
    """
    given = (hidden,) if isinstance(hidden, int | np.integer) else tuple(np.atleast_1d(np.asarray(hidden, object)))
    if not all(isinstance(size, int | np.integer) and size > 0 for size in given):
        raise ValueError(f"hidden is {hidden!r}, but must be positive integers, such as (50,) or (20, 20); (): none")
    return tuple(map(int, given))


def numbers_of(regularization: Any) -> tuple[float, ...] | None:
    """The weight decay, or several to choose among; None of a word.

    Raises:
        ValueError: neither a word that is known nor finite numbers of at least zero.
    """
    given = regularization.tolist() if isinstance(regularization, np.ndarray) else regularization
    each = given if isinstance(given, list | tuple) else [given]
    numbers = [one for one in each if isinstance(one, int | float | np.number) and not isinstance(one, bool)]
    if len(numbers) == len(each) > 0 and all(0 <= one < np.inf for one in numbers):
        return tuple(map(float, numbers))
    if given not in ("evidence", "validation"):
        raise ValueError(
            f"regularization is {regularization!r}, but must be 'evidence', 'validation', a number of at least zero, "
            "or a list of such numbers to choose among"
        )
    return None


def method_of(
    sizes: tuple[int, ...], activation: str, loss: Loss, algorithm: str, regularization: Any, max_steps: int | None
) -> Method:
    """What the parameters of an estimator mean.

    Raises:
        ValueError: parameters that are unknown, or do not go together.
    """
    network = Network(sizes, activation_of(activation))
    numbers = numbers_of(regularization)
    name = _checked(algorithm, regularization)
    if max_steps is not None and not (isinstance(max_steps, int | np.integer) and max_steps >= 1):
        raise ValueError(f"max_steps is {max_steps!r}, but must be an integer of at least 1, or None")
    num_steps = STEPS[name] if max_steps is None else int(max_steps)
    patience = None if name == "evidence" or numbers else PATIENCE[name]
    decays = list(numbers or [0.0])
    if name == "evidence":
        several = loss == squared_error and 1 < sizes[0] <= MOST_COLUMNS  # labels tell too little to choose columns by
        prior = evidence.by_input if several else evidence.one_group
        built: Algorithm = evidence.build(network, loss, prior)
        return Method(name, built, evidence.Hparams(), num_steps, patience)
    if name == "gauss_newton":
        built = gauss_newton.build(network, loss)
        return Method(name, built, product(gauss_newton.Hparams, weight_decay=decays), num_steps, patience)
    rates = list(RATES[name])
    if name == "ills":
        hparams = product(ills.Hparams, learning_rate=rates, ridge=decays)
        return Method(name, ills.build(network, loss), hparams, num_steps, patience)
    built = adam.build(network, loss, optimizer=adamw, defaults=AdamW())
    return Method(name, built, product(AdamW, learning_rate=rates, weight_decay=decays), num_steps, patience)


def _checked(algorithm, regularization):
    """The name of the algorithm."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}, but must be one of {', '.join(ALGORITHMS)}")
    if algorithm == "auto":
        algorithm = "evidence" if regularization == "evidence" else "gauss_newton"
    if algorithm == "evidence" and regularization != "evidence":
        raise ValueError(
            f"algorithm is 'evidence' and regularization {regularization!r}, but evidence regularises by itself; leave "
            "regularization out, or take another algorithm"
        )
    return algorithm
