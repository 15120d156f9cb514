"""What experiments leave on disk: labelled arrays, tidy tables, the resolved config, the machine."""

import json
import platform
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import tomli_w
import xarray as xr

import jills
from experiments.config import Config, Table
from jills.training import num_cores, write_whole


class Outcome(NamedTuple):
    """One algorithm of a comparison."""

    name: str
    hparams: dict[str, np.ndarray]  # name → (H,)
    result: jills.SweepResult
    final_metrics: dict[str, np.ndarray]  # of the last parameters, (H, S)
    predictions: np.ndarray | None  # (S, n_test, k), scaled, at the best setting by training loss


def new_folder(parent: str | Path, config_path: str | Path) -> Path:
    """Makes `parent/<config>-<date>-<time>[-k]`, a folder that was not there before."""
    stem = f"{Path(config_path).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        folder = Path(parent) / (stem + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent}: a thousand folders called {stem}")


def to_dataset(outcomes: list[Outcome], config: Config) -> xr.Dataset:
    """All runs as one xarray Dataset with dimensions algorithm, hparam, seed and step.

    `train_loss[…, t]` is the loss after t steps, t = 0 … T. Algorithms with fewer settings of hyperparameters, or
    stopped by Ctrl-C, are filled up with NaN.
    """
    parts = [_one(outcome) for outcome in outcomes]
    dataset = xr.concat(parts, dim="algorithm", join="outer", data_vars="all", coords="different", compat="equals")
    dataset.attrs.update(
        title=config.title,
        loss=f"{config.loss}, see jills.losses, of the scaled targets",
        seconds="wall time of the algorithm's sweep, without compilation, over its networks",
        **{f"version_{name}": text for name, text in environment()["versions"].items()},
        device=environment()["device"],
    )
    return dataset


def _one(outcome: Outcome) -> xr.Dataset:
    """One algorithm, dimensions hparam, seed and step."""
    result = outcome.result
    shape = (*result.state.loss.shape, result.num_steps)
    curve, each = ("hparam", "seed", "step"), ("hparam", "seed")
    diagnosis = jills.diagnose(result.state, result.info)
    variables = {
        "train_loss": (curve, _append(result.info.loss, result.state.loss)),
        "update_norm": (curve, _append(result.info.update_norm)),
        "finite": (curve, _append(result.info.finite.astype(float))),
        "final_loss": (each, np.asarray(result.state.loss)),
        "best_loss": (each, np.asarray(result.state.best_loss)),
        "result": (each, np.asarray(result.state.result).astype(float)),
        "status": (each, diagnosis.word.astype(object)),
        "why": (each, diagnosis.why.astype(object)),
        "seconds": (("step",), np.arange(result.num_steps + 1) * result.run_seconds / np.prod(shape)),
        "compile_seconds": ((), result.compile_seconds),
        "run_seconds": ((), result.run_seconds),
    }
    for name, values in outcome.final_metrics.items():
        variables[name] = (curve, _append(result.info.metrics[name], values))
    for name, values in result.info.detail._asdict().items():
        values = np.asarray(values)
        for place in np.ndindex(values.shape[len(curve) :]):  # of an array `alpha_0`, `alpha_1`, …
            variables["_".join([name, *map(str, place)])] = (curve, _append(values[(..., *place)]))
    for name, values in outcome.hparams.items():
        variables[f"hparam_{name}"] = (("hparam",), np.asarray(values, float))
    if outcome.predictions is not None:
        variables["predictions"] = (("seed", "row", "output"), outcome.predictions)
    coordinates = {
        "hparam": np.arange(shape[0]),
        "seed": np.arange(shape[1]),
        "step": np.arange(result.num_steps + 1),
    }
    return xr.Dataset(variables, coordinates).expand_dims(algorithm=[outcome.name])


def _append(curve, last=None):
    """A curve of T values with the last one, or NaN, behind it."""
    curve = np.asarray(curve, float)
    last = np.full(curve.shape[:2], np.nan) if last is None else np.asarray(last, float)
    return np.concatenate([curve, last[..., None]], axis=-1)


def summarize(outcomes: list[Outcome]) -> pd.DataFrame:
    """A tidy table: one row for each algorithm and setting, medians and quartiles over the seeds."""
    rows = []
    for outcome in outcomes:
        result, status = outcome.result, jills.diagnose(outcome.result.state, outcome.result.info).word
        for index in range(status.shape[0]):
            final = np.asarray(result.state.loss[index], float)
            row = {"algorithm": outcome.name}
            row |= {name: values[index] for name, values in outcome.hparams.items()}
            row |= _quartiles("final_loss", final) | _quartiles("best_loss", result.state.best_loss[index])
            for name, values in outcome.final_metrics.items():
                row |= _quartiles(f"final_{name}", values[index])
            row |= {each: float(np.mean(status[index] == each)) for each in STATUSES}
            row["steps"] = result.num_steps
            row["ms_per_member_step"] = 1e3 * result.run_seconds / (status.size * result.num_steps)
            row["compile_seconds"] = result.compile_seconds
            rows.append(row)
    return pd.DataFrame(rows)


STATUSES = ("converged", "improving", "overfitted", "stalled", "ill-conditioned", "diverged")


def _quartiles(name, values):
    low, middle, high = quartiles(values)
    return {f"{name}_q25": low, f"{name}_median": middle, f"{name}_q75": high}


def quartiles(values) -> np.ndarray:
    """Quartiles over the first axis, `(3, …)`; what diverged ranks last."""
    values = diverged_last(values)
    # Between a number and infinity there is nothing to interpolate.
    method = "linear" if np.isfinite(values).all() else "nearest"
    return np.percentile(values, [25, 50, 75], axis=0, method=method)


def diverged_last(values) -> np.ndarray:
    """The values in float64, with infinity in place of NaN and -inf: what diverged ranks last."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values), values, np.inf)


def environment() -> dict:
    """Versions and device: what a reader needs to judge the seconds."""
    packages = ("jills", "jax", "jaxlib", "optax", "numpy", "scipy")
    device = jax.local_devices()[0]
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "device": f"{jax.local_device_count()} x {device.platform} ({device.device_kind}), {num_cores()} cores",
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_environment(folder: Path) -> None:
    """Versions and device, beside results."""
    (folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, config: Table) -> None:
    """The resolved config, which can be run again, and beside it versions and device."""
    (folder / "config.toml").write_text(tomli_w.dumps(config.model_dump(exclude_none=True)), encoding="utf-8")
    write_environment(folder)


def write_results(folder: Path, dataset: xr.Dataset, summary: pd.DataFrame) -> None:
    """`results.nc` (open with `xarray.open_dataset`) and `summary.csv`."""
    summary.to_csv(folder / "summary.csv", index=False)
    write_whole(folder / "results.nc", partial(dataset.to_netcdf, engine="h5netcdf"))


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"))


def as_markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in [table.columns, *table.to_numpy().tolist()]]
    return "\n".join([lines[0], "|" + " --- |" * len(table.columns), *lines[1:]])
