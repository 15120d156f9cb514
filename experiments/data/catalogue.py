"""The data sets of the experiments by name; their loaders are in `series`, `tables`, `images` and `cifar`.

What is not part of an installed package is read from a folder that `experiments.data.fetch` fills.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.data.cifar import cifar_10
from experiments.data.images import digits, fashion_mnist, mnist_10k
from experiments.data.series import electricity, elnino, sunspots
from experiments.data.splits import Dataset
from experiments.data.tables import auto_mpg, boston, breast_cancer, concrete, diabetes, diamonds

DATASETS: dict[str, Callable[..., Dataset]] = {
    "sunspots": sunspots,
    "electricity": electricity,
    "elnino": elnino,
    "diabetes": diabetes,
    "boston": boston,
    "auto-mpg": auto_mpg,
    "concrete": concrete,
    "diamonds": diamonds,
    "breast-cancer": breast_cancer,
    "digits": digits,
    "mnist-10k": mnist_10k,
    "fashion-mnist": fashion_mnist,
    "cifar-10": cifar_10,
}
"""Name → loader(folder, **options)."""


def load(name: str, folder: str | Path, **options: Any) -> Dataset:
    """The data set called `name`.

    Args:
        name: a key of `DATASETS`.
        folder: where `experiments.data.fetch` put its files.
        options: the keyword arguments of that loader.

    Returns:
        The data set.

    Raises:
        MissingData: a file or a package is absent.
        ValueError: the name or an option is unknown, an option has a value that does not fit, or a file is damaged.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
    allowed = list(inspect.signature(DATASETS[name]).parameters)[1:]  # without the folder
    unknown = [option for option in options if option not in allowed]
    if unknown:
        choice = f"choose from {', '.join(allowed)}" if allowed else "it has none"
        raise ValueError(f"unknown option {', '.join(unknown)} of {name}: {choice}")
    return DATASETS[name](folder, **options)
