"""Sweeps over processes of `jax.distributed`: the same results for any number, and files that others go on from."""

import os
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


def trained(count, path, steps=3, folder=""):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    words = [address, str(path), str(steps), str(folder)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), str(count), *words],
            env=os.environ | {"JAX_ENABLE_X64": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    for process in started:
        told, _ = process.communicate(timeout=100)
        assert process.returncode == 0, told
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
