"""Programs that are kept as they were traced: what tells them apart, and that a later process trains with them."""

import dataclasses
import os
import subprocess
import sys
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import compilation, traces
from jills.functions import Static

NETWORK = jills.Network((2, 3, 1), jills.activations.tanh)


def program(static, *args):
    """Stands for a program of jills."""
    return jax.tree.map(lambda leaf: static.value(leaf), args)


def scaled(by):
    return lambda x: by * x


def name(function=jnp.sin, *args):
    return traces.digest_of(program, (Static(function), 3), args or (np.ones(2, np.float32),))


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
        traces.digest_of(program, (Static(jnp.sin), 4), (array,)),
        traces.digest_of(scaled, (Static(jnp.sin), 3), (array,)),
    ]
    assert None not in others
    assert len(set(others)) == len(others)


def test_functions_without_a_name_are_told_apart_by_what_they_do():
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    array = np.ones(2, np.float32)
    assert None not in (traces.digest_of(one, (), (array,)), traces.digest_of(other, (), (array,)))
    assert traces.digest_of(one, (), (array,)) != traces.digest_of(other, (), (array,))


class Pair(NamedTuple):
    first: Any
    second: Any = 1.0


@dataclasses.dataclass(frozen=True)
class Rate:
    rate: ClassVar = 0.1

    def __call__(self, x):
        return self.rate * x


OF_A_USER = {  # what stands in a class may change, and its name with it does not
    "a method of a class": Rate(),
    "a class that it makes": lambda x: Pair(x),
    "what JAX made of it": jax.jit(lambda x: x),
}


@pytest.mark.parametrize("what", OF_A_USER)
def test_a_class_of_a_user_has_no_name(what):
    assert name(OF_A_USER[what]) is None
    assert name(lambda x: OF_A_USER[what]) is None
    assert name(jnp.sin, Pair(np.ones(2))) is None


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
    args = ({"a": np.ones(2), "key": jax.random.key(1)}, None)
    static = (Static(lambda leaf: leaf if leaf.dtype == jax.random.key(0).dtype else 2 * leaf),)
    made = traces.make("one", program, static, args, lambda jaxpr: len(jaxpr.eqns))
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

    assert traces.make("loud", program, (Static(loud),), (np.ones(2),), lambda jaxpr: None) is None
    assert traces.find("loud") is None
    (folder / "half.traced").write_bytes(b"half")
    assert traces.find("half") is None


def test_the_oldest_programs_go_first(folder, monkeypatch):
    monkeypatch.setattr(traces, "MOST_KEPT", 2)
    for place in range(3):
        traces.make(str(place), program, (Static(jnp.sin),), (np.ones(2),), lambda jaxpr: None)
        os.utime(folder / f"{place}.traced", (place, place))
    assert {path.stem for path in folder.glob("*.traced")} == {"1", "2"}


def test_what_is_too_large_is_not_written(folder, monkeypatch):
    monkeypatch.setattr(traces, "LARGEST", 100)
    assert traces.make("large", program, (Static(jnp.sin),), (np.ones(2),), lambda jaxpr: None) is not None
    assert not list(folder.iterdir())


def test_files_that_nobody_has_finished_are_removed(folder):
    for place, age in ((".old.part", 0), (".new.part", None)):
        (folder / place).write_bytes(b"")
        if age is not None:
            os.utime(folder / place, (age, age))
    traces.keep_in(folder)
    assert [path.name for path in folder.glob(".*.part")] == [".new.part"]


@pytest.fixture
def cached(folder, monkeypatch):
    """As after `enable_compilation_cache`; counts what is read and made."""
    calls = []
    for each in ("find", "make"):
        real = getattr(traces, each)
        monkeypatch.setattr(traces, each, lambda *args, each=each, real=real: calls.append(each) or real(*args))
    assert compilation.is_cached()
    return calls


BATCH = jills.Batch(np.linspace(-1, 1, 22).reshape(11, 2), np.linspace(0, 1, 11)[:, None])
ALGORITHM = jills.adam.build(NETWORK)


def trained(**options):
    start = NETWORK.init(jax.random.key(0), "float64")
    return jills.run(ALGORITHM, ALGORITHM.defaults, start, BATCH, 2, **options)


def swept():
    start = lambda key: NETWORK.init(key, "float64")  # noqa: E731 used at once
    return jills.sweep(ALGORITHM, ALGORITHM.defaults, start, jax.random.split(jax.random.key(0), 2), 2, batches=BATCH)


@pytest.mark.parametrize("train", [trained, swept])
def test_a_program_is_read_once_in_a_process(train, cached):
    first = train()
    count = len(cached)
    assert count > 0
    again = train()
    assert len(cached) == count
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.tree.leaves(one.state if train is swept else one) for one in (first, again)),
    )


def test_what_cannot_be_kept_is_tried_once(cached):
    def loud(params):
        jax.debug.callback(lambda value: None, params[0].bias[0])
        return params[0].bias[0]

    tried = []
    for _ in range(2):
        _, info = trained(metrics=loud)
        assert np.isfinite(info.metrics).all()
        tried.append(cached.count("make"))
    assert 0 < tried[0] == tried[1]


def test_inside_of_other_programs_and_while_jax_looks_nothing_is_kept(cached):
    jax.jit(lambda: trained()[0].loss)()
    jax.vmap(lambda rate: jills.run(ALGORITHM, jills.adam.Hparams(rate), NETWORK.init(jax.random.key(0)), BATCH, 2))(
        jnp.ones(2)
    )
    with jax.debug_nans(True):
        trained()
    with jax.disable_jit():
        NETWORK.init(jax.random.key(0))
    assert not cached


SCRIPT = """
import sys
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

def problem(key):
    return jax.tree.map(lambda leaf: FACTOR * leaf, network.init(key))

rng = np.random.default_rng(0)
batch = jills.Batch(rng.normal(size=(20, 2)).astype("float32"), rng.normal(size=(20, 1)).astype("float32"))
network = jills.Network((2, 3, 1), jills.activations.tanh)
metrics = lambda params: {"square": params[0].weight[0, 0] ** 2}
for algorithm in (jills.gauss_newton.build(network), jills.evidence.build(network)):
    state, info = jills.run(algorithm, algorithm.defaults, network.init(jax.random.key(0)), batch, 3, metrics=metrics)
    print(float(state.loss).hex(), float(info.metrics["square"][-1]).hex())
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
