"""Rows that are spread over devices: the same steps to rounding, whatever kind of mesh they come on."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jills

jax.config.update("jax_enable_x64", True)
kind, name = sys.argv[1:]
mesh = jax.make_mesh((4,), ("rows",)) if kind == "explicit" else Mesh(np.array(jax.devices()), ("rows",))
rng = np.random.default_rng(0)
inputs = rng.normal(size=(48, 3))
batch = jills.Batch(inputs, np.sin(2 * inputs[:, :1]), rng.uniform(0.5, 2.0, 48))
spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("rows")))
network = jills.Network((3, 5, 1), jills.activations.tanh)
algorithm = getattr(jills, name).build(network)
params = network.init(jax.random.key(0), "float64")
together = algorithm.init(params, spread)
assert np.allclose(together.loss, algorithm.init(params, batch).loss, rtol=1e-12)
for steps in (1, 3):
    one, _ = jills.run(algorithm, algorithm.defaults, params, batch, steps)
    other, _ = jills.run(algorithm, algorithm.defaults, params, spread, steps)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        assert np.allclose(a, b, rtol=1e-6, atol=1e-8), (steps, a, b)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["explicit", "automatic"])
@pytest.mark.parametrize("name", ["adam", "gauss_newton", "evidence", "ills"])
def test_rows_over_devices_give_the_same_steps(name, kind):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, name],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stderr
