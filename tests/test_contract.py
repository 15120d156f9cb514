"""Every algorithm keeps the same contract: shapes, dtypes, purity, masking, one trace, independence."""

import inspect
import pickle
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, init, problem, step

import jills
from jills import results

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
def test_signatures(case):
    assert list(inspect.signature(case.algorithm.init).parameters) == ["params", "batch"]
    assert list(inspect.signature(case.algorithm.step).parameters) == ["hparams", "state", "batch"]


@cases
def test_an_algorithm_is_a_value(case):
    """Equal to its copy, hashable, picklable: it can be a static argument and cross to other processes."""
    copy = pickle.loads(pickle.dumps(case.algorithm))
    assert copy == case.algorithm
    assert hash(copy) == hash(case.algorithm)


@cases
def test_a_step_keeps_structure_shapes_dtypes_and_weak_types(case, key, dtype):
    params, batch = problem(key, dtype)
    before = jax.eval_shape(case.algorithm.init, params, batch)
    after, _ = jax.eval_shape(case.algorithm.step, case.hparams, before, batch)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)
        assert old.dtype == dtype or not jnp.issubdtype(old.dtype, jnp.floating)
        assert not old.weak_type


@cases
def test_a_stopped_member_records_what_a_step_records(case, key, dtype):
    params, batch = problem(key, dtype)
    state = jax.eval_shape(case.algorithm.init, params, batch)
    _, info = jax.eval_shape(case.algorithm.step, case.hparams, state, batch)
    blank = case.algorithm.blank_detail
    assert jax.tree.structure(info.detail) == jax.tree.structure(blank)
    for told, number in zip(jax.tree.leaves(info.detail), jax.tree.leaves(blank), strict=True):
        assert jnp.issubdtype(told.dtype, jnp.floating) == bool(np.isnan(number))


# All in float32; in float64 each kind once, where `test_other_rows_than_before` holds the loss of all.
LEARNING = [(name, "float32") for name in CASES] + [(name, "float64") for name in ("ills", "gauss_newton", "adam")]


@pytest.mark.parametrize(("name", "dtype"), LEARNING, ids=[f"{dtype}-{name}" for name, dtype in LEARNING])
def test_it_learns_and_tells_the_true_loss(name, key, dtype):
    case = CASES[name]
    params, batch = problem(key, dtype, n=53)
    state, info = jills.run(case.algorithm, case.hparams, params, batch, 60)
    expected = np.mean(np.square(np.array(NETWORK.predict(params, batch.inputs)) - np.array(batch.targets)))
    np.testing.assert_allclose(info.loss[0], expected, rtol=1e-5)
    final = np.mean(np.square(np.array(NETWORK.predict(state.params, batch.inputs)) - np.array(batch.targets)))
    if case.algorithm.full_batch:
        np.testing.assert_allclose(state.loss, final, rtol=1e-3, atol=1e-12)
    if case.algorithm.keeps_activations:
        np.testing.assert_allclose(state.activations[-1], NETWORK.predict(state.params, batch.inputs), atol=1e-5)
    assert state.best_loss <= min(info.loss)
    best = np.mean(np.square(np.array(NETWORK.predict(state.best_params, batch.inputs)) - np.array(batch.targets)))
    np.testing.assert_allclose(state.best_loss, best, rtol=1e-3, atol=1e-12)
    assert state.best_loss < case.share * info.loss[0]
    assert info.finite.all()
    assert state.step == 60 or state.result == results.AT_REST


@cases
def test_the_update_norm_is_that_of_the_change(case, key):
    params, batch = problem(key)
    state, info = step(case.algorithm, case.hparams, init(case.algorithm, params, batch), batch)
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True)
    change = np.concatenate([np.ravel(new - old) for new, old in pairs])
    np.testing.assert_allclose(info.update_norm, np.linalg.norm(change), rtol=1e-10)


@cases
def test_a_row_of_weight_zero_changes_nothing(case, key):
    """Whatever it holds, NaN included; and a row of weight two counts as two rows."""
    params, batch = problem(key)
    twice = jills.Batch(*(jnp.concatenate([rows, rows[:1]]) for rows in (batch.inputs, batch.targets)))
    masked = jills.Batch(
        jnp.concatenate([batch.inputs, jnp.full((2, 3), jnp.nan)]),
        jnp.concatenate([batch.targets, jnp.full((2, 2), jnp.inf)]),
        jnp.concatenate([jnp.ones(11).at[0].set(2), jnp.zeros(2)]),
    )
    plain, _ = jills.run(case.algorithm, case.hparams, params, twice, 3)
    other, info = jills.run(case.algorithm, case.hparams, params, masked, 3)
    chex.assert_trees_all_close(plain.params, other.params, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(plain.loss, other.loss, rtol=1e-7)
    assert info.finite.all()


@cases
def test_three_grids_are_one_trace(case, key, monkeypatch):
    """Other numbers of the same shape do not trace or compile again, in a sweep or in a jitted grid."""
    kind, keys = type(case.algorithm), jax.random.split(key, 3)
    fresh_problem: Any = poisoned(keys[1], 0.0)  # of the next test, whose program is then that of this one

    def train(hparams, key):
        params, batch = fresh_problem(key)
        return jills.run(case.algorithm, hparams, params, batch, 2)[0].loss

    def allow_one_trace():
        monkeypatch.undo()
        chex.clear_trace_counter()
        monkeypatch.setattr(kind, "advance", chex.assert_max_traces(1)(kind.advance))

    allow_one_trace()
    results = [jills.sweep(case.algorithm, numbers, fresh_problem, keys, 3, 2) for numbers in case.grids]
    assert [result.info.loss.shape for result in results] == [(2, 3, 3)] * 3
    allow_one_trace()
    trained = jax.jit(partial(jills.grid, train))
    losses = [trained(numbers, keys) for numbers in case.grids]
    assert losses[0].shape == (2, 3)


def poisoned(bad, harm):
    """`problem` as a `Partial`; where harm is above zero, the inputs of one key are NaN."""

    def with_a_bad_start(bad, harm, key):
        params, batch = problem(key)
        hit = jnp.all(jax.random.key_data(key) == bad) & (harm > 0)
        return params, batch._replace(inputs=batch.inputs + jnp.where(hit, jnp.nan, 0.0))

    return jax.tree_util.Partial(with_a_bad_start, jax.random.key_data(bad), jnp.asarray(harm))


@cases
def test_a_failing_member_leaves_its_neighbours_bit_for_bit(case, key):
    """Against the same sweep with a healthy member in its place."""
    keys = jax.random.split(key, 3)

    def losses(harm):
        return jills.sweep(case.algorithm, case.grids[0], poisoned(keys[1], harm), keys, 4, 2)

    healthy, harmed = losses(0.0), losses(1.0)
    assert (harmed.state.result[:, 1] == results.NON_FINITE).all()
    assert not harmed.info.finite[:, 1].any()
    for one, other in zip(jax.tree.leaves(healthy), jax.tree.leaves(harmed), strict=True):
        if np.ndim(one) >= 2:
            np.testing.assert_array_equal(np.delete(one, 1, axis=1), np.delete(other, 1, axis=1))


@cases
def test_jit_and_vmap_of_a_step(case, key):
    keys = jax.random.split(key, 3)
    params, batch = jax.vmap(problem)(keys)
    states = jax.jit(jax.vmap(case.algorithm.init))(params, batch)
    many, _ = jax.jit(jax.vmap(partial(case.algorithm.step, case.hparams)))(states, batch)
    for index in range(3):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], (states, batch))
        alone, _ = step(case.algorithm, case.hparams, *one)
        chex.assert_trees_all_close(alone.params, jax.tree.map(lambda leaf, i=index: leaf[i], many.params), rtol=1e-7)


def loss_on(params, batch):
    return np.mean(np.square(np.array(NETWORK.predict(params, batch.inputs)) - np.array(batch.targets)))


@cases
@pytest.mark.parametrize("rows", [7, 11])
def test_other_rows_than_before(case, rows, key):
    """A step sees the rows that it is given; with a full batch what was best on others is forgotten."""
    params, batch = problem(key)
    _, other = problem(jax.random.key(1), n=rows)
    state = init(case.algorithm, params, batch)._replace(best_loss=jnp.asarray(0.0))
    after, info = step(case.algorithm, case.hparams, state, other)
    np.testing.assert_allclose(info.loss, loss_on(params, other), rtol=1e-10)
    if case.algorithm.full_batch:
        np.testing.assert_allclose(after.loss, loss_on(after.params, other), rtol=1e-8)
        np.testing.assert_allclose(after.best_loss, min(info.loss, after.loss), rtol=1e-10)
    seen = jax.jit(case.algorithm.observe)(state, other)
    expected = loss_on(params, other)
    np.testing.assert_allclose(seen.loss, expected, rtol=1e-10)
    np.testing.assert_allclose(seen.best_loss, expected if case.algorithm.full_batch else 0.0, rtol=1e-10)


@cases
def test_a_state_is_as_large_as_its_algorithm_needs(case, key):
    """Only what reads activations between steps grows with the rows."""
    shapes = [jax.eval_shape(case.algorithm.init, *problem(key, n=n)) for n in (11, 53)]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(shape)) for shape in shapes]
    assert (sizes[1] > sizes[0]) == case.algorithm.keeps_activations
