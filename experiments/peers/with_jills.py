"""What jills itself brings, behind the signature of its peers: on the same clock, in the same loop."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jills
from experiments.peers import epochs, stepped
from experiments.peers.base import FAST_TIER, Budget, Peer, Problem, Trace, is_least_squares
from experiments.peers.stepped import JillsMethod, in_dtype

MINIBATCH_ROWS, MINIBATCH_PRODUCTS = 2048, 3
ILLS_WORK = 2e10  # multiplications of a step's QR decompositions; some seconds


def run(problem: Problem, budget: Budget, build: Callable[[Problem], jills.Algorithm], tier: str = "full") -> Trace:
    """The trace of an algorithm with its default hyperparameters."""
    algorithm = build(problem)
    return stepped.run(JillsMethod(algorithm), in_dtype(algorithm.defaults, problem.params), problem, budget, tier)


def for_minibatches(network: jills.Network, loss: jills.Loss) -> jills.Algorithm:
    """Gauss–Newton for minibatches of `MINIBATCH_ROWS`, three products a step."""
    solver = jills.ConjugateGradients(max_steps=MINIBATCH_PRODUCTS)
    return jills.gauss_newton.build(network, loss=loss, linear_solver=solver, full_batch=False)


def minibatch_gauss_newton(problem: Problem, budget: Budget) -> Trace:
    """Gauss–Newton on minibatches of 2048 rows, three products a step. A step of the trace is an epoch."""
    method = JillsMethod(for_minibatches(problem.network, problem.loss))
    chosen = jills.gauss_newton.minibatch_hparams(problem.network, MINIBATCH_ROWS, problem.loss)
    hparams = in_dtype(chosen, problem.params)
    return epochs.run(method, hparams, problem, budget, MINIBATCH_ROWS)


def gauss_newton(problem: Problem) -> jills.Algorithm:
    """The layerwise Gauss–Newton algorithm as it comes."""
    return jills.gauss_newton.build(problem.network, loss=problem.loss)


def ills(problem: Problem) -> jills.Algorithm:
    """ILLS with the faster of its exact solvers."""
    return jills.ills.build(problem.network, problem.loss, jills.solvers.qr)


def suits_ills(problem: Problem) -> bool:
    """Least squares and a network that ILLS takes, whose deviation problems can be solved within seconds."""
    if not is_least_squares(problem):
        return False
    try:
        ills(problem)
    except ValueError:
        return False
    sizes, rows = problem.network.sizes, problem.batch.inputs.shape[0]
    layers = pairwise(sizes[:-1])
    return sum(rows * width * ((below + 1) * width) ** 2 for below, width in layers) <= ILLS_WORK


PEERS = (
    Peer("jills gauss_newton", partial(run, build=gauss_newton), needs="jills", package="jills"),
    Peer(
        f"jills gauss_newton{FAST_TIER}",
        partial(run, build=gauss_newton, tier="fast"),
        needs="jills",
        package="jills",
    ),
    Peer(
        "jills gauss_newton, minibatches",
        minibatch_gauss_newton,
        partial(epochs.fills_batches, batch_size=MINIBATCH_ROWS),
        "jills",
        "jills",
        "epoch",
    ),
    Peer("jills ills", partial(run, build=ills), suits_ills, "jills", "jills"),
)
