"""jills: trains neural networks by linear least squares, thousands of them in one compiled call."""

import typing as _typing

from jills import activations, adam, evidence, gauss_newton, ills, losses, results, solvers, training
from jills.activations import Activation
from jills.algorithm import Algorithm
from jills.compilation import compiler_options, enable_compilation_cache
from jills.conjugate_gradients import ConjugateGradients
from jills.hparams import product
from jills.losses import Loss
from jills.network import Network
from jills.predictions import Ensemble, Prediction, calibration, ensemble, folds, out_of_fold
from jills.results import Stop
from jills.solvers import Solver
from jills.training import (
    Diagnosis,
    Model,
    SweepResult,
    Trained,
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


if _typing.TYPE_CHECKING:
    from jills import estimators, plots


def __getattr__(name: str):
    """`jills.estimators` and `jills.plots`: imported where they are asked for, since they want more packages."""
    import importlib

    if name in ("estimators", "plots"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Activation",
    "Activations",
    "Algorithm",
    "Batch",
    "ConjugateGradients",
    "Diagnosis",
    "Ensemble",
    "Info",
    "Layer",
    "Loss",
    "Member",
    "Model",
    "Network",
    "Params",
    "Prediction",
    "Solver",
    "State",
    "Stop",
    "SweepResult",
    "Trained",
    "activations",
    "adam",
    "calibration",
    "compiler_options",
    "diagnose",
    "enable_compilation_cache",
    "ensemble",
    "estimators",
    "evidence",
    "folds",
    "gauss_newton",
    "grid",
    "ills",
    "load",
    "load_model",
    "losses",
    "out_of_fold",
    "plots",
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
