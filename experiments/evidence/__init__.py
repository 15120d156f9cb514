"""The evidence: one experiment a module, for every claim of the paper and every question it leaves open.

`python -m experiments.all` runs them; each has a config in configs/evidence/ and a section in experiments/README.md.
"""

from experiments.evidence import (
    activations,
    classification,
    cost,
    depth,
    generalisation,
    ground_truth,
    images,
    phase_map,
    series,
    stability,
    two_layer,
)
from experiments.evidence.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    two_layer.EXPERIMENT,
    stability.EXPERIMENT,
    ground_truth.EXPERIMENT,
    series.EXPERIMENT,
    depth.EXPERIMENT,
    activations.EXPERIMENT,
    classification.EXPERIMENT,
    images.EXPERIMENT,
    cost.EXPERIMENT,
    phase_map.EXPERIMENT,
    generalisation.EXPERIMENT,
)
"""In the order of the report."""
