"""Programs that are kept as they were traced: what tells them apart, and that a later process trains with them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import traces
from jills.functions import Static

NETWORK = jills.Network((2, 3, 1), jills.activations.tanh)


def program(static, *args):
    """Stands for a program of jills."""
    return jax.tree.map(lambda leaf: static.value(leaf), args)


def scaled(by):
    return lambda x: by * x


def name(function=jnp.sin, *args):
    return traces.name_of(program, (Static(function), 3), args or (np.ones(2, np.float32),))


def test_equal_contents_have_one_name_and_others_another():
    assert name(scaled(2)) == name(scaled(2)) is not None
    array = np.ones(2, np.float32)
    others = [
        name(scaled(2)),
        name(scaled(3)),
        name(jnp.sin),
        name(jnp.sin, np.ones(3, np.float32)),
        name(jnp.sin, np.ones(2)),
        name(jnp.sin, array, array),
        name(jnp.sin, (array, array)),
        name(jnp.sin, jills.types.Layer(array, array)),
        name(jnp.sin, (array, None)),
        name(jnp.sin, jax.tree_util.Partial(Static(scaled(2)), array)),
        name(jnp.sin, jax.tree_util.Partial(Static(scaled(3)), array)),
        name(jnp.sin, jax.random.key(0)),
        name(jnp.sin, jax.random.key(0, impl="rbg")),
        traces.name_of(program, (Static(jnp.sin), 4), (array,)),
        traces.name_of(scaled, (Static(jnp.sin), 3), (array,)),
    ]
    assert None not in others
    assert len(set(others)) == len(others)


def test_settings_of_jax_tell_programs_apart():
    plain = name()
    with jax.default_matmul_precision("float32"):
        assert name() != plain
    with jax.numpy_dtype_promotion("standard"):
        assert name() != plain
    assert name() == plain


def test_what_cannot_be_seen_through_has_no_name():
    class Counter:
        def __call__(self, x):
            return x

    assert name(Counter()) is None
    assert name(lambda x: np.loadtxt("rows") + x) is None
    assert name(jnp.sin, 1.0) is None  # its dtype gives way to that of others
    assert name(jnp.sin, jax.tree_util.Partial(Static(Counter()), np.ones(2))) is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "_folder", [tmp_path])
    return tmp_path


def test_a_program_is_kept_with_what_was_told_of_its_trace(folder):
    static, args = (Static(scaled(2)),), ({"a": np.ones(2), "key": jax.random.key(1)}, None)
    static = (Static(lambda leaf: leaf if leaf.dtype == jax.random.key(0).dtype else 2 * leaf),)
    made = traces.made("one", program, static, args, lambda jaxpr: len(jaxpr.eqns))
    found = traces.find("one")
    assert made is not None
    assert found is not None
    assert found.facts == made.facts >= 1
    leaves = found.exported.call(*jax.tree.leaves(args))
    told, none = jax.tree.unflatten(found.structure, leaves)
    np.testing.assert_array_equal(told["a"], 2.0)
    assert told["key"] == args[0]["key"]
    assert none is None


def test_what_cannot_be_exported_or_read_is_traced_again(folder):
    def loud(x):
        jax.debug.print("{}", x)
        return x

    assert traces.made("loud", program, (Static(loud),), (np.ones(2),), lambda jaxpr: None) is None
    assert traces.find("loud") is None
    (folder / "half.traced").write_bytes(b"half")
    assert traces.find("half") is None


def test_the_oldest_programs_go_first(folder, monkeypatch):
    monkeypatch.setattr(traces, "MOST_KEPT", 2)
    for place in range(3):
        traces.made(str(place), program, (Static(jnp.sin),), (np.ones(2),), lambda jaxpr: None)
        os.utime(folder / f"{place}.traced", (place, place))
    assert {path.stem for path in folder.glob("*.traced")} == {"1", "2"}


SCRIPT = """
import sys
from typing import Any, NamedTuple
import jax, jax.monitoring, numpy as np
import jills

traced = []
def listen(event, seconds, fun_name="", **_):
    if event.endswith("jaxpr_trace_duration") and seconds > 0.0:
        traced.append(fun_name)
jax.monitoring.register_event_duration_secs_listener(listen)
if sys.argv[1] != "none":
    jills.enable_compilation_cache(sys.argv[1])
FACTOR = float(sys.argv[2])

class Told(NamedTuple):
    square: Any

def problem(key):
    return jax.tree.map(lambda leaf: FACTOR * leaf, network.init(key))

rng = np.random.default_rng(0)
batch = jills.Batch(rng.normal(size=(20, 2)).astype("float32"), rng.normal(size=(20, 1)).astype("float32"))
network = jills.Network((2, 3, 1), jills.activations.tanh)
metrics = lambda params: Told(params[0].weight[0, 0] ** 2)
for algorithm in (jills.gauss_newton.build(network), jills.evidence.build(network)):
    state, info = jills.run(algorithm, algorithm.defaults, network.init(jax.random.key(0)), batch, 3, metrics=metrics)
    print(float(state.loss).hex(), float(info.metrics.square[-1]).hex())
    keys = jax.random.split(jax.random.key(0), 3)
    result = jills.sweep(algorithm, algorithm.defaults, problem, keys, 3, batches=batch, metrics=metrics)
    print(*(float(loss).hex() for loss in result.state.loss.ravel()))
print("traced", sum(name in ("_trained", "_steps", "_blank", "flat") for name in traced))
"""


def ran(cache, factor=1):
    """What a process prints: its numbers, and how many programs it traced."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX")}
    given = [sys.executable, "-c", SCRIPT, str(cache), str(factor)]
    told = subprocess.run(given, capture_output=True, text=True, env=plain)
    assert told.returncode == 0, told.stderr
    numbers, traced = told.stdout.split("traced")
    return numbers, int(traced)


def test_a_later_process_trains_to_the_same_bits_without_a_trace(tmp_path):
    first, traced = ran(tmp_path)
    assert traced >= 6
    again, traced = ran(tmp_path)
    assert traced == 0
    assert again == first
    for path in tmp_path.rglob("*.traced"):
        path.write_bytes(path.read_bytes()[:-100])
    broken, traced = ran(tmp_path)
    assert traced >= 6
    assert broken == first
    other, traced = ran(tmp_path, 2)  # a global that a problem names
    assert traced >= 2
    assert other != first
    uncached, _ = ran("none", 2)
    lines = [[float.fromhex(word) for word in text.split()] for text in (other, uncached)]
    np.testing.assert_allclose(*lines, rtol=1e-2)  # two roundings of evidence's steps
