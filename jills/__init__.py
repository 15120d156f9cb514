"""jills: trains neural networks by linear least squares, thousands of them in one compiled call."""

from jills import activations, adam, gauss_newton, ills, losses, results, solvers
from jills.activations import Activation
from jills.algorithm import Algorithm
from jills.checkpoint import load, save
from jills.conjugate_gradients import ConjugateGradients
from jills.diagnosis import Diagnosis, diagnose
from jills.losses import Loss
from jills.network import Network
from jills.results import Stop
from jills.run import run
from jills.solvers import Solver
from jills.sweep import SweepResult, grid, progress_bar, sweep
from jills.types import Activations, Batch, Info, Layer, Params, State

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
    "losses",
    "progress_bar",
    "results",
    "run",
    "save",
    "solvers",
    "sweep",
]
