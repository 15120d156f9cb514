"""Training loops around an algorithm: one network (`run`), thousands (`sweep`), and what becomes of them.

`streams` trains on rows that do not fit into memory.

The modules of this package are private; what is public stands here and in `jills`.
"""

from jills.training import streams
from jills.training.checkpoint import load, save, write_whole
from jills.training.chunks import num_cores
from jills.training.diagnosis import Diagnosis, diagnose
from jills.training.models import Model, load_model, save_model
from jills.training.progress import progress_bar
from jills.training.result import SweepResult, Trained
from jills.training.run import run
from jills.training.sweep import grid, sweep

__all__ = [
    "Diagnosis",
    "Model",
    "SweepResult",
    "Trained",
    "diagnose",
    "grid",
    "load",
    "load_model",
    "num_cores",
    "progress_bar",
    "run",
    "save",
    "save_model",
    "streams",
    "sweep",
    "write_whole",
]
