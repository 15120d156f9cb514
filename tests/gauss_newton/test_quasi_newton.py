"""Quasi-Newton iterations of all layers: their direction against matrices of NumPy, and where they lead."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jills
from jills import activations, gauss_newton, losses
from jills.quasi_newton import Pairs

NETWORK = jills.Network((3, 23, 2), activations.tanh)  # 140 parameters: more than are solved as a matrix
ALGORITHM = gauss_newton.build(NETWORK)
STEPS = 40


def noisy(key, dtype="float64", n=101):
    """Targets that no network meets."""
    inputs = jax.random.normal(key, (n, 3), dtype)
    noise = jax.random.normal(jax.random.fold_in(key, 1), (n, 2), dtype)
    targets = jnp.stack([jnp.sin(2 * inputs[:, 0]), inputs[:, 1] * inputs[:, 2]], axis=1) + 0.5 * noise
    return NETWORK.init(key, dtype), jills.Batch(inputs, targets, jnp.ones(n, dtype))


@jax.jit
def train(params, batch, hparams=gauss_newton.Hparams()):
    return jills.run(ALGORITHM, hparams, params, batch, STEPS)


def test_a_larger_network_is_one_block():
    build: Any = gauss_newton.build
    assert build(NETWORK).blocks == ((0, 1),)
    small = jills.Network((3, 5, 2), activations.tanh)
    assert build(small).blocks == gauss_newton.default_blocks(small)
    without = gauss_newton.Automatic(quasi_newton=None)
    assert build(NETWORK, linear_solver=without).blocks == gauss_newton.default_blocks(NETWORK)
    assert build(jills.Network((101, 2))).blocks == ((0, 0),)  # linear: one exact solve


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), seen=st.integers(0, 5))
def test_the_direction_is_that_of_the_inverse_as_a_matrix(seed, seen):
    """H = (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ for every pair, from γ P."""
    rng, p = np.random.default_rng(seed), 7
    root, other = rng.normal(size=(2, p, p))
    curvature, start = root @ root.T + np.eye(p), other @ other.T + np.eye(p)
    pairs, inverse = Pairs.none(3, p, "float64"), start
    kept = []
    for _ in range(seen):
        change = rng.normal(size=p)
        rise = curvature @ change
        kept = [*kept, (change, rise)][-3:]
        pairs, there = pairs.with_pair(
            jnp.asarray(True), jnp.asarray(change), jnp.asarray(rise), jnp.asarray(start @ rise)
        )
        assert there
    if kept:
        change, rise = kept[-1]
        inverse = start * (change @ rise) / (rise @ start @ rise)
    for change, rise in kept:
        left = np.eye(p) - np.outer(change, rise) / (change @ rise)
        inverse = left @ inverse @ left.T + np.outer(change, change) / (change @ rise)
    gradient = rng.normal(size=p)
    found = pairs.direction(jnp.asarray(gradient), jnp.asarray(start @ gradient), pairs.rises @ jnp.asarray(start))
    np.testing.assert_allclose(found, -inverse @ gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rise", [[-1.0, 0.0], [0.0, 1.0], [np.nan, 0.0], [0.0, 0.0]])
def test_no_pair_of_no_positive_curvature_is_kept(rise):
    pairs = Pairs.none(3, 2, "float64")
    rise = jnp.asarray(rise)
    new, there = pairs.with_pair(jnp.asarray(True), jnp.asarray([1.0, 0.0]), rise, rise)
    assert not there
    jax.tree.map(np.testing.assert_array_equal, new, pairs)
    forgotten = pairs._replace(inverse=jnp.ones(3), scale=jnp.asarray(0.1)).forgotten(jnp.asarray(True))
    jax.tree.map(np.testing.assert_array_equal, forgotten, pairs)


def test_the_objective_never_rises_and_gets_below_conjugate_gradients(key, dtype):
    """As many trials as those take products."""
    others = gauss_newton.build(NETWORK, linear_solver=gauss_newton.Automatic(quasi_newton=None))
    lowest = []
    for seed in jax.random.split(key, 3):
        params, batch = noisy(seed, dtype)
        hparams = gauss_newton.Hparams(weight_decay=1e-4)
        state, info = train(params, batch, hparams)
        objective = info.detail.objective
        assert np.all(np.diff(objective) <= 0)
        assert info.finite.all()
        assert np.all(info.detail.products <= 10)
        other, told = jills.run(others, hparams, params, batch, STEPS)
        assert np.sum(told.detail.products) > np.sum(info.detail.products)
        lowest.append((float(state.loss), float(other.loss)))
    first, second = np.exp(np.mean(np.log(lowest), axis=0))
    assert first < second


def test_it_ends_where_nothing_is_lower(key):
    """A network that fits its rows to rounding: trials are refused, the damping rises, and the end is told."""
    params, batch = noisy(key, "float32")
    batch = batch._replace(targets=NETWORK.predict(params, batch.inputs))
    state, info = train(params, batch)
    assert state.loss < 1e-12
    assert state.result in (jills.results.AT_MINIMUM, jills.results.SETTLED)
    assert state.step < STEPS
    assert np.max(info.detail.damping[: int(state.step)]) > 1e3
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("power", [-50, 20])
def test_the_units_of_the_targets_do_not_matter(power, key, dtype):
    """Targets and the start's output layer times a power of two: the same bits."""
    params, batch = noisy(key, dtype)
    unit = jnp.asarray(2.0**power, dtype)
    moved = (params[0], jax.tree.map(lambda leaf: leaf * unit, params[1]))
    expected, plain = train(params, batch)
    state, info = train(moved, batch._replace(targets=batch.targets * unit))
    np.testing.assert_array_equal(info.loss, plain.loss * unit**2)
    np.testing.assert_array_equal(state.params[0].weight, expected.params[0].weight)


def test_nor_do_those_of_the_inputs(key):
    params, batch = noisy(key)
    weight = params[0].weight / 1e3
    moved = (jills.Layer(weight, params[0].bias - 500 * weight.sum(axis=0)), params[1])
    _, expected = train(params, batch)
    _, info = train(moved, batch._replace(inputs=batch.inputs * 1e3 + 500))
    np.testing.assert_allclose(info.loss[:10], expected.loss[:10], rtol=1e-5)


def test_a_bad_member_leaves_its_neighbours(key):
    """In a vmap: the same trials as alone, to rounding, whatever another member's rows hold."""
    _, batch = noisy(key)
    keys = jax.random.split(key, 3)
    starts = jax.vmap(lambda one: NETWORK.init(one, "float64"))(keys)
    targets = jnp.stack([batch.targets, 1e300 * batch.targets, batch.targets[::-1]])
    many = jax.jit(
        jax.vmap(lambda start, y: jills.run(ALGORITHM, ALGORITHM.defaults, start, batch._replace(targets=y), 5))
    )
    for bad in (targets, targets.at[1].set(0.0)):
        state, _ = many(starts, bad)
        alone, _ = jills.run(
            ALGORITHM, ALGORITHM.defaults, NETWORK.init(keys[2], "float64"), batch._replace(targets=targets[2]), 5
        )
        np.testing.assert_allclose(state.loss[2], alone.loss, rtol=1e-6)


def test_classes_and_kinks(key):
    network = jills.Network((3, 31, 3), activations.relu)
    inputs = jax.random.normal(key, (101, 3), "float32")
    targets = jax.nn.one_hot(jnp.argmax(jnp.sin(3 * inputs), axis=1), 3, dtype="float32")
    algorithm = gauss_newton.build(network, losses.softmax_cross_entropy)
    batch = jills.Batch(inputs, targets)
    state, info = jills.run(algorithm, algorithm.defaults, network.init(key, "float32"), batch, 30)
    assert np.all(np.diff(info.loss) <= 0)
    assert state.loss < 0.05 * info.loss[0]


def test_pairs_of_other_rows_are_forgotten(key):
    """On inputs in other units the first step is that of a start there."""
    params, batch = noisy(key)
    state, _ = train(params, batch)
    assert np.any(state.inner.pairs.inverse > 0)
    other = batch._replace(inputs=100 * batch.inputs + 50)
    going_on, info = jills.run(ALGORITHM, ALGORITHM.defaults, state, other, 1)
    assert info.detail.accepted[0] > 5
    assert going_on.loss < info.loss[0]


def test_a_single_trial_a_step_gets_on(key):
    """Where it is refused, the next step has more damping and no pairs."""
    single = gauss_newton.Automatic(quasi_newton=gauss_newton.QuasiNewton(trials=1))
    algorithm = gauss_newton.build(NETWORK, linear_solver=single)
    params, batch = noisy(key)
    state, info = jills.run(algorithm, gauss_newton.Hparams(), params, batch, 100)
    assert state.loss < 0.5 * info.loss[0]


@pytest.mark.parametrize("choices", [{"trials": 0}, {"pairs": 0}, {"trials": 2.5}])
def test_choices_below_one_are_refused(choices):
    with pytest.raises(ValueError, match="both must be integers of at least 1"):
        gauss_newton.QuasiNewton(**choices)
