"""What all peers share: the problem, the budget, the trace, and a recorder for those that call back to Python."""

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jills
from experiments.measuring import clock
from jills.training import num_cores

TRIAL_SECONDS = 0.2  # of finding out how many threads are best; more where one call takes longer
FAST_TIER = ", fast tier"  # ends the name of a peer that is compiled in it, see `jills.compiler_options`
JACOBIAN_BYTES = 2e9  # a peer whose matrices would be larger is not run


class Problem(NamedTuple):
    """What to train, and where to start; the same for every peer."""

    network: jills.Network
    loss: jills.Loss
    params: jills.Params  # the start
    batch: jills.Batch  # all training rows, in the dtype of params
    seed: int = 0  # of what is random in a peer: the order of its minibatches

    @property
    def dtype(self) -> np.dtype:
        """Of parameters and data."""
        return np.dtype(self.params[0].weight.dtype)

    @property
    def num_residuals(self) -> int:
        """`n · k`."""
        return self.batch.targets.size


class Budget(NamedTuple):
    """When to stop, whichever comes first."""

    max_seconds: float = 10.0  # of run time, without compilation
    max_steps: int = 1_000_000  # in the peer's unit
    target_loss: float = -math.inf  # reached at or below it
    min_seconds: float = 0.0  # goes on until then where the target is reached earlier


class Trace(NamedTuple):
    """The true training loss over time: `seconds[t]` is when the parameters after t steps were at hand."""

    seconds: np.ndarray  # (T + 1,) run time without compilation; the first is 0
    losses: np.ndarray  # (T + 1,) by the problem's loss, the first that of the start
    compile_seconds: float  # tracing and compilation; 0 where nothing is compiled, or where it was before
    params: jills.Params  # those of the lowest loss
    note: str = ""  # why it ended, and what is special

    @property
    def lowest(self) -> float:
        """The lowest loss; a trace may end in NaN."""
        return float(np.fmin.reduce(self.losses))

    def seconds_to(self, target_loss: float) -> float:
        """When the loss first was at or below a target; inf if never."""
        reached = np.flatnonzero(self.losses <= target_loss)
        return float(self.seconds[reached[0]]) if len(reached) else math.inf


def always(problem: Problem) -> bool:
    """For peers that take any problem."""
    return True


@dataclass(frozen=True)
class Peer:
    """An optimizer that a user would pick instead.

    Attributes:
        name: for tables and figures.
        run: trains from the problem's start until the budget is spent.
        applies: whether it can work on a problem at all.
        needs: the module it imports.
        package: what to install for that.
        unit: what a step of its trace is.
        setting: of its hyperparameters, where they were tuned.
    """

    name: str
    run: Callable[[Problem, Budget], Trace]
    applies: Callable[[Problem], bool] = always
    needs: str = "optax"
    package: str = "optax"
    unit: str = "step"
    setting: str = ""

    def missing(self) -> str:
        """One line saying how to install what it needs; empty if it is there."""
        if importlib.util.find_spec(self.needs):
            return ""
        return f"{self.name} is skipped: there is no module {self.needs}; get it with: pip install {self.package}"


def is_least_squares(problem: Problem) -> bool:
    """Whether the loss is the mean square of all residuals."""
    return problem.loss == jills.losses.squared_error and problem.batch.weights is None


def has_small_jacobian(problem: Problem, itemsize: int | None = None) -> bool:
    """Least squares whose Jacobian, with one more row a parameter for the damping, fits in memory."""
    columns = problem.network.num_params
    entries = (problem.num_residuals + columns) * columns
    return is_least_squares(problem) and entries * (itemsize or problem.dtype.itemsize) <= JACOBIAN_BYTES


@partial(jax.jit, static_argnums=(0, 1))
def true_loss(network: jills.Network, loss: jills.Loss, params: jills.Params, batch: jills.Batch) -> jax.Array:
    """The loss that all traces are in, `()`."""
    return loss(network.predict(params, batch.inputs), batch.targets, batch.weights)


def start_loss(problem: Problem) -> float:
    """The loss of the start."""
    return float(true_loss(problem.network, problem.loss, problem.params, problem.batch))


def residuals(network: jills.Network, params: jills.Params, batch: jills.Batch) -> jax.Array:
    """`z − y`, `(n·k,)`; the squared error is the mean of their squares."""
    return (network.predict(params, batch.inputs) - batch.targets).ravel()


def jacobian(network: jills.Network, flat: jax.Array, template: jills.Params, batch: jills.Batch) -> jax.Array:
    """The derivative of `residuals` in the flat parameters, `(n·k, P)`.

    Row by row in reverse mode: a residual depends on one row only, which neither `jax.jacfwd` (a pass over all rows
    for each parameter) nor `jax.jacrev` (one for each residual) can know.
    """
    unravel = ravel_pytree(template)[1]

    def predict_row(flat, row):
        return network.predict(unravel(flat), row[None, :])[0]

    blocks = jax.vmap(jax.jacrev(predict_row), in_axes=(None, 0))(flat, batch.inputs)
    return blocks.reshape(batch.targets.size, flat.size)


class Enough(Exception):
    """Raised inside a peer's callback: the budget is spent or the target reached."""


class Recorder:
    """The trace of a peer that calls back to Python. Its own work does not count as the peer's time.

    Losses are best so far, since what a peer tries is not always what it accepts.
    """

    def __init__(self, problem: Problem, budget: Budget):
        self.budget, self.best, self.best_params = budget, start_loss(problem), problem.params
        self.seconds, self.losses = [0.0], [self.best]
        self._excluded, self._began = 0.0, time.perf_counter()

    def begin(self) -> None:
        """Starts the clock."""
        self._excluded, self._began = 0.0, time.perf_counter()

    def note(self, loss: float | Callable[[], float], params: Callable[[], jills.Params]) -> None:
        """One step is done.

        Args:
            loss: of the parameters at hand, or a function that computes it outside the clock.
            params: makes those parameters, called outside the clock and only if they are the best.

        Raises:
            Enough: the peer shall stop; the message says why.
        """
        entered = time.perf_counter()
        self.seconds.append(entered - self._began - self._excluded)
        value = loss() if callable(loss) else float(loss)
        if value < self.best:
            self.best, self.best_params = value, params()
        self.losses.append(self.best)
        reason = reason_to_stop(self.budget, self.best, self.seconds[-1], len(self.seconds) - 1)
        if reason:
            raise Enough(reason)
        self._excluded += time.perf_counter() - entered

    def until_enough(self, solve: Callable[[], object]) -> str:
        """Runs a solver on a started clock until it ends or is stopped, and says why it did."""
        self.begin()
        try:
            return f"stopped on its own: {solve()}"
        except Enough as reason:
            return str(reason)

    def trace(self, note: str, compile_seconds: float = 0.0) -> Trace:
        """What was recorded."""
        return Trace(np.array(self.seconds), np.array(self.losses), compile_seconds, self.best_params, note)


def reason_to_stop(budget: Budget, loss: float, seconds: float, steps: int) -> str:
    """Why a run ends now; empty while it goes on."""
    if loss <= budget.target_loss and seconds >= budget.min_seconds:
        return "target reached"
    if seconds >= budget.max_seconds:
        return "time spent"
    return "steps spent" if steps >= budget.max_steps else ""


def first_call_extra(call: Callable[[], object]) -> float:
    """Seconds that the first call takes longer than the second: tracing and compilation."""
    return max(0.0, clock(call)[0] - clock(call)[0])


def fastest_threads(call: Callable[[int], object]) -> int:
    """One thread, or all where that is clearly faster: on small matrices threads only wait for each other.

    Args:
        call: does some of the peer's work with a given number of threads.
    """

    def mean_seconds(threads):
        call(threads)  # warms
        seconds = []
        # The mean, since what other programs do to waiting threads is rare and long.
        while len(seconds) < 50 and sum(seconds) < TRIAL_SECONDS:
            seconds.append(clock(partial(call, threads))[0])
        return sum(seconds) / len(seconds)

    every = num_cores()
    return every if every > 1 and mean_seconds(every) < 0.8 * mean_seconds(1) else 1


def to_params(flat: np.ndarray, problem: Problem) -> jills.Params:
    """Parameters from a flat vector in the order of `ravel_pytree`."""
    return ravel_pytree(problem.params)[1](jnp.asarray(flat, problem.dtype))


def flatten(params: jills.Params) -> np.ndarray:
    """The flat vector of parameters, `(P,)`."""
    return np.asarray(ravel_pytree(params)[0])
