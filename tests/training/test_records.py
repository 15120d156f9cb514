"""Records on disk: the same numbers as in memory, whatever becomes of the process in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import xarray
from contract import CASES, problem
from training.test_checkpoints import KEYS, names, same, stop_at, sweep

import jills
from jills.training import keeping, records
from jills.training.records import Records

PIECE = 3  # steps, of the six members of `sweep`


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(records, "NUMBERS", 6 * PIECE)


def same_curves(path, result):
    """What xarray opens is what the result in memory would be as a dataset."""
    opened, whole = xarray.open_zarr(path), result.to_xarray()
    curves = [name for name, variable in whole.data_vars.items() if "step" in variable.dims]
    assert set(opened.data_vars) == set(curves)
    assert opened.attrs["num_steps"] == result.num_steps
    xarray.testing.assert_equal(opened.load(), whole[curves])
    assert set(opened.coords) == set(whole.coords)


@pytest.fixture(scope="module")
def whole():
    return sweep()


def test_the_same_as_in_memory(tmp_path, whole):
    path = tmp_path / "new" / "curves.zarr"
    done = sweep(records=path)
    same(done, whole)
    same_curves(path, whole)
    loss: Any = done.info.loss
    assert loss.chunks == (3, 2, PIECE)
    np.testing.assert_array_equal(done.member(2, 1).info.loss, whole.member(2, 1).info.loss)
    with pytest.raises(ValueError, match=r"read.?only"):
        loss[0, 0, 0] = 1.0


def test_all_that_can_be_recorded(tmp_path, monkeypatch):
    """Arrays for each step, integers, truth values, metrics and validation losses; several pieces at a time."""
    monkeypatch.setattr(records, "NUMBERS", 4 * PIECE)
    case = CASES["evidence"]
    told = lambda params: {"bias": params[0].bias, "half": jnp.sum(params[0].weight).astype("bfloat16")}  # noqa: E731
    options: Any = {"algorithm": case.algorithm, "hparams": case.grids[0], "chunk_steps": 5, "metrics": told}
    options |= {"validation": problem(KEYS[0])[1]}
    one, other = sweep(records=tmp_path / "curves", **options), sweep(**options)
    half = other.info.metrics["half"]
    assert half.dtype == "bfloat16"
    other.info.metrics["half"] = half.astype(np.float32)  # which NumPy does not have, nor Zarr
    same(one, other)
    same_curves(tmp_path / "curves", other)
    assert "metrics_bias_0" in xarray.open_zarr(tmp_path / "curves").dims


def test_what_is_made_of_a_result(tmp_path, whole):
    done = sweep(records=tmp_path / "curves")
    np.testing.assert_array_equal(jills.diagnose(done.state, done.info).why, jills.diagnose(*whole[:2]).why)
    pandas.testing.assert_frame_equal(done.to_dataframe(curves=True), whole.to_dataframe(curves=True))
    xarray.testing.assert_equal(done.to_xarray(), whole.to_xarray())
    jills.save(tmp_path / "result.npz", done)
    same(jills.load(tmp_path / "result.npz"), whole)
    same(sweep(state=done, num_steps=4), sweep(state=whole, num_steps=4))


@pytest.mark.parametrize("steps", [(1, 3), (4, 6), (7, 10)])
def test_a_sweep_goes_on_with_both(steps, tmp_path, whole):
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves"}
    for step in steps:
        part = sweep(on_chunk=stop_at(step), **options)
        assert part.interrupted
        assert part.info.loss.shape == (3, 2, part.num_steps)
        np.testing.assert_array_equal(part.info.loss, whole.info.loss[:, :, : part.num_steps])
        assert xarray.open_zarr(tmp_path / "curves").sizes["step"] == part.num_steps
    same(sweep(chunk_steps=5, **options), whole)
    same_curves(tmp_path / "curves", whole)
    told = []
    are_complete = lambda *_: told.append("num_steps" in xarray.open_zarr(tmp_path / "curves").attrs)  # noqa: E731
    same(sweep(num_steps=17, on_chunk=are_complete, **options), sweep(num_steps=17))
    assert not any(told)
    files = [name for name in names(tmp_path / "folder") if name.startswith("records")]
    assert files == ["records-12-15.npz", "records-15-17.npz"]


def test_the_older_of_two_checkpoints(tmp_path, whole):
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves"}
    sweep(on_chunk=stop_at(8), **options)
    (tmp_path / "folder" / "state-8.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match="this checkpoint is left out"):
        same(sweep(**options), whole)


def test_all_have_stopped(tmp_path):
    """The last column is repeated to the end, which more steps move."""
    stop = jills.Stop(update_norm=1e9)
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves", "stop": stop}
    for steps in (7, 23):
        same(sweep(num_steps=steps, **options), sweep(num_steps=steps, stop=stop))
    same_curves(tmp_path / "curves", sweep(num_steps=23, stop=stop))


def test_a_finished_sweep_is_only_read(tmp_path, whole, monkeypatch):
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves"}
    sweep(**options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "curves").rglob("*")}
    same(sweep(**options), whole)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "curves").rglob("*")} == before


def test_memory_holds_a_piece(tmp_path, monkeypatch):
    """And a chunk; not all steps."""
    held = []
    real = keeping.Keeper.__call__
    counted = lambda keeper, progress, last: held.append(progress) or real(keeper, progress, last)  # noqa: E731
    monkeypatch.setattr(keeping.Keeper, "__call__", counted)
    sweep(tmp_path / "folder", num_steps=31, records=tmp_path / "curves")
    steps = [sum(info.loss.shape[1] for info in progress.infos) for progress in held]
    assert max(steps) <= PIECE + 2
    assert [progress.done - progress.stored for progress in held] == steps


SCRIPT = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
from jills.training import checkpoints, records
from training.test_checkpoints import sweep

folder, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
records.NUMBERS = 18
real, calls = (records.Records._write, checkpoints.save), []

def killed(*given, **named):
    calls.append(given)
    if len(calls) < count:
        return real[moment == "state"](*given, **named)
    if moment == "half":
        store, start, info = given
        store._write_now(start, jax.tree.map(lambda leaf: leaf[:, :2] + 1, info))
    if moment == "after":
        real[0](*given)
    os.kill(os.getpid(), signal.SIGKILL)

records.Records._write_now = real[0]
if moment == "state":
    checkpoints.save = killed
else:
    records.Records._write = killed
sweep(folder + "/folder", records=folder + "/curves")
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, whole):
    """By SIGKILL, each time where the time before has left it: within a piece, or between it and its checkpoint."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    # The first piece; the second one; the state of a checkpoint; the rest in the end.
    moments = [("half", 1), ("after", 2), ("state", 4), ("half", 2)]
    for moment, count in moments:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), moment, str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert sum(name.startswith("state") for name in names(tmp_path / "folder")) == 2
    same(sweep(tmp_path / "folder", records=tmp_path / "curves"), whole)
    same_curves(tmp_path / "curves", whole)


def test_what_is_refused(tmp_path, monkeypatch):
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves"}
    sweep(records=tmp_path / "alone")
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "alone", tmp_path / "file", tmp_path):
        for folder in (None, tmp_path / "another"):
            with pytest.raises(ValueError, match="is there already, and not of this sweep; give another path"):
                sweep(folder, records=path)
    with pytest.raises(ValueError, match="records is 3, but must be the path of a folder"):
        sweep(records=3)
    sweep(on_chunk=stop_at(6), **options)
    with pytest.raises(ValueError, match="with records on disk then, in memory now"):
        sweep(options["folder"])
    with pytest.raises(ValueError, match=r"elsewhere is not there, but the first 3 steps are in the folder"):
        sweep(options["folder"], records=tmp_path / "elsewhere")
    sweep(tmp_path / "memory", on_chunk=stop_at(6))
    with pytest.raises(ValueError, match="with records in memory then, on disk now"):
        sweep(tmp_path / "memory", records=tmp_path / "curves")
    clash = lambda params: {"a": {"b": jnp.sum(params[0].bias)}, "a_b": jnp.sum(params[0].bias)}  # noqa: E731
    with pytest.raises(ValueError, match="two metrics have the same name"):
        sweep(records=tmp_path / "new", metrics=clash)
    monkeypatch.setattr(sys.modules["jills.training.processes"], "are_several", lambda: True)
    with pytest.raises(ValueError, match="records= is for one process, and no sweep that several have begun"):
        sweep(records=tmp_path / "newer")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"records= needs zarr: pip install zarr"):
        sweep(records=tmp_path / "newer")


def test_a_full_disk_ends_it_and_loses_nothing(tmp_path, whole, monkeypatch):
    options: Any = {"folder": tmp_path / "folder", "records": tmp_path / "curves"}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            sweep(**options)
    assert "state-4.npz" in names(tmp_path / "folder")
    same(sweep(**options), whole)
