"""Arrays of which no process has all entries, saved and loaded: by Orbax, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys

import pytest

START = """
import os, sys, warnings
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jills
from jills.training import spread

warnings.simplefilter("error")
path = Path(sys.argv[1])
network = jills.Network((3, 4, 1), jills.activations.tanh)


def on_mesh(*spec, **sizes):
    mesh = Mesh(np.array(jax.devices()).reshape([*sizes.values()] or -1), [*sizes] or ["rows"])
    return NamedSharding(mesh, PartitionSpec(*spec))


def spread_state(algorithm=jills.ills.build(network), num_steps=3):
    "Trained on rows that all devices have a share of."
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(48, 3)).astype("float32")
    batch = jax.device_put(jills.Batch(inputs, np.sin(inputs[:, :1])), on_mesh("rows"))
    params = network.init(jax.random.key(0), "float32")
    return jills.run(algorithm, algorithm.defaults, params, batch, num_steps)[0]


def same(one, other):
    leaves, others = (jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other))
    for (place, left), (_, right) in zip(leaves, others, strict=True):
        assert left.dtype == right.dtype, place
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes(), place
"""
BEYOND = """
# In one process nothing is beyond reach. Here all that is spread over its devices counts as such.
spread.is_beyond_reach = lambda leaf: isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
"""


def begun(script, path, devices, *words):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", START + script, str(path), *words]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "0"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process, expected=0):
    told, _ = process.communicate(timeout=100)
    assert process.returncode == expected, told


def run(script, path, devices=4, expected=0):
    ended(begun(script, path, devices), expected)


WRITE = """
state = spread_state()
jills.save(path, {"state": state, "half": state.activations[0].astype("bfloat16"), "text": "a", "count": 3})
assert sorted(os.listdir(path)) == ["arrays-0", "tree-0.npz"]
np.savez(path.with_suffix(".npz"), *map(np.asarray, jax.tree.leaves(state)))
told = jills.load(path)
assert (told["text"], told["count"], told["half"].dtype) == ("a", 3, "bfloat16")
same(told["state"], state)
for one, other in zip(jax.tree.leaves(told["state"].activations), jax.tree.leaves(state.activations)):
    assert one.sharding == other.sharding
"""
READ = """
with np.load(path.with_suffix(".npz")) as file:
    kept = list(file.values())
told = jills.load(path)["state"]
assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(told))
same(jax.tree.leaves(told), kept)
assert told.activations[0].sharding.is_fully_replicated
jax.config.update("jax_enable_x64", True)
assert jills.load(path, dtype="float64")["state"].activations[0].dtype == "float64"
"""
LIKE = """
state = spread_state()
tree = {"state": state, "step": state.step}
jills.save(path, tree)
two = on_mesh("b", a=2, b=2)
place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=two if leaf.shape[:1] == (48,) else None)
told = jills.load(path, jax.tree.map(place, tree))
same(told, tree)
assert told["state"].activations[1].sharding == two
cast = jills.load(path, tree, dtype="bfloat16")["state"].activations[0]
assert (cast.dtype, cast.sharding) == ("bfloat16", state.activations[0].sharding)


def refused(call, *words):
    try:
        call()
    except ValueError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError


refused(lambda: jills.load(path, state), "holds another structure")
shorter = tree | {"state": state._replace(activations=jax.tree.map(lambda leaf: leaf[:11], state.activations))}
refused(lambda: jills.load(path, shorter), ".activations[0] is float32[48, 4], but float32[11, 4] is expected")
refused(lambda: jills.load(path, tree, dtype="float64"), "JAX has 64 bits off")
keys = jax.device_put(jax.random.split(jax.random.key(0), 4), on_mesh("rows"))
refused(lambda: jills.save(path, keys), "save jax.random.key_data of them")
(path / "notes.txt").touch()
jills.save(path, tree)  # what else lies there stays
assert sorted(os.listdir(path)) == ["arrays-1", "notes.txt", "tree-1.npz"]
(path.parent / "file").touch()
(path.parent / "folder").mkdir()
(path.parent / "folder" / "notes.txt").touch()
for other in ("file", "folder"):
    refused(lambda: jills.save(path.parent / other, tree), other, "want a folder of their own")
refused(lambda: jills.save(path.parent / "folder", {"a": 1}), "holds something else")
for file in (path / "arrays-1" / "d").iterdir():
    file.write_bytes(b"")
refused(lambda: jills.load(path), "arrays-1 cannot be read")
sys.modules["orbax.checkpoint"] = None
for call in (lambda: jills.save(path, tree), lambda: jills.load(path)):
    try:
        call()
    except ImportError as error:
        assert "pip install orbax-checkpoint" in str(error)
    else:
        raise AssertionError
"""
KILLED = """
import signal
from jills.training import checkpoint

jills.save(path, spread_state(num_steps=2))
checkpoint.save_arrays = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
jills.save(path, spread_state(num_steps=3))
"""
GOING_ON = """
assert sorted(os.listdir(path)) == ["arrays-0", "arrays-1", "tree-0.npz"]
told = jills.load(path)
same(told, spread_state(num_steps=2))
(path / "arrays-6.orbax-checkpoint-tmp").mkdir()  # as Orbax leaves it where it is killed
jills.save(path, spread_state(num_steps=3))
assert sorted(os.listdir(path)) == ["arrays-7", "tree-7.npz"]
same(jills.load(path), spread_state(num_steps=3))
"""
STREAM = """
algorithm = jills.adam.build(network, full_batch=False)
rng = np.random.default_rng(0)
rows = on_mesh("rows")
first, last = network.init(jax.random.key(0), "float32")
wide = jills.Layer(jax.device_put(first.weight, on_mesh(None, "rows")), jax.device_put(first.bias, rows))
params = (wide, last)
inputs = rng.normal(size=(5, 16, 3)).astype("float32")
batches = [jax.device_put(jills.Batch(each, np.sin(each[:, :1])), rows) for each in inputs]


def fit(count, **options):
    return jills.training.streams.fit(algorithm, algorithm.defaults, params, batches, count, progress=False, **options)


whole = fit(5)
(path / "arrays-0.orbax-checkpoint-tmp").mkdir(parents=True)  # of a first save that was killed
try:
    jills.load(path)
except FileNotFoundError as error:
    assert "holds nothing that jills.save has finished" in str(error)
else:
    raise AssertionError
fit(3, checkpoint=path)
assert sorted(os.listdir(path)) == ["arrays-1", "tree-1.npz"]
same(fit(5, checkpoint=path)[0], whole[0])
"""
TOGETHER = """
jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[2]))
rows, alike = on_mesh("rows"), on_mesh()
whole = np.arange(48 * 3, dtype="float32").reshape(48, 3)
placed = lambda array, sharding: jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])
tree = {"layer": jills.Layer(placed(whole, rows), placed(whole[1], alike)), "text": "a", "count": np.arange(3)}
assert not tree["layer"].weight.is_fully_addressable
for number in range(2):
    jills.save(path, tree)
    assert sorted(os.listdir(path)) == [f"arrays-{number}", f"tree-{number}.npz"]
    told = jills.load(path)
    assert (told["layer"].weight.sharding, told["layer"].bias.sharding, told["text"]) == (rows, alike, "a")
    for array, kept in zip(told["layer"], (whole, whole[1])):
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, kept[shard.index])

algorithm, devices = jills.ills.build(network), np.array(jax.devices())
state = spread_state(algorithm)
assert not state.activations[0].is_fully_addressable
jills.save(path.with_name("run"), state)
told = jills.load(path.with_name("run"))
for one, other in zip(jax.tree.leaves(told), jax.tree.leaves(state)):
    assert one.sharding == other.sharding
    for part, kept in zip(one.addressable_shards, other.addressable_shards):
        np.testing.assert_array_equal(part.data, kept.data)
problem = lambda key: (network.init(key, "float32"), jills.Batch(whole, whole[:, :1]))
keys = jax.random.split(jax.random.key(0), 4)
try:
    jills.sweep(algorithm, algorithm.defaults, problem, keys, 1, mesh=Mesh(devices, "members"))
except ValueError as error:
    assert "mesh has devices of other processes" in str(error)
else:
    raise AssertionError
jills.save(path.with_name("alike.npz"), {"bias": tree["layer"].bias})  # which each has whole: a file
np.testing.assert_array_equal(np.load(path.with_name("alike.npz"))["['bias']"], whole[1])
"""
ALONE = """
whole = np.arange(48 * 3, dtype="float32").reshape(48, 3)
told = jills.load(path)
same(told["layer"], jills.Layer(whole, whole[1]))
jills.save(path, told)  # goes on as a folder, where there is one
same(jills.load(path)["layer"], told["layer"])
assert os.listdir(path) == ["tree-2.npz"]
"""


@pytest.mark.slow
def test_a_state_comes_back_to_its_devices_and_elsewhere_whole(tmp_path):
    run(BEYOND + WRITE, tmp_path / "state")
    run(READ, tmp_path / "state", devices=2)


def test_another_sharding_and_what_is_refused(tmp_path):
    run(BEYOND + LIKE, tmp_path / "state")


@pytest.mark.slow
def test_killed_between_the_arrays_and_their_file(tmp_path):
    run(BEYOND + KILLED, tmp_path / "state", expected=-signal.SIGKILL)
    run(BEYOND + GOING_ON, tmp_path / "state")


def test_a_stream_keeps_what_is_spread(tmp_path):
    run(BEYOND + STREAM, tmp_path / "state")


@pytest.mark.slow
def test_two_processes(tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    started = [begun(TOGETHER, tmp_path / "state", 2, str(index), address) for index in range(2)]
    for process in started:
        ended(process)
    run(ALONE, tmp_path / "state")
