"""What a program takes, told before it is compiled: against what the compiler itself says afterwards."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills.training import memory


def compiled_bytes(function, *arguments):
    """Ours, and that of the compiled program."""
    traced = jax.jit(function).trace(*arguments)
    known = traced.lower().compile().memory_analysis()
    assert known is not None
    whole = known.temp_size_in_bytes + known.argument_size_in_bytes + known.output_size_in_bytes
    return memory.heaviest_step(traced.jaxpr.jaxpr), whole


def test_a_product_takes_its_operands_and_its_result():
    tall, wide = jnp.ones((311, 7), "float32"), jnp.ones((7, 101), "float32")
    found, whole = compiled_bytes(jnp.matmul, tall, wide)
    assert found == 4 * (311 * 7 + 7 * 101 + 311 * 101)
    assert found <= whole
    inside, _ = compiled_bytes(
        lambda a, b: jax.lax.fori_loop(0, 3, lambda _, x: x + a @ b, jnp.ones((311, 101), "float32")), tall, wide
    )
    assert inside == found


@pytest.mark.parametrize("build", [jills.ills.build, jills.gauss_newton.build, jills.adam.build])
def test_it_is_no_more_than_a_training_takes(build):
    """Else sweeps that fit would be refused."""
    network = jills.Network((31, 17, 3), jills.activations.tanh)
    batch = jills.Batch(jnp.ones((211, 31), "float32"), jnp.ones((211, 3), "float32"))
    algorithm, params = build(network), network.init(jax.random.key(0), "float32")
    found, whole = compiled_bytes(lambda p, b: jills.run(algorithm, algorithm.defaults, p, b, 2), params, batch)
    assert 0.05 * whole < found <= 1.05 * whole


def test_the_work_of_a_step_is_refused_before_it_is_compiled(monkeypatch):
    """ILLS builds a matrix of `n k × width · (width below + 1)`: 3 GB here, of which no state knows."""
    network = jills.Network((31, 97, 11), jills.activations.tanh)
    algorithm = jills.ills.build(network)

    def problem(key):
        return jills.Member(network.init(key, "float32"), jills.Batch(jnp.ones((20_000, 31)), jnp.ones((20_000, 11))))

    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000_000))
    with pytest.raises(MemoryError, match=r"and [2-9]\.\d GB for a step, but 2\.0 GB are free"):
        jills.sweep(algorithm, algorithm.defaults, problem, jax.random.split(jax.random.key(0), 1), 5)


def test_bytes_of_a_tree():
    tree = {"a": jax.ShapeDtypeStruct((3, 5), np.float32), "b": jax.random.key(0), "c": np.zeros(7, np.int8)}
    assert memory.tree_bytes(tree) == 60 + 7
