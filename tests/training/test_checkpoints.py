"""A sweep that writes checkpoints ends with the same bits, whatever becomes of the process in between."""

import errno
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, problem

import jills
from jills import compilation
from jills.training import checkpoints, chunks
from jills.training.run import blank_detail

ADAM = CASES["adam"].algorithm
RATES = jills.adam.Hparams(jnp.array([0.01, 0.1, 0.3]))
KEYS = jax.random.split(jax.random.key(7), 2)
STEPS, CHUNK = 11, 2


def sweep(folder: Any = None, num_steps=STEPS, algorithm: Any = ADAM, hparams: Any = RATES, given=problem, **options):
    """With a checkpoint after each chunk, unless told otherwise."""
    options = {"checkpoint_seconds": 0, "keys": KEYS, "chunk_steps": CHUNK} | options
    return jills.sweep(algorithm, hparams, given, num_steps=num_steps, checkpoint=folder, **options)


def stop_at(step, error: type[BaseException] = KeyboardInterrupt):
    def on_chunk(done, loss, stopped):
        if done >= step:
            raise error

    return on_chunk


def same(one, other):
    """Results of the same bits."""
    assert one.num_steps == other.num_steps
    pairs = (jax.tree_util.tree_leaves_with_path((each.state, each.info)) for each in (one, other))
    for (place, left), (_, right) in zip(*pairs, strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), place
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes(), place


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.fixture(scope="module")
def whole():
    return sweep()


@pytest.fixture
def untrained(monkeypatch):
    """To be called where from then on a sweep that compiles its steps fails."""

    def trace(*_):
        raise AssertionError("it trains")

    return lambda: monkeypatch.setattr(chunks, "trace_chunk", trace)


@pytest.mark.parametrize("name", ["adam", "gauss_newton", "ills", "evidence"])
def test_resumed_is_uninterrupted(name, tmp_path):
    options: Any = {"algorithm": CASES[name].algorithm, "hparams": CASES[name].grids[0]}
    for step in (2, 6):
        part = sweep(tmp_path, on_chunk=stop_at(step), **options)
        assert part.interrupted
        assert part.num_steps == step
        assert part.info.loss.shape == (2, 2, step)
    done = sweep(tmp_path, **options)
    assert not done.interrupted
    same(done, sweep(**options))
    assert done.run_seconds > part.run_seconds


def test_members_on_more_cores_go_on(tmp_path, whole, monkeypatch):
    """Checkpoints have the members in their order, however they were laid out."""
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "num_cores", lambda: 4)  # of 6 members, two of which are trained twice
        sweep(tmp_path, on_chunk=stop_at(4))
    done = sweep(tmp_path)
    np.testing.assert_allclose(done.info.loss, whole.info.loss, rtol=1e-9)
    same(sweep(tmp_path, batch_size=2), done)


def test_what_the_folder_holds(tmp_path, whole, caplog):
    folder = tmp_path / "a" / "new one"
    with caplog.at_level(logging.INFO, "jills"):
        sweep(str(folder))
    states = ["state-10.npz", "state-11.npz"]
    records = [f"records-{first}-{min(first + 2, 11)}.npz" for first in range(0, 11, 2)]
    assert names(folder) == sorted(["sweep.npz", *records, *states])
    assert len(caplog.messages) == 6
    assert re.fullmatch(r"checkpoint of step 11 in .*new one: 0.0 MB in \d+\.\d+ s", caplog.messages[-1])
    with np.load(folder / records[1], allow_pickle=False) as file:
        np.testing.assert_array_equal(file[".loss"], whole.info.loss.reshape(6, 11)[:, 2:4])
    with np.load(folder / states[1], allow_pickle=False) as file:
        np.testing.assert_array_equal(file["['state'].loss"], whole.state.loss.ravel())


def test_only_the_last_checkpoint_before_the_interval_is_over(tmp_path):
    sweep(tmp_path, checkpoint_seconds=1000)
    assert names(tmp_path) == ["records-0-11.npz", "state-11.npz", "sweep.npz"]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, whole, monkeypatch):
    """The first one is written only once the last step is taken; what falls due meanwhile waits for it."""
    real, trained = np.savez, threading.Event()

    def slow(file, **entries):
        assert file.name.endswith("sweep.npz") or trained.wait(30)
        real(file, **entries)

    monkeypatch.setattr(np, "savez", slow)
    done = sweep(tmp_path, on_chunk=lambda step, *_: step == STEPS and trained.set(), checkpoint_seconds=1e-9)
    same(done, whole)
    assert names(tmp_path) == ["records-0-2.npz", "records-2-11.npz", "state-11.npz", "state-2.npz", "sweep.npz"]


def test_a_finished_sweep_returns_at_once_and_goes_on_to_more_steps(tmp_path, whole, untrained):
    sweep(tmp_path, 7)
    with pytest.raises(ValueError, match="are of 7 steps, but num_steps is 5; give at least as many, or another"):
        sweep(tmp_path, 5)
    same(sweep(tmp_path), whole)
    untrained()
    again = sweep(tmp_path)
    same(again, whole)
    assert again.compile_seconds == 0
    assert not again.interrupted
    with pytest.raises(AssertionError, match="it trains"):
        sweep(tmp_path, 12)


def test_a_sweep_of_which_all_have_stopped_is_finished(tmp_path, untrained):
    stop = jills.Stop(update_norm=1e9)
    sweep(tmp_path, 7, stop=stop)
    assert "state-4.npz" in names(tmp_path)
    longer = sweep(num_steps=9, stop=stop)
    untrained()
    same(sweep(tmp_path, 9, stop=stop), longer)


def test_errors_of_on_chunk_and_of_the_program_lose_nothing(tmp_path, whole, monkeypatch):
    """Between two checkpoints, too."""
    options = {"checkpoint_seconds": 1000}
    with pytest.warns(UserWarning, match="on_chunk raised"):
        sweep(tmp_path, on_chunk=stop_at(2, RuntimeError), **options)
    assert "state-2.npz" in names(tmp_path)
    with pytest.raises(SystemExit):
        sweep(tmp_path, on_chunk=stop_at(6, SystemExit), **options)
    assert "state-6.npz" in names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "threadpool_limits", failing_after(1))
        with pytest.raises(RuntimeError, match="out of memory"):
            sweep(tmp_path, **options)
    assert "state-8.npz" in names(tmp_path)
    same(sweep(tmp_path, **options), whole)


def failing_after(count, error: Exception = RuntimeError("out of memory")):
    """In place of what is called once in each chunk."""
    real, calls = chunks.threadpool_limits, []

    def call(*given):
        calls.append(given)
        if len(calls) > count:
            raise error
        return real(*given)

    return call


def test_ctrl_c_before_the_first_chunk(tmp_path, whole, monkeypatch):
    """In a folder with checkpoints there is something to return, else there is not."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(chunks, "threadpool_limits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path)
    assert names(tmp_path) == ["sweep.npz"]
    monkeypatch.undo()
    part = sweep(tmp_path, on_chunk=stop_at(4))
    monkeypatch.setattr(chunks, "threadpool_limits", interrupted)
    again = sweep(tmp_path)
    assert again.interrupted
    same(again, part)
    monkeypatch.undo()
    same(sweep(tmp_path), whole)


SCRIPT = """
import io, os, pathlib, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np

folder, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
savez, replace = np.savez, pathlib.Path.replace

def half(file, **entries):
    savez(whole := io.BytesIO(), **entries)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()

def killed(real, last):
    calls = []
    def call(*given, **named):
        calls.append(given)
        if len(calls) == count:
            last(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    return call

if moment == "write":
    np.savez = killed(savez, half)
elif moment == "before":
    pathlib.Path.replace = killed(replace, lambda *_: None)
else:
    pathlib.Path.replace = killed(replace, replace)
from training.test_checkpoints import sweep
sweep(folder)
"""


def test_killed_at_any_moment(tmp_path, whole):
    """By SIGKILL, each time where the time before has left it: half of a file is written, or not renamed yet."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    moments = [
        ("write", 1, []),  # of `sweep.npz`
        ("write", 3, ["records-0-2.npz", "sweep.npz"]),  # the first state
        ("after", 4, ["records-0-2.npz", "records-2-4.npz", "state-2.npz", "sweep.npz"]),  # the second records
        ("before", 3, None),  # the second state
    ]
    for moment, count, left in moments:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), moment, str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        there = [name for name in names(tmp_path) if not name.startswith(".")]
        assert left is None or there == left
        unfinished = [name for name in names(tmp_path) if name.startswith(".")]
        assert len(unfinished) == (moment != "after")
    assert "state-4.npz" not in names(tmp_path)
    same(sweep(tmp_path), whole)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def broken(folder, name, content=None):
    """A file cut short, or with another content."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)


@pytest.mark.parametrize("name", ["state-6.npz", "records-4-6.npz"])
def test_the_older_of_two_where_the_newer_is_not_whole(name, tmp_path, whole):
    sweep(tmp_path, on_chunk=stop_at(6))
    broken(tmp_path, name)
    with pytest.warns(UserWarning, match=f"{name} is no whole file .*; this checkpoint is left out") as warned:
        done = sweep(tmp_path)
    assert [warning.filename for warning in warned] == [__file__]
    same(done, whole)
    same(sweep(tmp_path), whole)


def test_foreign_files(tmp_path, whole):
    """Of another kind, of another sweep, or nothing at all: told by name, and never trained from."""
    sweep(tmp_path, on_chunk=stop_at(6))
    kept = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    np.savez(text := io.BytesIO(), loss=np.zeros(3))
    for content in (b"", b"text", text.getvalue(), kept["records-0-2.npz"], kept["state-4.npz"], kept["sweep.npz"]):
        broken(tmp_path, "state-6.npz", content)
        with pytest.warns(UserWarning, match=r"state-6.npz .*; this checkpoint is left out"):
            part = sweep(tmp_path, on_chunk=stop_at(6))
        assert part.num_steps == 6
        np.testing.assert_array_equal(part.info.loss, whole.info.loss[:, :, :6])
    broken(tmp_path, "state-4.npz", b"")
    broken(tmp_path, "state-6.npz", b"")
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(ValueError, match=f"no checkpoint in {tmp_path} can be read"),
    ):
        sweep(tmp_path)
    for content, message in ((b"", "no whole file"), (kept["state-4.npz"], "does not tell of what sweep")):
        broken(tmp_path, "sweep.npz", content)
        with pytest.raises(ValueError, match=f"sweep.npz .*{message}"):
            sweep(tmp_path)
    (tmp_path / "sweep.npz").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints, but no sweep\.npz"):
        sweep(tmp_path)


def test_random_damage_never_trains_from_other_numbers(tmp_path, whole):
    """Bytes changed and cut anywhere: the older checkpoint, or an error that names the file."""
    sweep(tmp_path / "a", on_chunk=stop_at(6))
    rng = np.random.default_rng(5)
    for _ in range(60):
        shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
        path = tmp_path / "b" / str(rng.choice(["state-6.npz", "state-4.npz", "records-4-6.npz"]))
        content = bytearray(path.read_bytes())
        place = int(rng.integers(len(content)))
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content[: int(rng.integers(len(content)))] if rng.random() < 0.3 else content)
        found = read(tmp_path / "b")
        assert found.done in (4, 6)
        np.testing.assert_array_equal(
            np.concatenate([info.loss for info in found.infos], axis=1), whole.info.loss.reshape(6, 11)[:, : found.done]
        )


def read(folder) -> Any:
    """The newest checkpoint, its identity apart."""
    blank = jax.eval_shape(lambda key: ADAM.blank(*problem(key)), KEYS[0])
    one: Any = np.zeros(())
    finite: Any = np.zeros((), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoints._newest(folder, blank, jills.Info(one, one, finite, blank_detail(ADAM, np.float64)), 6)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "algorithm": (
        {"algorithm": jills.adam.build(NETWORK, jills.losses.huber(0.5))},
        r"another algorithm \(loss was jills.losses.squared_error and is jills.Loss,",
    ),
    "hparams": (
        {"hparams": jills.adam.Hparams(jnp.array([0.01, 0.1, 0.2]), b1=0.8)},
        r"other hyperparameters \(b1 was \[0.9\] and is \[0.8\], learning_rate was",
    ),
    "keys": ({"keys": KEYS[::-1]}, r"other keys \(2 then, 2 now\)"),
    "dtype": ({"given": lambda key: problem(key, "float32")}, r"another dtype \(float64 then, float32 now\)"),
    "stop": ({"stop": jills.Stop(target_loss=0.1)}, r"another stop \(target_loss was \[-inf\] and is \[0.1\]\)"),
    "patience": (
        {"patience": 3, "validation": problem(KEYS[0])[1]},
        r"another patience \(none then, 3 now\)",
    ),
    "rows": (
        {"given": lambda key: (problem(key)[0], jax.tree.map(lambda leaf: 1.001 * leaf, problem(key)[1]))},
        r"other rows or starts \(loss of key 0 was \[.*\] and is \[.*\]\)",
    ),
    "start": ({"given": lambda key: (problem(KEYS[0])[0], problem(key)[1])}, r"other rows or starts \(loss of key 1"),
    "validation": (
        {"validation": problem(KEYS[0])[1]},
        r"other validation rows \(validation none then, of shape \(2,\) now\)",
    ),
    "metrics": ({"metrics": lambda params: {"size": jnp.sum(params[0].bias)}}, "other metrics .*size.*none then"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    sweep(folder, on_chunk=stop_at(4))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_another_sweep_is_refused_before_it_is_compiled(name, begun, untrained):
    options, message = REFUSED[name]
    before = names(begun)
    untrained()
    with pytest.raises(ValueError, match=f"(?s)the checkpoints in .* are of a sweep with .*{message}.*another folder"):
        sweep(begun, **options)
    assert names(begun) == before


def test_other_validation_rows_and_metrics(tmp_path, untrained):
    rows = [problem(key)[1] for key in KEYS]
    size = lambda params, scale=1.0: {"size": scale * jnp.sum(params[0].weight)}  # noqa: E731
    sweep(tmp_path, 3, validation=rows[0], metrics=size)
    untrained()
    same(sweep(tmp_path, 3, validation=rows[0], metrics=size), sweep(tmp_path, 3, validation=rows[0], metrics=size))
    with pytest.raises(ValueError, match=r"with other validation rows \(validation of key 0 was"):
        sweep(tmp_path, 3, validation=rows[1], metrics=size)
    with pytest.raises(ValueError, match=r"with other metrics \(metrics\['size'\] of key 0 was"):
        sweep(tmp_path, 3, validation=rows[0], metrics=lambda params: size(params, 1.1))


def test_stacked_rows(tmp_path, untrained):
    rows = [problem(key)[1] for key in KEYS]
    stacked: Any = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)
    options = {"given": NETWORK.init, "batches": stacked}
    sweep(tmp_path, on_chunk=stop_at(4), **options)
    same(sweep(tmp_path, **options), sweep(**options))
    untrained()
    other = stacked._replace(targets=np.concatenate([stacked.targets[:1], 2 * stacked.targets[1:]]))
    with pytest.raises(ValueError, match=r"with other rows or starts \(loss of key 1 was"):
        sweep(tmp_path, **{**options, "batches": other})


def test_rows_of_which_only_bits_differ_are_warned_of(tmp_path, whole):
    """As they do from machine to machine."""

    def nearly(key):
        params, batch = problem(key)
        return params, batch._replace(targets=batch.targets * (1 + 3e-16))

    sweep(tmp_path, on_chunk=stop_at(4))
    told = "rows have other bits than those of the checkpoints, but all starts have"
    with pytest.warns(UserWarning, match=told) as warned:
        done = sweep(tmp_path, given=nearly)
    assert [warning.filename for warning in warned] == [__file__]
    np.testing.assert_allclose(done.info.loss, whole.info.loss, rtol=1e-9)


def test_a_state_to_begin_from(tmp_path, untrained):
    """The folder wins where it began from the same state; from another one, or from none, is refused."""
    first = sweep(num_steps=3)
    second = sweep(num_steps=8, state=first)
    sweep(tmp_path, 8, state=first, on_chunk=stop_at(4))
    same(sweep(tmp_path, 8, state=first), second)
    same(sweep(tmp_path, 8, state=first.state), second)
    untrained()
    for state in (None, second, second.state):
        with pytest.raises(ValueError, match=r"another state to begin from \(one of digest \w{8} then, .* now\)"):
            sweep(tmp_path, 8, state=state)
    with pytest.raises(ValueError, match="the sweep to go on from was made with other keys"):
        sweep(tmp_path, 8, state=first, keys=KEYS[::-1])


def test_the_tier_is_that_of_the_checkpoints(tmp_path, whole, monkeypatch):
    """With "auto", more steps or a cache on disk might choose another."""
    chosen = []
    compiled = chunks.Chunk.compile
    monkeypatch.setattr(chunks.Chunk, "compile", lambda self, tier: (chosen.append(tier), compiled(self, tier))[1])
    sweep(tmp_path, on_chunk=stop_at(2), compile="fast")
    monkeypatch.setattr(compilation, "tier_of", lambda *_: "full")
    sweep(tmp_path, on_chunk=stop_at(4))
    assert chosen == ["fast", "fast"]
    sweep(tmp_path / "other", on_chunk=stop_at(2))
    sweep(tmp_path, on_chunk=stop_at(6), compile="full")
    assert chosen[2:] == ["full", "full"]


def failing(monkeypatch, error, fine=0, count=10**9):
    """Lets writing fail after some files, and for some."""
    real, calls = np.savez, []

    def savez(file, **entries):
        calls.append(file)
        if fine < len(calls) <= fine + count:
            file.write(b"some of it")
            raise error
        return real(file, **entries)

    monkeypatch.setattr(np, "savez", savez)
    return calls


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("error", [FULL, READ_ONLY])
def test_a_full_disk_is_warned_of_once_and_tried_again(error, tmp_path, whole, monkeypatch, recwarn):
    failing(monkeypatch, error, fine=4, count=2)  # the first checkpoint is `sweep.npz`, records and state
    done = sweep(tmp_path)
    same(done, whole)
    assert [warning.filename for warning in recwarn] == [__file__]
    assert re.search(f"no checkpoint could be written to .*{error.strerror}; .* of step 2; training", str(recwarn[0]))
    monkeypatch.undo()
    assert {"state-11.npz", "records-2-8.npz"} <= set(names(tmp_path))
    same(sweep(tmp_path), whole)


def test_a_disk_that_stays_full_leaves_the_older_checkpoint(tmp_path, whole, monkeypatch, recwarn):
    failing(monkeypatch, FULL, fine=5)
    same(sweep(tmp_path), whole)
    assert len(recwarn) == 1
    monkeypatch.undo()
    assert names(tmp_path) == ["records-0-2.npz", "records-2-4.npz", "state-2.npz", "state-4.npz", "sweep.npz"]
    same(sweep(tmp_path), whole)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_compiled(tmp_path, untrained, monkeypatch):
    untrained()
    monkeypatch.setattr(sys.modules["jills.training.sweep"], "look", None)  # which compiles a little
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"checkpoint: .*file cannot be written: .*exists"):
        sweep(tmp_path / "file")
    with pytest.raises(OSError, match="cannot be written"):
        sweep(tmp_path / "file" / "inside")

    def unwilling(*_):
        raise READ_ONLY

    monkeypatch.setattr(checkpoints, "write_whole", unwilling)
    with pytest.raises(OSError, match=r"cannot be written: .*Read-only file system"):
        sweep(tmp_path / "folder")


def test_a_finished_sweep_in_a_folder_that_can_only_be_read(tmp_path, whole, monkeypatch):
    """Comes back; one that is not finished is refused, and nothing is compiled for it."""
    sweep(tmp_path / "whole")
    sweep(tmp_path / "part", on_chunk=stop_at(4))
    four = sweep(None, 4)
    kept = names(tmp_path / "whole")
    if os.geteuid() == 0:  # for whom there is no such folder
        monkeypatch.setattr(checkpoints, "write_whole", failing_after(0, READ_ONLY))
    else:
        for folder in (tmp_path / "whole", tmp_path / "part"):
            (folder / ".lock").unlink(missing_ok=True)
            folder.chmod(0o500)
    same(sweep(tmp_path / "whole"), whole)
    assert names(tmp_path / "whole") == kept
    monkeypatch.setattr(chunks, "trace_chunk", None)
    with pytest.raises(OSError, match=r"checkpoint: .*part cannot be written: .*(Read-only|denied)"):
        sweep(tmp_path / "part")
    same(sweep(tmp_path / "part", 4), four)
    with pytest.raises(OSError, match=r"whole cannot be written"):
        sweep(tmp_path / "whole", 12)
    with pytest.raises(ValueError, match="other keys"):
        sweep(tmp_path / "whole", keys=KEYS[::-1])


def test_two_sweeps_at_once_in_one_folder(tmp_path):
    def second(*_):
        with pytest.raises(OSError, match="another sweep is writing to"):
            sweep(tmp_path)

    sweep(tmp_path, 3, on_chunk=second)
    sweep(tmp_path, 3)


@pytest.mark.parametrize("seconds", [-1, float("nan"), None, True, "60", np.ones(2)])
def test_intervals_that_are_none(seconds, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint_seconds is .*, but must be a number of at least 0"):
        sweep(tmp_path / "new", checkpoint_seconds=seconds)
    assert not (tmp_path / "new").exists()


def test_a_path_that_is_none():
    with pytest.raises(ValueError, match="checkpoint is 3, but must be the path of a folder"):
        sweep(3)
