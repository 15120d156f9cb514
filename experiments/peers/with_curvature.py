"""Somax: stochastic Gauss–Newton for classes, by conjugate gradients on minibatches.

kfac-jax is left out: it does not run with jax 0.10.2. Version 0.0.8, its last one, installs and is imported, but its
first step ends in "ValueError: too many values to unpack (expected 2)": it wants a pair from
`Primitive.get_bind_params` (in `tag_graph_matcher.eval_jaxpr_eqn`), which now returns one dictionary.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jills
from experiments.peers import epochs
from experiments.peers.base import Budget, Peer, Problem, Trace
from experiments.peers.stepped import in_dtype, standard_jax


class Setting(NamedTuple):
    """The hyperparameters of Somax; all but the learning rate are static: another one is another program."""

    damping: float
    products: int  # of conjugate gradients in a step, at most
    learning_rate: float
    rows: int  # of a minibatch, at most half of all
    least_damping: float | None = None  # damping follows the gain and stays above it; None: it is constant


SETTINGS = {
    "constant damping, 512 rows": Setting(0.1, 5, 0.3, 512),
    "constant damping, 1024 rows": Setting(0.1, 5, 0.5, 1024),
    "trust region, 2048 rows": Setting(1.0, 10, 1.0, 2048, 0.01),
}
"""Those that went best of some on a start of their own, on digits and 10000 images of MNIST."""


class SomaxState(NamedTuple):
    """Parameters and the rest."""

    params: jills.Params
    inner: Any


@dataclass(frozen=True)
class StochasticGaussNewton:
    """`somax.sgn_ce` as an `stepped.Method`; `hparams` is its rate."""

    network: jills.Network
    setting: Setting

    def method(self, learning_rate: Any) -> Any:
        """Theirs, at a rate that may be traced."""
        somax: Any = importlib.import_module("somax")
        options = {"lam0": self.setting.damping, "maxiter": self.setting.products, "learning_rate": learning_rate}
        if self.setting.least_damping is not None:
            least = {"min_lam": self.setting.least_damping}
            options |= {"lam_policy": "trust_region", "lam_kwargs": least, "record_rho_every_k": 1}
        return somax.sgn_ce(predict_fn=self.network.predict, **options)

    def start(self, hparams, params, batch):
        """Their own start."""
        return SomaxState(params, in_dtype(self.method(hparams).init(params), params))

    def step(self, hparams, state, batch):
        """One linear system and a step along its solution. Nothing in it is random."""
        rows = {"x": batch.inputs, "y": jnp.argmax(batch.targets, axis=1)}
        with standard_jax():
            params, inner, _ = self.method(hparams).step(state.params, rows, state.inner, jax.random.key(0))
        return SomaxState(params, in_dtype(inner, params))


def batch_size(setting: Setting, problem: Problem) -> int:
    """Rows of a minibatch; an epoch has at least two."""
    return min(setting.rows, problem.batch.inputs.shape[0] // 2)


def run(problem: Problem, budget: Budget, setting: Setting) -> Trace:
    """The trace of one of the settings. A step of it is an epoch."""
    method, rate = StochasticGaussNewton(problem.network, setting), jnp.asarray(setting.learning_rate, problem.dtype)
    return epochs.run(method, rate, problem, budget, batch_size(setting, problem))


def has_classes(problem: Problem) -> bool:
    """One-hot rows without weights, in float32: their damping has no other dtype."""
    if problem.loss != jills.losses.softmax_cross_entropy or problem.batch.weights is not None:
        return False
    targets = np.asarray(problem.batch.targets)
    return problem.dtype == np.float32 and len(targets) > 1 and bool(np.all((targets == 0) | (targets == 1)))


PEERS = tuple(
    Peer(f"Somax, {name}", partial(run, setting=setting), has_classes, "somax", "python-somax", "epoch")
    for name, setting in SETTINGS.items()
)
