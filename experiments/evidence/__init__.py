"""The evidence: one experiment a module, for every claim of the paper and every question it leaves open.

`python -m experiments.all` runs them; each has a config in configs/evidence/ and a section in experiments/README.md.
"""

from experiments.evidence import cost, depth, ground_truth, stability, two_layer
from experiments.evidence.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    two_layer.EXPERIMENT,
    stability.EXPERIMENT,
    ground_truth.EXPERIMENT,
    depth.EXPERIMENT,
    cost.EXPERIMENT,
)
"""In the order of the report."""
