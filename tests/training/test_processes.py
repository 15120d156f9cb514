"""Sweeps over processes of `jax.distributed`: the same results for any number, and files that others go on from."""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills.training import processes

SCRIPT = """
import sys
import jax
import numpy as np
import jills

index, count, address, path, steps, folder = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
network = jills.Network((3, 5, 1), jills.activations.tanh)
algorithm = jills.gauss_newton.build(network)
inputs = np.random.default_rng(0).normal(size=(5, 11, 3)).astype(np.float32)
result = jills.sweep(
    algorithm,
    jills.gauss_newton.Hparams(weight_decay=jax.numpy.array([0.0, 0.1], "float32")),
    network.init,
    jax.random.split(jax.random.key(0), 5),
    int(steps),
    2,
    batches=jills.Batch(inputs, np.sin(inputs[:, :, :1])),
    validation=jills.Batch(inputs[0], np.sin(inputs[0, :, :1])),
    checkpoint=folder or None,
    checkpoint_seconds=0,
)
one = jills.sweep(algorithm, algorithm.defaults, network.init, jax.random.split(jax.random.key(1), 1), 1,
                  batches=jills.Batch(inputs[0], np.sin(inputs[0, :, :1])))
if int(count) > 1:
    try:
        jills.sweep(algorithm, algorithm.defaults, network.init, jax.random.split(jax.random.key(int(index)), 2), 1,
                    batches=jills.Batch(inputs[0], np.sin(inputs[0, :, :1])))
    except ValueError as error:
        assert "the keys differ between processes" in str(error)
    else:
        raise AssertionError
if int(index) == int(count) - 1:
    best = jax.tree.leaves(result.state.best_params)[0]
    np.savez(path, loss=result.info.loss, validation=result.info.validation, best=best, steps=result.num_steps,
             one=one.info.loss, keys=result.keys)
"""


DYING = """
import os
import signal
import sys
from pathlib import Path
import jax
import numpy as np
import jills

index, count, address, folder, victim = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
network = jills.Network((3, 5, 1), jills.activations.tanh)
algorithm = jills.gauss_newton.build(network)
inputs = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
batch = jills.Batch(inputs, np.sin(inputs[:, :1]))


def on_chunk(step, *_):
    if index == victim and step == 6:  # that of step 2 is on the disk, this one not
        os.kill(os.getpid(), signal.SIGKILL)


def trained(folder):
    keys = jax.random.split(jax.random.key(0), 5)
    return jills.sweep(algorithm, algorithm.defaults, network.init, keys, 6, 2, on_chunk, batches=batch,
                       checkpoint=folder, checkpoint_seconds=0)


try:
    result = trained(folder)
except RuntimeError as error:
    print(error, flush=True)
    os._exit(3)  # JAX would wait for the dead
undisturbed = Path(folder).with_name("undisturbed")
(undisturbed / "block-00-of-05").mkdir(parents=True)
other = trained(undisturbed)
leaves = [jax.tree.leaves((each.state, each.info)) for each in (result, other)]
for one, two in zip(*leaves, strict=True):
    assert np.array_equal(one, two, equal_nan=True), (one, two)
assert result.info.loss.shape == (1, 5, 6)
"""
SPREAD = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import jills

jax.config.update("jax_enable_x64", True)
index, count, address, path = sys.argv[1:]
index, count = int(index), int(count)
if count > 1:
    jax.distributed.initialize(address, count, index)
rng = np.random.default_rng(0)
inputs, weights = rng.normal(size=(596, 3)), rng.uniform(0.5, 2.0, 596)
mesh = jax.make_mesh((count,), ("rows",))


def own(rows):
    mine = rows[index * len(rows) // count : (index + 1) * len(rows) // count]
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("rows")), mine)


batch = jills.Batch(*map(own, (inputs, np.sin(2 * inputs[:, :1]), weights)))
network = jills.Network((3, 5, 1), jills.activations.tanh)
params, found = network.init(jax.random.key(0), "float64"), {}
for name in ("adam", "gauss_newton", "evidence", "ills"):
    algorithm = getattr(jills, name).build(network)
    state, info = jills.run(algorithm, algorithm.defaults, params, batch, 2)
    found[name] = np.concatenate([info.loss, *(leaf.ravel() for leaf in jax.tree.leaves(state.params))])
    assert jills.diagnose(state, info).word == "improving"
state, info = jills.run(algorithm, algorithm.defaults, state, batch, 1)
found["going on"] = info.loss
if count > 1:  # nobody has all rows to look at
    bad = batch._replace(inputs=own(np.where(np.arange(596)[:, None] == 500, np.nan, inputs)))
    state, _ = jills.run(algorithm, algorithm.defaults, params, bad, 2)
    assert state.result == jills.results.NON_FINITE
np.savez(path + f"-{index}", **found)
"""


def free_address():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def together(script, count, *words):
    """What each of so many processes wrote, and its exit code."""
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(index), str(count), address, *map(str, words)],
            env=os.environ | {"JAX_ENABLE_X64": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    told = [process.communicate(timeout=200)[0] for process in started]
    return told, [process.returncode for process in started]


def trained(count, path, steps=3, folder=""):
    told, codes = together(SCRIPT, count, path, steps, folder)
    assert not any(codes), told
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(tmp_path):
    alone = trained(1, tmp_path / "one.npz")
    assert alone["loss"].shape == (2, 5, 3)
    for count in (2, 3):
        together = trained(count, tmp_path / f"{count}.npz")
        for name, values in alone.items():
            np.testing.assert_allclose(together[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_other_processes_go_on_from_the_files(tmp_path):
    folder = tmp_path / "sweep"
    trained(2, tmp_path / "first.npz", steps=2, folder=folder)
    assert len(list(folder.glob("block-*-of-05"))) == 5
    gone_on = trained(3, tmp_path / "second.npz", steps=4, folder=folder)
    whole = trained(1, tmp_path / "whole.npz", steps=4)
    assert int(gone_on["steps"]) == 4
    np.testing.assert_allclose(gone_on["loss"], whole["loss"], rtol=1e-5)


@pytest.mark.slow
def test_what_the_dead_leave_is_done_by_fewer_and_by_one(tmp_path):
    folder = tmp_path / "sweep"
    told, codes = together(DYING, 3, folder, 1)
    assert codes == [3, -signal.SIGKILL, 3], told
    for index in (0, 2):
        assert "another process of this sweep is not there any more" in told[index]
    reached = [{int(path.stem[6:]) for path in block.glob("state-*")} for block in sorted(folder.glob("block-*"))]
    assert [max(steps) for steps in reached] == [6, max(reached[1]), 6, 6]  # the dead one had blocks 1 and 4
    assert max(reached[1]) in (2, 4)
    told, codes = together(DYING, 2, folder, 0)
    assert codes[0] == -signal.SIGKILL, told
    assert codes[1] in (3, -signal.SIGABRT), told  # JAX ends the others where process 0 is gone
    told, codes = together(DYING, 1, folder, "none")
    assert codes == [0], told


@pytest.mark.slow
def test_processes_with_half_of_the_rows_each_take_the_same_steps(tmp_path):
    found = {}
    for count in (1, 2):
        told, codes = together(SPREAD, count, tmp_path / str(count))
        assert not any(codes), told
        found[count] = [dict(np.load(tmp_path / f"{count}-{index}.npz")) for index in range(count)]
    for name, alone in found[1][0].items():
        np.testing.assert_array_equal(found[2][0][name], found[2][1][name], err_msg=name)
        np.testing.assert_allclose(found[2][0][name], alone, rtol=1e-7, atol=1e-9, err_msg=name)


def small_sweep(folder, steps=2):
    network = jills.Network((3, 2), jills.activations.tanh)
    algorithm = jills.adam.build(network)
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jills.Batch(np.ones((11, 3)), np.ones((11, 2)))
    return jills.sweep(
        algorithm, algorithm.defaults, lambda key: (network.init(key), batch), keys, steps, checkpoint=folder
    )


def test_one_process_goes_on_in_the_blocks_of_several(tmp_path):
    (tmp_path / "blocks" / "block-00-of-03").mkdir(parents=True)
    small_sweep(tmp_path / "blocks")
    in_blocks, whole = small_sweep(tmp_path / "blocks", 4), small_sweep(tmp_path / "whole", 4)
    assert {path.name for path in (tmp_path / "blocks").iterdir()} == {f"block-0{number}-of-03" for number in range(3)}
    np.testing.assert_allclose(in_blocks.info.loss, whole.info.loss, rtol=1e-6)
    assert in_blocks.info.loss.shape == (1, 3, 4)
    with pytest.raises(ValueError, match="one process has begun the sweep"):
        processes.share_out(small_sweep, jax.random.split(jax.random.key(0), 3), {}, None, tmp_path / "whole")


def answer(monkeypatch, gather):
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gather)


def test_a_process_that_fails_tells_the_others_and_is_told_of(monkeypatch):
    def fails(**_):
        raise OSError("the disk is full")

    keys = jax.random.split(jax.random.key(0), 3)
    told = []
    answer(monkeypatch, lambda tree: told.append(tree) or np.asarray(tree)[None])
    with pytest.raises(OSError, match="the disk is full"):
        processes.share_out(fails, keys, {}, None, None)
    assert told[-1] == True  # noqa: E712 an array
    answer(monkeypatch, lambda tree: np.stack([tree, True | tree]) if tree.ndim == 0 else tree[None])
    with pytest.raises(RuntimeError, match="failed in process 1, which says why; with checkpoint="):
        processes.share_out(lambda **_: small_sweep(None), keys, {}, None, None)

    def gone(tree):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    answer(monkeypatch, gone)
    with pytest.raises(RuntimeError, match="not there any more; with checkpoint="):
        processes.share_out(fails, keys, {}, None, None)


@pytest.mark.parametrize(("count", "blocks"), [(5, 2), (5, 3), (16, 16), (17, 16), (1, 4), (7, 7), (100, 16)])
def test_blocks_hold_every_key(count, blocks):
    places = processes.blocks_of(count, blocks)
    assert len(places) <= min(count, blocks)
    assert sorted(set(places.ravel().tolist())) == list(range(count))
    assert np.all(np.diff(places.ravel()) >= 0)


def test_parts_of_batches_and_of_earlier_results():
    shared, stacked = jnp.zeros((11, 3)), jnp.arange(5.0)[:, None, None] * jnp.ones((5, 11, 2))
    part: Any = processes.taken(jills.Batch(shared, stacked, jnp.ones((5, 11))), np.array([4, 1]), 5)
    assert part.inputs is shared
    np.testing.assert_array_equal(part.targets[:, 0, 0], [4.0, 1.0])
    assert part.weights is not None
    assert part.weights.shape == (2, 11)
    network = jills.Network((3, 2), jills.activations.tanh)
    algorithm = jills.adam.build(network)
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jills.Batch(np.ones((11, 3)), np.ones((11, 2)))
    result = jills.sweep(algorithm, algorithm.defaults, lambda key: (network.init(key), batch), keys, 2)
    some = processes.part_of(result, np.array([2, 0]))
    np.testing.assert_array_equal(some.info.loss[0, 0], result.info.loss[0, 2])
    np.testing.assert_array_equal(some.keys, result.keys[[2, 0]])
