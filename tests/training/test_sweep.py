"""`sweep` and `grid`: many members, one program, and what happens between its chunks."""

import io
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, problem
from jax.tree_util import Partial

import jills
from jills import results
from jills.training import chunks

ADAM = CASES["adam"].algorithm
RATES = jills.adam.Hparams(jnp.array([0.01, 0.1, 0.3]))


@pytest.fixture
def keys(key):
    return jax.random.split(key, 5)


@pytest.mark.parametrize("name", ["adam", "ills"])
def test_each_member_is_a_run(name, keys):
    algorithm, numbers = CASES[name].algorithm, CASES[name].grids[1]
    result = jills.sweep(algorithm, numbers, problem, keys, 7, 3)
    assert result.info.loss.shape == (2, 5, 7)
    for h in range(2):
        for s in (0, 4):
            one = jax.tree.map(lambda leaf, h=h: leaf if jnp.ndim(leaf) == 0 else leaf[h], numbers)
            state, info = jills.run(algorithm, one, *problem(keys[s]), 7)
            np.testing.assert_allclose(result.info.loss[h, s], info.loss, rtol=1e-8)
            alone = jax.tree.map(lambda leaf, h=h, s=s: leaf[h, s], result.state)
            chex.assert_trees_all_close(alone.params, state.params, rtol=1e-7, atol=1e-10)


def test_chunks_do_not_change_the_result(keys):
    whole = jills.sweep(ADAM, RATES, problem, keys, 7, 7)
    for chunk_steps in (1, 3, 50):
        parts = jills.sweep(ADAM, RATES, problem, keys, 7, chunk_steps)
        # Rows that `problem` computes may differ in their last bits from one program to another.
        state = parts.state._replace(fingerprint=whole.state.fingerprint)
        chex.assert_trees_all_close((state, parts.info), (whole.state, whole.info), rtol=1e-12)


def test_members_at_a_time_do_not_change_the_result(keys):
    one = jills.sweep(CASES["ills"].algorithm, CASES["ills"].grids[0], problem, keys, 3)
    more = jills.sweep(CASES["ills"].algorithm, CASES["ills"].grids[0], problem, keys, 3, batch_size=2)
    chex.assert_trees_all_close(one.state.params, more.state.params, rtol=1e-7, atol=1e-9)


def test_grid_is_two_vmaps_of_any_function(keys):
    def train(hparams, key):
        return hparams["a"] * jax.random.normal(key, (2,)) + hparams["b"]

    hparams = {"a": jnp.array([1.0, 2.0, 3.0]), "b": 0.5}
    values = jills.grid(train, hparams, keys)
    assert values.shape == (3, 5, 2)
    np.testing.assert_allclose(values[2, 4], 3.0 * jax.random.normal(keys[4], (2,)) + 0.5)


def test_grid_and_sweep_agree(keys):
    case = CASES["ills"]
    result = jills.sweep(case.algorithm, case.grids[0], problem, keys, 3)
    losses = jax.jit(
        lambda hparams, keys: jills.grid(
            lambda h, k: jills.run(case.algorithm, h, *problem(k), 3)[0].loss, hparams, keys
        )
    )(case.grids[0], keys)
    np.testing.assert_allclose(losses, result.state.loss, rtol=1e-7)


def test_old_style_keys_are_keys():
    new = jills.sweep(ADAM, RATES, problem, jax.random.split(jax.random.key(3), 2), 2)
    old = jills.sweep(ADAM, RATES, problem, jax.random.split(jax.random.PRNGKey(3), 2), 2)
    np.testing.assert_array_equal(new.state.loss, old.state.loss)


def test_on_chunk_sees_steps_losses_and_who_has_stopped(keys):
    seen = []
    result = jills.sweep(ADAM, RATES, problem, keys, 7, 3, lambda *told: seen.append(told))
    assert [step for step, _, _ in seen] == [3, 6, 7]
    assert seen[0][1].shape == seen[0][2].shape == (3, 5)
    np.testing.assert_array_equal(seen[-1][1], result.state.loss)
    assert not seen[-1][2].any()


def test_interruption_keeps_whole_chunks(keys):
    def interrupt(step, loss, stopped):
        if step == 6:
            raise KeyboardInterrupt

    result = jills.sweep(ADAM, RATES, problem, keys, 50, 3, interrupt)
    shorter = jills.sweep(ADAM, RATES, problem, keys, 6, 3)
    assert result.interrupted
    assert not shorter.interrupted
    assert result.num_steps == 6
    chex.assert_trees_all_equal((result.state, result.info), (shorter.state, shorter.info))


def test_an_error_of_on_chunk_keeps_what_is_complete(keys):
    """As of a pruner: the chunk that it was told of is kept, with a warning, and the error is in the result."""

    def prune(step, loss, stopped):
        if step == 6:
            raise RuntimeError("pruned")

    with pytest.warns(UserWarning, match=r"on_chunk raised RuntimeError\('pruned'\); the sweep ends after 6 steps"):
        result = jills.sweep(ADAM, RATES, problem, keys, 50, 3, prune)
    shorter = jills.sweep(ADAM, RATES, problem, keys, 6, 3)
    assert result.interrupted
    assert str(result.error) == "pruned"
    assert result.num_steps == 6
    chex.assert_trees_all_equal((result.state, result.info), (shorter.state, shorter.info))


def test_all_stopped_ends_early_with_the_same_records(keys):
    """The chunks left out would have shown members standing still, and that is what is recorded."""
    seen = []
    stop = jills.Stop(update_norm=1e9)  # every first update is smaller
    result = jills.sweep(ADAM, RATES, problem, keys, 7, 3, lambda step, *_: seen.append(step), stop=stop)
    assert seen == [3, 6]
    assert (result.state.result == results.SETTLED).all()
    assert (result.state.step == 1).all()
    whole = jills.sweep(ADAM, RATES, problem, keys, 7, 7, stop=stop)
    chex.assert_trees_all_equal((result.state, result.info), (whole.state, whole.info))


def test_metrics_of_the_sweep_and_of_the_member(keys):
    def squared(params):
        return {"size": sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))}

    def with_own(key):
        params, batch = problem(key)
        return params, batch, Partial(lambda inputs, params: {"own": NETWORK.predict(params, inputs)}, batch.inputs)

    shared = jills.sweep(ADAM, RATES, problem, keys, 4, 2, metrics=squared)
    np.testing.assert_allclose(shared.info.metrics["size"][0, 2, 0], squared(problem(keys[2])[0])["size"], rtol=1e-12)
    own = jills.sweep(ADAM, RATES, with_own, keys, 4, 2)
    params, batch = problem(keys[1])
    np.testing.assert_allclose(own.info.metrics["own"][2, 1, 0], NETWORK.predict(params, batch.inputs), rtol=1e-12)


def test_other_data_of_a_partial_do_not_compile_again(keys, monkeypatch):
    chex.clear_trace_counter()
    kind = type(ADAM)
    monkeypatch.setattr(kind, "update", chex.assert_max_traces(1)(kind.update))

    def start(batch, key):
        return NETWORK.init(key), batch

    losses = []
    for number, key in enumerate(keys):
        batch = problem(key)[1]
        losses.append(jills.sweep(ADAM, RATES, Partial(start, batch), keys[:2], 3).state.loss)
        assert not np.array_equal(losses[number], losses[0]) or number == 0


@dataclass(frozen=True)
class Study:
    """What a user's own class may look like."""

    scale: float

    def problem(self, key):
        params, batch = problem(key)
        return params, batch._replace(targets=self.scale * batch.targets)


def scaled(scale, key):
    params, batch = problem(key)
    return params, batch._replace(targets=scale * batch.targets)


MAKERS = {
    "lambda": lambda scale: lambda key: scaled(scale, key),
    "array": lambda scale: (lambda scale: lambda key: scaled(scale, key))(np.full((1, 2), scale)),
    "partial": lambda scale: partial(scaled, scale),
    "Partial": lambda scale: Partial(lambda scale, key: scaled(scale, key), jnp.asarray(scale)),
    "Partial of partial": lambda scale: Partial(partial(scaled, scale)),
    "method": lambda scale: Study(scale).problem,
}


@pytest.mark.parametrize("name", MAKERS)
def test_problems_made_anew_do_not_compile_again(name, keys, monkeypatch):
    chex.clear_trace_counter()
    kind = type(ADAM)
    monkeypatch.setattr(kind, "update", chex.assert_max_traces(1 if name == "Partial" else 2)(kind.update))
    for scale in (1.0, 2.0, 1.0, 2.0):
        result = jills.sweep(ADAM, RATES, MAKERS[name](scale), keys[:2], 1, metrics=lambda params: params[0].bias)
        params, batch = problem(keys[1])
        start = np.mean((NETWORK.predict(params, batch.inputs) - scale * batch.targets) ** 2)
        np.testing.assert_allclose(result.info.loss[:, 1, 0], start, rtol=1e-10)
        np.testing.assert_allclose(result.info.metrics[0, 1, 0], params[0].bias, rtol=1e-12)


def test_a_problem_that_counts_its_calls_does_not_compile_again(keys, monkeypatch):
    chex.clear_trace_counter()
    calls = []
    monkeypatch.setattr(type(ADAM), "update", chex.assert_max_traces(1)(type(ADAM).update))

    def counting():
        return lambda key: (calls.append(1), problem(key))[1]

    for _ in range(3):
        jills.sweep(ADAM, RATES, counting(), keys[:2], 2)


def test_a_whole_result_goes_on_with_its_own_only(keys):
    first = jills.sweep(ADAM, RATES, problem, keys, 3)

    def go_on(algorithm: Any = ADAM, hparams: Any = RATES, keys: Any = keys, state: Any = first):
        return jills.sweep(algorithm, hparams, problem, keys, 3, state=state)

    whole = jills.sweep(ADAM, RATES, problem, keys, 6, 3)
    second = go_on()
    chex.assert_trees_all_equal(second.state, whole.state)
    assert second.algorithm == first.algorithm
    narrow = go_on(hparams=jills.adam.Hparams(jnp.array([0.01, 0.1, 0.3], "float32")))  # the same, in fewer digits
    np.testing.assert_allclose(narrow.state.loss, whole.state.loss, rtol=1e-3)
    swapped = jills.adam.Hparams(jnp.array([0.1, 0.01, 0.3]), b1=0.8)
    refused: Any = (
        ({"hparams": swapped}, r"other hyperparameters \(learning_rate .*, b1 was \[0.9\] and is \[0.8\]\)"),
        ({"keys": keys[::-1]}, r"other keys \(5 then, 5 now\)"),
        ({"keys": keys[:2]}, r"other keys \(5 then, 2 now\)"),
        (
            {"algorithm": jills.adam.build(NETWORK, jills.losses.huber(0.5))},
            r"another algorithm \(loss was jills.losses.squared_error and is jills.Loss,",
        ),
        (
            {"algorithm": jills.adam.build(jills.Network((3, 5, 2), jills.activations.relu))},
            r"\(network.activation was jills.activations.tanh and is jills.activations.relu\)",
        ),
        (
            {"algorithm": jills.adam.build(jills.Network((3, 7, 2), jills.activations.tanh)), "keys": keys[1:]},
            r"network.sizes was \(3, 5, 2\) and is \(3, 7, 2\)\) and other keys .* state=result.state in place",
        ),
    )
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            go_on(**options)
    assert np.isfinite(go_on(hparams=swapped, keys=keys[::-1], state=first.state).state.loss).all()
    untold = first._replace(keys=None, hparams=None, algorithm="")
    assert np.isfinite(go_on(hparams=swapped, state=untold).state.loss).all()


def test_a_start_without_any_finite_member_is_an_error(keys):
    def bad(key):
        params, batch = problem(key)
        return params, batch._replace(targets=batch.targets + jnp.nan * jax.random.uniform(key))

    with pytest.raises(ValueError, match="every member starts with NaN or inf"):
        jills.sweep(ADAM, RATES, bad, keys, 3)


def test_a_sweep_that_cannot_fit_is_refused_before_it_compiles(keys):
    """By its records, or by states that hold a million rows of activations each."""

    def large(key):
        inputs = jnp.broadcast_to(jax.random.uniform(key, (1, 3)), (10**6, 3))
        return NETWORK.init(key), jills.Batch(inputs, inputs[:, :2])

    with pytest.raises(MemoryError, match=r"of 3 x 5 members needs at least \d+"):
        jills.sweep(ADAM, RATES, problem, keys, 2**31 - 1)
    with pytest.raises(MemoryError, match=r"of 2 x 100000 members needs at least \d+"):
        jills.sweep(CASES["ills"].algorithm, CASES["ills"].grids[0], large, jax.random.split(keys[0], 100_000), 10)


def test_what_cannot_fit_is_told_before_rows_are_laid_out(keys, monkeypatch):
    """Which takes memory itself."""
    monkeypatch.setattr(chunks, "make_plan", None)
    with pytest.raises(MemoryError, match="of 3 x 5 members needs at least"):
        jills.sweep(ADAM, RATES, problem, keys, 2**31 - 1)


def test_progress_bar_writes_one_line():
    stream = io.StringIO()
    show = jills.progress_bar(4, "adam", stream)
    show(2, np.array([[1.0, np.nan]]), np.array([[False, True]]))
    show(4, np.array([[0.5, np.nan]]), np.array([[False, True]]))
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "4/4" in text
    assert "median loss 0.5, 1 of 2 stopped" in text
    jills.progress_bar(1, "", stream)(1, np.array([[np.inf]]), np.array([[True]]))
    assert "median loss none finite" in stream.getvalue()


SCRIPT = """
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", {devices})
import jax.numpy as jnp
import numpy as np
from contract import CASES, NETWORK, problem
import jills

case, keys = CASES["ills"], jax.random.split(jax.random.key(0), 40)
case = case._replace(algorithm=jills.ills.build(NETWORK, solver=jills.solvers.qr))  # QR and, where it must, SVD
for _ in range(3):
    result = jills.sweep(case.algorithm, case.grids[0], problem, keys, 20, 5)
pure = lambda h, k: jills.grid(lambda h, k: jills.run(case.algorithm, h, *problem(k), 20)[0].loss, h, k)
if {devices} == 1:
    grid = jax.jit(pure)
    for _ in range(3):
        losses = jax.block_until_ready(grid(case.grids[0], keys))
    every = (result.state.loss, losses)
else:
    mesh = jax.make_mesh(({devices},), ("any",))
    shared = jills.sweep(case.algorithm, case.grids[0], problem, keys, 20, 5, mesh=mesh)
    devices, split = jax.sharding.Mesh(jax.devices(), ("any",)), jax.P("any")
    over = jax.jit(jax.shard_map(pure, mesh=devices, in_specs=(jax.P(), split), out_specs=jax.P(None, "any")))
    every = (result.state.loss, shared.state.loss, over(case.grids[0], keys))
print(*(float(np.sum(each)) for each in every))
"""


def test_threads_keep_the_dtype_of_the_caller(key):
    """JAX's context managers hold for one thread; the sweep's own threads must not fall back to 32 bits."""
    keys = jax.random.split(key, 2)
    wide = jills.sweep(ADAM, RATES, problem, keys, 2)
    with jax.enable_x64(False):
        narrow = jills.sweep(ADAM, RATES, lambda key: problem(key, "float32"), keys, 2)
    jax.config.update("jax_enable_x64", False)
    try:
        with jax.enable_x64(True):
            again = jills.sweep(ADAM, RATES, problem, keys, 2)
    finally:
        jax.config.update("jax_enable_x64", True)
    assert narrow.state.loss.dtype == np.float32
    np.testing.assert_array_equal(wide.state.loss, again.state.loss)


@pytest.mark.slow
def test_nothing_hangs_on_one_device_or_two():
    """Threads on one CPU device, shard_map over two (ours and a user's), vmaps around LAPACK: each ends, all agree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    totals = []
    for devices in (1, 2):
        script = SCRIPT.format(devices=devices)
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=True
        )
        totals += [float(number) for number in done.stdout.split()]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-6)
