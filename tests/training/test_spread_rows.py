"""Rows that are spread over devices: the same steps to rounding, whatever kind of mesh they come on."""

import os
import re
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


ILLS = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import jills

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
inputs = rng.normal(size=(596, 3))
batch = jills.Batch(inputs, np.sin(2 * inputs[:, :2]), rng.uniform(0.5, 2.0, 596))
spread = jax.device_put(batch, NamedSharding(jax.make_mesh((4,), ("rows",)), PartitionSpec("rows")))
network = jills.Network((3, 5, 2), jills.activations.tanh)
algorithm = jills.ills.build(network, solver=getattr(jills.solvers, sys.argv[1]))
hparams, params = jills.ills.Hparams(0.3, 1e-3), network.init(jax.random.key(0), "float64")
one, other = (jills.run(algorithm, hparams, params, rows, 2)[0] for rows in (batch, spread))
for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
    assert np.allclose(a, b, rtol=1e-9, atol=1e-11), (a, b)
"""
MOVED = re.compile(r"= (\S+) (?:all-gather|all-to-all|collective-permute|collective-broadcast)(?:-start)?\(")


def on_four_devices(script, *words, flags="", **environment):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {flags}"
    told = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=os.environ | environment | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["explicit", "automatic"])
@pytest.mark.parametrize("name", ["adam", "gauss_newton", "evidence", "ills"])
def test_rows_over_devices_give_the_same_steps(name, kind):
    on_four_devices(SCRIPT, kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["lstsq", "qr", "cholesky"])
def test_least_squares_of_ills_gather_triangles_and_no_rows(solver, tmp_path):
    dump = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*_trained"
    on_four_devices(ILLS, solver, flags=dump, JAX_ENABLE_COMPILATION_CACHE="false")
    programs = [path.read_text() for path in tmp_path.glob("*after_optimizations.txt")]
    moved = [shape for text in programs for shape in MOVED.findall(text)]
    sizes = [int(size) for shape in moved for size in re.findall(r"(?<=[\[,])\d+(?=[\],])", shape)]
    # Of the 149 rows on each device nothing moves but a triangle; that of the shift, 20 + 1 columns, is the largest.
    assert max(sizes) == 4 * 21, moved
