"""The data sets of the experiments: loaders, their names, and `python -m experiments.data.fetch` for optional ones."""

from experiments.data.catalogue import DATASETS, load
from experiments.data.splits import Dataset, MissingData, Split

__all__ = ["DATASETS", "Dataset", "MissingData", "Split", "load"]
