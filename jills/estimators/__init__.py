"""Estimators of scikit-learn on the engine: a table in, predictions with their uncertainty out.

    model = jills.estimators.NetworkRegressor(random_state=0).fit(X, y)
    mean, std = model.predict(X_new, return_std=True)
    low, high = model.predict_interval(X_new, coverage=0.9)

They ask for the extra `estimators`; `load`, and what it returns, only for jax. The modules of this package are private;
what is public stands here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jills.estimators import files, fitted, fitted_groups
from jills.estimators.fitted import Fitted
from jills.estimators.fitted_groups import FittedGroups

if TYPE_CHECKING:
    from jills.estimators.classification import NetworkClassifier
    from jills.estimators.grouped import GroupedRegressor
    from jills.estimators.regression import NetworkRegressor

HOMES = {"NetworkRegressor": "regression", "NetworkClassifier": "classification", "GroupedRegressor": "grouped"}


def __getattr__(name: str) -> Any:
    """Imports scikit-learn only where an estimator is asked for."""
    import importlib

    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sklearn":
            raise
        raise ImportError(
            "the estimators want scikit-learn; install it with: pip install 'jills[estimators]'"
        ) from error
    return found


def load(path: str | Path) -> Fitted | FittedGroups:
    """Reads what an estimator's `save` wrote: it predicts, and needs neither scikit-learn nor the estimator.

    Raises:
        ValueError: the file holds something else, or was written by a later version.
    """
    kind, described, tree = files.read(path)
    return (fitted_groups if kind == "groups" else fitted).read(described, tree)


def __dir__() -> list[str]:
    return __all__


__all__ = ["Fitted", "FittedGroups", "GroupedRegressor", "NetworkClassifier", "NetworkRegressor", "load"]
