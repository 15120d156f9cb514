"""The members of a sweep as tables: a frame of pandas, a dataset of xarray; both are imported when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jills import results
from jills.training.diagnosis import diagnose
from jills.types import Info, State

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

AXES = ("hparam", "seed", "step")


def to_dataframe(state: State, info: Info, hparams: Any, curves: bool) -> "pd.DataFrame":
    """A tidy frame, see `SweepResult.to_dataframe`.

    Args:
        state: leaves `[H, S, …]`.
        info: leaves `[H, S, T, …]`.
        hparams: leaves `(H,)`; None: not known.
        curves: whether each step of a member has a row of its own.
    """
    pandas = _imported("pandas", "to_dataframe")
    every = records(info)
    if curves:
        shape, columns = np.shape(info.loss), {name: record for name, record in every.items() if record.ndim == 3}
    else:
        shape, columns = np.shape(state.loss), _members(state, info)
        if "validation" in every:
            columns["last_validation"] = every["validation"][..., -1]
    places = dict(zip(AXES, np.indices(shape), strict=False))
    chosen = {name: values[places["hparam"]] for name, values in settings(hparams, every).items()}
    ordered = {name: places.pop(name) for name in AXES[:2]} | chosen | places | columns
    return pandas.DataFrame({name: values.ravel() for name, values in ordered.items()})


def to_xarray(state: State, info: Info, hparams: Any, attributes: dict[str, Any]) -> "xr.Dataset":
    """A labelled dataset, see `SweepResult.to_xarray`.

    Args:
        state: leaves `[H, S, …]`.
        info: leaves `[H, S, T, …]`.
        hparams: leaves `(H,)`; None: not known.
        attributes: of the dataset.
    """
    xarray = _imported("xarray", "to_xarray")
    every = records(info)
    variables: dict[str, Any] = {name: (AXES[:2], values) for name, values in _members(state, info).items()}
    for name, record in every.items():
        variables[name] = (dimensions(name, record), record)
    coordinates: dict[str, Any] = {name: np.arange(size) for name, size in zip(AXES, info.loss.shape, strict=True)}
    coordinates |= {name: ("hparam", values) for name, values in settings(hparams, every).items()}
    return xarray.Dataset(variables, coordinates, attributes)


def _members(state, info):
    """What there is to tell of each member, `(H, S)`."""
    words = {int(code): code.name.lower().replace("_", " ") for code in results.Code}
    codes = np.asarray(state.result)
    return {
        "steps": np.asarray(state.step),
        "final_loss": np.asarray(state.loss),
        "best_loss": np.asarray(state.best_loss),
        "result": np.array([words[code] for code in codes.ravel()]).reshape(codes.shape),
        "diagnosis": diagnose(state, info).word,
    }


def dimensions(name: str, record: np.ndarray) -> tuple[str, ...]:
    """Names of the dimensions of a record, `(H, S, T, …)`."""
    return (*AXES, *(f"{name}_{axis}" for axis in range(record.ndim - 3)))


def records(info: Info) -> dict[str, np.ndarray]:
    """The numbers that were recorded, `(H, S, T, …)`, by names such as `loss` and `detail_damping`."""
    pairs = jax.tree_util.tree_flatten_with_path(info)[0]
    known = {jax.tree_util.keystr(place, simple=True, separator="_"): np.asarray(leaf) for place, leaf in pairs}
    return {
        # What NumPy does not know of itself, such as bfloat16, is nothing to pandas.
        name: leaf.astype(np.float32) if leaf.dtype.isbuiltin == 2 else leaf
        for name, leaf in known.items()
        if jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool
    }


def settings(hparams: Any, every: dict[str, Any]) -> dict[str, np.ndarray]:
    """Hyperparameters by their names, `(H,)`; `hparams_loss` where the name is that of another column."""
    taken = {*AXES, *every, "steps", "final_loss", "best_loss", "last_validation", "result", "diagnosis"}
    pairs = jax.tree_util.tree_flatten_with_path(hparams)[0]
    named = {jax.tree_util.keystr(place, simple=True, separator="_"): np.asarray(leaf) for place, leaf in pairs}
    return {f"hparams_{name}" if name in taken else name: values for name, values in named.items()}


def _imported(name, method) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{method} needs {name}: pip install {name} (or jills with its extra, experiments)"
        ) from error
