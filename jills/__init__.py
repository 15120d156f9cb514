"""jills: trains neural networks by linear least squares, thousands of them in one compiled call."""

from jills import activations, adam, gauss_newton, ills, losses, results, solvers, training
from jills.activations import Activation
from jills.algorithm import Algorithm
from jills.conjugate_gradients import ConjugateGradients
from jills.hparams import product
from jills.losses import Loss
from jills.network import Network
from jills.results import Stop
from jills.solvers import Solver
from jills.training import (
    Diagnosis,
    Model,
    SweepResult,
    diagnose,
    grid,
    load,
    load_model,
    progress_bar,
    run,
    save,
    save_model,
    sweep,
)
from jills.types import Activations, Batch, Info, Layer, Member, Params, State

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Activations",
    "Algorithm",
    "Batch",
    "ConjugateGradients",
    "Diagnosis",
    "Info",
    "Layer",
    "Loss",
    "Member",
    "Model",
    "Network",
    "Params",
    "Solver",
    "State",
    "Stop",
    "SweepResult",
    "activations",
    "adam",
    "diagnose",
    "gauss_newton",
    "grid",
    "ills",
    "load",
    "load_model",
    "losses",
    "product",
    "progress_bar",
    "results",
    "run",
    "save",
    "save_model",
    "solvers",
    "sweep",
    "training",
]
