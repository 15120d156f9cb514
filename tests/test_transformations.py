"""Runs under the transformations and flags of JAX that users put around them, and what makes that possible."""

import importlib.util
import inspect
import pickle
import re
import textwrap
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, init, problem
from jax import export
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from joblib import Parallel, delayed

import jills
from jills import transformations
from jills.functions import Static

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
LOOPING = ("gauss_newton", "gauss_newton_quasi", "gauss_newton_minibatch")
"""Those that go forward only."""


@pytest.fixture
def cloudpickle():
    """It comes with joblib from 1.6 on, and with much else."""
    return pytest.importorskip("cloudpickle")


def train(case, params, batch, num_steps=2, **options):
    return jills.run(case.algorithm, case.hparams, params, batch, num_steps, **options)


def assert_equal(one, other, rtol=0.0, atol=0.0):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# `jax.shard_map`, with its check of types. One device shows what it refuses; nothing is compiled for that.


def over_devices(function, *split):
    """`function` of arrays that a mesh splits, as every device sees its own part."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))
    specs = tuple(PartitionSpec("devices") if each else PartitionSpec() for each in split)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("devices"))


# The line search of optax.lbfgs has itself a `lax.cond` with a constant in one branch.
@pytest.mark.parametrize("name", [name for name in CASES if name != "lbfgs"])
def test_shard_map_with_its_check(name, key):
    """Whatever varies over the devices, hyperparameters, rows or all; and with a vmap or without."""
    case = CASES[name]
    params, batch = problem(key)
    state = jax.eval_shape(case.algorithm.init, params, batch)
    hparams = jax.tree.map(jnp.asarray, case.hparams)
    many = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype))
    run = partial(jills.run, case.algorithm, num_steps=2, stop=jills.Stop(target_loss=1e-3))

    def check(function, split, *given):
        function = jax.vmap(function, tuple(0 if each else None for each in split))
        given = (many(tree) if each else tree for each, tree in zip(split, given, strict=True))
        jax.eval_shape(over_devices(function, *split), *given)

    check(run, (True, False, False), hparams, params, batch)
    check(run, (False, False, True), hparams, params, batch)
    check(run, (False, True, True), hparams, state, batch)
    check(case.algorithm.step, (False, True, True), hparams, state, batch)
    check(case.algorithm.observe, (True, False), state, batch)
    alone = lambda params: jax.tree.map(  # noqa: E731 used once
        lambda leaf: leaf[None], run(hparams, jax.tree.map(lambda leaf: leaf[0], params), batch)
    )
    jax.eval_shape(over_devices(alone, True), jax.tree.map(lambda leaf: leaf[None], params))


@pytest.mark.parametrize("name", ["adam", "gauss_newton_minibatch"])
def test_shard_map_changes_no_number(name, key):
    """Of those that choose by `transformations.cond`."""
    case = CASES[name]
    given = jax.vmap(problem)(jax.random.split(key, 2))
    many = jax.vmap(partial(train, case))
    plain, sharded = jax.jit(many)(*given), jax.jit(over_devices(many, True, True))(*given)
    assert_equal(sharded, plain, rtol=1e-6, atol=1e-12)


# Flags.


@cases
def test_a_run_that_stops_holds_no_nan_while_jax_looks_for_it(case, key):
    """Outside of `jax_debug_nans` a stopped member records NaN; the program is the same."""
    stop = jills.Stop(target_loss=1e9)
    state, plain = train(case, *problem(key), stop=stop)
    with jax.debug_nans(True):
        _, info = train(case, *problem(key), stop=stop)
    assert state.step == 1
    blanks = jax.tree.leaves(case.algorithm.blank_detail)
    for number, kept, told in zip(blanks, jax.tree.leaves(plain.detail), jax.tree.leaves(info.detail), strict=True):
        np.testing.assert_array_equal(kept[1:], np.broadcast_to(number, kept[1:].shape))
        np.testing.assert_array_equal(told[1:], 0)


@pytest.fixture(params=["jax_debug_nans", "jax_debug_infs"])
def flag(request):
    """For all threads; a context manager holds in its own only, and a sweep has others."""
    jax.config.update(request.param, True)
    yield
    jax.config.update(request.param, False)


def test_a_sweep_holds_no_nan_or_infinity_while_jax_looks_for_it(flag, key):
    case, keys = CASES["adam"], jax.random.split(key, 2)
    result = jills.sweep(case.algorithm, case.grids[0], problem, keys, 4, 2, stop=jills.Stop(target_loss=1e9))
    assert (result.state.step == 1).all()


def test_a_run_and_a_start_hold_no_infinity_while_jax_looks_for_it(key):
    with jax.debug_infs(True):
        state = CASES["adam"].algorithm.init(*problem(key))
        train(CASES["adam"], *problem(key))  # with a target of minus infinity
    assert np.isfinite(state.best_loss)


def test_a_run_that_diverges_raises_while_jax_looks_for_nan(key):
    params, batch = problem(key)
    infinite = jax.tree.map(lambda leaf: jnp.sign(leaf) * jnp.inf, params)
    assert np.isnan(train(CASES["adam"], infinite, batch)[0].loss)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        train(CASES["adam"], infinite, batch)


@pytest.mark.parametrize("name", ["ills", "gauss_newton", "adam"])
def test_without_jit_the_numbers_are_the_same(name, key):
    case = CASES[name]
    params, batch = problem(key)
    steps = 2 if name == "adam" else 1  # each operation is compiled by itself
    whole, _ = train(case, params, batch, steps)
    # Not strictly: then JAX, without its jit, takes an `IntEnum` for an array of 64 bits.
    with jax.disable_jit(), jax.numpy_dtype_promotion("standard"):
        state, _ = train(case, params, batch, 1)
        if name == "adam":
            state, _ = case.algorithm.step(case.hparams, state, batch)
            state = case.algorithm.observe(state, batch)
    assert_equal(state.params, whole.params, rtol=1e-6, atol=1e-12)


@cases
def test_strict_promotion_of_dtypes_and_ranks(case, key):
    """It holds in all other tests too; here by name, and in 32 bits."""
    params, batch = problem(key, "float32")
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state, _ = jax.eval_shape(partial(train, case), params, batch)
        state, _ = jax.eval_shape(case.algorithm.step, case.hparams, state, batch)
        state = jax.eval_shape(case.algorithm.observe, state, batch)
        predictions = jax.eval_shape(NETWORK.predict, state.params, batch.inputs)
    assert predictions.dtype == state.loss.dtype == jnp.float32


# Programs and processes.


@pytest.mark.parametrize("name", ["ills", "gauss_newton", "gauss_newton_minibatch", "adam"])
def test_an_exported_run_gives_the_same_numbers(name, key):
    case = CASES[name]
    params, batch = problem(key)
    program = export.export(jax.jit(partial(train, case)))(params, batch)
    if importlib.util.find_spec("flatbuffers"):  # JAX needs it to write programs
        program = export.deserialize(program.serialize())
    assert_equal(program.call(params, batch), train(case, params, batch), rtol=1e-10, atol=1e-12)


@cases
def test_what_comes_back_from_a_pickle_is_equal_and_compiles_nothing(case, key, cloudpickle):
    params, batch = problem(key)
    state, info = train(case, params, batch)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        parts = (case.algorithm, case.hparams, jills.Stop(), NETWORK, case.algorithm.loss)
        algorithm, hparams, stop, *others = pickle.loads(dumps(parts))
        assert (algorithm, hparams, stop, *others) == parts
        assert hash(algorithm) == hash(case.algorithm)
        assert Static(algorithm) == Static(case.algorithm)  # so that a program is found again
        assert_equal(pickle.loads(dumps((state, info))), (state, info))
        again = jills.run(algorithm, hparams, params, batch, 2, stop=stop)
        assert_equal(again, (state, info))


def test_lambdas_cross_by_cloudpickle(key, cloudpickle):
    squared = jills.losses.squared_error
    loss = jills.Loss(lambda z, y: squared.value(z, y), squared.gradient, squared.curvature)
    bent = jills.Activation(lambda h: jnp.tanh(h), lambda h: 1.0 - jnp.square(jnp.tanh(h)))
    algorithm = jills.adam.build(jills.Network((3, 5, 2), bent), loss)
    copy = cloudpickle.loads(cloudpickle.dumps(algorithm))
    given = (jills.adam.Hparams(0.1), *problem(key), 2)
    assert_equal(jills.run(copy, *given), jills.run(algorithm, *given))


def train_in_64_bits(seed):
    """In a process of its own, which starts with JAX as it comes."""
    with jax.enable_x64(True):
        params, batch = problem(jax.random.key(seed))
        state, _ = train(CASES["adam"], params, batch)
        return np.asarray(state.loss)


@pytest.mark.slow
def test_processes_of_joblib_give_the_same_numbers():
    found: Any = Parallel(n_jobs=2)(delayed(train_in_64_bits)(seed) for seed in range(2))
    np.testing.assert_allclose(found, [train_in_64_bits(seed) for seed in range(2)], rtol=1e-12)


@pytest.mark.parametrize("name", ["ills", "adam"])
def test_a_step_may_take_its_state_for_its_own(name, key):
    """The first, whose parameters came from outside, too."""
    case = CASES[name]
    params, batch = problem(key)
    own = jax.jit(partial(case.algorithm.step, case.hparams), donate_argnums=0)
    state = case.algorithm.init(params, batch)
    for _ in range(2):
        state, _ = own(state, batch)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert_equal(state.params, train(case, params, batch)[0].params, rtol=1e-6, atol=1e-12)


def test_runs_inside_other_loops(key):
    case = CASES["adam"]
    params, batch = problem(key)
    state = init(case.algorithm, params, batch)

    def go_on(state, _=None):
        state, info = train(case, state, batch)
        return state, info.loss

    whole = train(case, params, batch, 4)
    after, losses = jax.jit(lambda state: jax.lax.scan(jax.checkpoint(go_on), state, length=2))(state)
    np.testing.assert_allclose(losses.ravel(), whole[1].loss, rtol=1e-10)
    looped = jax.lax.while_loop(lambda state: state.step < 4, lambda state: go_on(state)[0], state)
    np.testing.assert_allclose([after.loss, looped.loss], whole[0].loss, rtol=1e-10)
    assert jax.eval_shape(go_on, state)[1].shape == (2,)
    with jax.checking_leaks():
        jax.make_jaxpr(go_on)(state)


# Derivatives.


@pytest.mark.parametrize("name", ["ills", "adam", *LOOPING])
def test_derivatives_go_through_a_run(name, key):
    """Of the final loss, along a line through hyperparameters, parameters and rows, against differences."""
    case = CASES[name]
    hparams = jax.tree.map(lambda leaf: jnp.asarray(leaf + 1e-4), case.hparams)
    flat, rebuild = ravel_pytree((hparams, *problem(key)))
    along, width = jax.random.normal(jax.random.key(1), flat.shape) * jnp.abs(flat), 1e-6

    @jax.jit
    def function(flat):
        hparams, params, batch = rebuild(flat)
        return jills.run(case.algorithm, hparams, params, batch, 2)[0].loss

    with jax.numpy_dtype_promotion("standard"):  # Optax takes powers of an integer count
        slope = (function(flat + width * along) - function(flat - width * along)) / (2 * width)
        # With a vmap, as `jax.jacfwd` has one, or a gradient for each member.
        forward = jax.jit(jax.vmap(lambda tangent: jax.jvp(function, (flat,), (tangent,))[1]))(along[None])[0]
        np.testing.assert_allclose(forward, slope, rtol=1e-4)
        if name not in LOOPING:
            backward = jax.jit(jax.vmap(jax.grad(function)))(flat[None])[0]
            np.testing.assert_allclose(jnp.vdot(backward, along), slope, rtol=1e-4)


@pytest.mark.parametrize("name", LOOPING)
def test_reverse_mode_is_refused_in_words_where_loops_follow_the_data(name, key):
    case = CASES[name]
    params, batch = problem(key)
    state = jax.eval_shape(case.algorithm.init, params, batch)
    hparams = jax.tree.map(jnp.asarray, case.hparams)

    def run(params):
        return train(case, params, batch)[0].params[0].bias[0]

    def once(hparams, state):
        return case.algorithm.step(hparams, state, batch)[0].params[0].bias[0]

    words = r"reverse mode .* line searches .* jax\.jacfwd.* jills\.run"
    with pytest.raises(NotImplementedError, match=words):
        jax.eval_shape(jax.vmap(jax.grad(run)), jax.tree.map(lambda leaf: leaf[None], params))
    with pytest.raises(NotImplementedError, match=words):
        jax.eval_shape(jax.jacrev(once), hparams, state)


def test_the_recipe_for_derivatives_of_a_minimum(key):
    """The lines in the docstring of `jills.run`, against differences of whole trainings."""
    page = re.search(r"for example::\n\n(.*)", inspect.getdoc(jills.run) or "", re.DOTALL)
    assert page is not None
    start, batch = problem(key)
    algorithm = CASES["gauss_newton"].algorithm
    names = {"jax": jax, "jnp": jnp, "jills": jills, "algorithm": algorithm, "start": start}
    exec(compile(textwrap.dedent(page[1]), "jills/training/run.py", "exec"), names)
    _, other = problem(jax.random.key(1))

    @jax.jit
    def outer(decay, batch):
        return algorithm.loss_of(names["minimum"](decay, batch), other)

    given = jnp.asarray(0.05), batch
    along = jnp.asarray(0.01), jax.tree.map(lambda leaf: 0.1 * jax.random.normal(key, leaf.shape), batch)
    forth, back = (jax.tree.map(lambda x, d, t=t: x + t * d, given, along) for t in (1e-4, -1e-4))
    slope = (outer(*forth) - outer(*back)) / 2e-4
    gradient = jax.jit(jax.grad(outer, argnums=(0, 1)))(*given)
    found = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
    np.testing.assert_allclose(found, slope, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(partial(jax.jvp, outer))(given, along)[1], slope, rtol=1e-4)


# What makes it possible.


def test_outside_of_shard_map_nothing_is_done():
    ones = jnp.ones(3)
    assert transformations.alike([ones], ones)[0] is ones
    text = str(jax.make_jaxpr(lambda x: transformations.cond(x > 0, jnp.sin, jnp.cos, x))(1.0))
    assert "cond[" in text


def test_a_choice_under_shard_map_is_that_of_a_cond():
    def choose(x):
        return transformations.cond(x > 0, lambda x: (x, jnp.ones(())), lambda x: (-x, jnp.zeros(())), x)

    found = over_devices(jax.vmap(choose), True)(jnp.array([-2.0, 3.0]))
    assert_equal(found, (jnp.array([2.0, 3.0]), jnp.array([0.0, 1.0])))


def test_forward_only_is_the_identity_and_lets_integers_be():
    def double(x):
        values, count = transformations.forward_only((2.0 * x, jnp.asarray(3)), "here is no way back")
        return jnp.sum(values) * count

    x = jnp.arange(3.0)
    assert double(x) == jax.jit(double)(x) == 18
    np.testing.assert_array_equal(jax.jacfwd(double)(x), 6.0)
    with pytest.raises(NotImplementedError, match="here is no way back"):
        jax.grad(double)(x)


@pytest.mark.parametrize("name", ["ills", "adam", *LOOPING])
def test_what_enters_and_leaves_a_run_is_registered_for_export(name, key):
    """Once; who asks again is told so by JAX, but not by `exported`."""
    case = CASES[name]
    results = jax.eval_shape(partial(train, case), *problem(key))
    trees, kinds = [problem(key), case.hparams, jills.Stop(), *results], set()
    while trees:
        tree = trees.pop()
        kinds |= {type(tree)} if hasattr(tree, "_fields") else set()
        assert not isinstance(tree, dict)  # with keys that are numbers, as those of layers, it could not stand there
        trees += tree if isinstance(tree, tuple) else ()
    assert {jills.State, jills.Layer, jills.Batch, jills.Info, jills.Stop, type(case.hparams)} <= kinds
    for kind in kinds:
        with pytest.raises(ValueError, match=kind.__name__):
            export.register_namedtuple_serialization(kind, serialized_name=f"another {kind}")
        assert transformations.exported(kind) is kind
