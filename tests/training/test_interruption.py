"""SIGTERM ends a training with checkpoints as Ctrl-C does, and then does what it would have done at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import NETWORK
from training.test_checkpoints import names, same, sweep

import jills
from jills.training.interruption import interruption, termination

SCRIPT = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
from training.test_checkpoints import sweep

def on_chunk(done, loss, stopped):
    if done == 4:
        os.kill(os.getpid(), signal.SIGTERM)

sweep(sys.argv[1], on_chunk=on_chunk, checkpoint_seconds=1000)
print("not reached")
"""


@pytest.fixture
def received():
    """Signals that came through to a handler of the user's."""
    told, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_process_ends_as_it_would_have_and_the_same_call_goes_on(tmp_path):
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "not reached" not in done.stdout
    assert names(tmp_path) == ["records-0-4.npz", "state-4.npz", "sweep.npz"]
    same(sweep(tmp_path), sweep())


def test_where_a_handler_returns_so_does_the_sweep(tmp_path, received):
    handler = signal.getsignal(signal.SIGTERM)
    part = sweep(tmp_path, on_chunk=lambda done, *_: done == 6 and terminate(), checkpoint_seconds=1000)
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert part.interrupted
    assert part.num_steps == 6
    same(sweep(tmp_path), sweep())
    assert received == [signal.SIGTERM]


def test_where_a_handler_exits_it_does_so_after_the_checkpoint(tmp_path, received):
    def leave(*_):
        assert names(tmp_path) == ["records-0-4.npz", "state-4.npz", "sweep.npz"]
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)
    with pytest.raises(SystemExit, match="143"):
        sweep(tmp_path, on_chunk=lambda done, *_: done == 4 and terminate(), checkpoint_seconds=1000)
    same(sweep(tmp_path), sweep())


def test_without_checkpoints_it_comes_at_once(received):
    told = []
    done = sweep(None, on_chunk=lambda done, *_: told.append((done == 4 and terminate()) or list(received)))
    assert told[1] == [signal.SIGTERM]
    assert not done.interrupted


def test_a_stream_ends_after_its_step(tmp_path, received):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 11, NETWORK.sizes[0]))
    rows = [jills.Batch(each, jnp.tanh(each[:, : NETWORK.sizes[-1]])) for each in inputs]
    algorithm = jills.adam.build(NETWORK, full_batch=False)
    params = NETWORK.init(jax.random.key(0), "float64")

    def fit(batches, **options):
        return jills.training.streams.fit(algorithm, algorithm.defaults, params, batches, progress=False, **options)

    def stream():
        yield from rows[:3]
        terminate()
        yield from rows[3:]

    state, record = fit(stream(), checkpoint=tmp_path / "training.npz")
    assert received == [signal.SIGTERM]
    assert record.interrupted
    assert int(state.step) <= 3
    whole, _ = fit(rows)
    gone_on, _ = fit(rows, checkpoint=tmp_path / "training.npz")
    for one, other in zip(jax.tree.leaves(gone_on), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_who_is_asked(received):
    """The main thread, once; a second signal is as ever, and one that is to be ignored stays so."""
    with termination(True) as is_terminated:
        terminate()
        assert is_terminated()
        assert received == []
        terminate()
        assert received == [signal.SIGTERM]
    assert received == [signal.SIGTERM] * 2
    told = []

    def elsewhere():
        with termination(True) as is_terminated, interruption() as is_interrupted:
            told.append((is_terminated(), is_interrupted()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert told == [(False, False)]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with termination(True) as is_terminated:
        terminate()
        assert not is_terminated()
