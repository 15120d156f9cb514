"""How a block's damped model is solved: `linear_solver` of `build`, and its automatic choice by size."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.conjugate_gradients import ConjugateGradients
from jills.gauss_newton import iterative
from jills.gauss_newton.dense import MOST_ENTRIES, MOST_PER_ROW, Dense
from jills.gauss_newton.iterative import Preconditioners
from jills.gauss_newton.model import Model, Objective
from jills.gauss_newton.quasi_newton import QuasiNewton
from jills.linalg import Vector
from jills.linearization import Block
from jills.network import Network
from jills.solvers import Solver


@dataclass(frozen=True)
class Automatic:
    """Small blocks by a dense matrix, all layers of a larger network by quasi-Newton, others by conjugate gradients.

    Attributes:
        dense: of blocks with at most `limit` parameters, and at most 2²⁴ entries of their Jacobian, 2¹¹ a row.
        iterative: of larger blocks, by products: no matrix of `p × p` is formed.
        limit: the most parameters of a dense block; inf: every block is dense, however large.
        quasi_newton: of the last block on a full batch, where it is larger and holds all layers; None: conjugate
            gradients as for any other.

    Raises:
        ValueError: a negative limit.
    """

    dense: Dense = field(default_factory=Dense)
    iterative: ConjugateGradients = field(default_factory=ConjugateGradients)
    limit: float = 100
    quasi_newton: QuasiNewton | None = field(default_factory=QuasiNewton)

    def __post_init__(self):
        if not self.limit >= 0:
            raise ValueError(f"Automatic: limit is {self.limit}, but must be at least 0")

    def is_dense(self, objective: Objective, block: Block) -> bool:
        """Whether a block takes the dense matrix; what is exactly quadratic is solved by conjugate gradients."""
        if objective.is_quadratic(block):
            return False
        params = objective.num_params(block)
        per_row = objective.network.sizes[-1] * params
        small = per_row <= MOST_PER_ROW and objective.rows.inputs.shape[0] * per_row <= MOST_ENTRIES
        return params <= self.limit and (small or math.isinf(self.limit))

    def is_quasi_newton(self, network: Network, block: Block) -> bool:
        """Whether a block is lowered by quasi-Newton iterations: that of all layers, with hidden ones among them."""
        large = network.num_params > self.limit
        return self.quasi_newton is not None and block == (0, network.num_layers - 1) != (0, 0) and large

    def is_preconditioned(self, objective: Objective, block: Block) -> bool:
        """Whether a block is lowered by means of preconditioners, which steps or blocks may share."""
        return not self.is_dense(objective, block) and not objective.is_quadratic(block)


LinearSolver = Automatic | Dense | ConjugateGradients | Solver


def as_automatic(linear_solver: LinearSolver) -> Automatic:
    """One solver for all blocks but an exactly quadratic one, as limits of the automatic choice.

    Raises:
        ValueError: something else.
    """
    match linear_solver:
        case Automatic():
            return linear_solver
        case ConjugateGradients():
            return Automatic(iterative=linear_solver, limit=0, quasi_newton=None)
        case Dense():
            return Automatic(dense=linear_solver, limit=math.inf, quasi_newton=None)
        case Solver():
            return Automatic(dense=Dense(linear_solver), limit=math.inf, quasi_newton=None)
    raise ValueError(
        f"gauss_newton: linear_solver is {linear_solver!r}, but must be gauss_newton.Automatic(…), "
        "gauss_newton.Dense(), jills.ConjugateGradients(…) or one of jills.solvers"
    )


class Proposal(NamedTuple):
    """A block's proposed change."""

    change: Vector  # Δ, one matrix per layer of the block
    decrease: jax.Array  # () of the objective, as the undamped model predicts it
    products: jax.Array  # () int32, conjugate-gradient products


def propose(
    solver: Automatic,
    model: Model,
    damping: jax.Array,
    preconditioners: Preconditioners | None = None,
    guess: Vector | None = None,
) -> Proposal:
    """The change of a block for damping `λ`, `()`; where it is exactly quadratic, undamped whatever λ is.

    Args:
        solver: chooses by size.
        model: of the block.
        damping: `λ`.
        preconditioners: of the block's layers, for conjugate gradients; None: taken anew.
        guess: a change that conjugate gradients start from.
    """
    if solver.is_dense(model.objective, model.linear.block):
        change, decrease = solver.dense.solve(model, damping)
        products = jnp.zeros((), jnp.int32)
    else:
        change, decrease, products = iterative.solve(solver.iterative, model, damping, preconditioners, guess)
    return Proposal(model.linear.to_params(change), decrease, products)
