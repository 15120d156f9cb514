"""Rows that training does not see choose the best parameters and end it; many data sets in one sweep."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import results

NETWORK = jills.Network((2, 5, 1), jills.activations.tanh)
ALGORITHMS = {
    "ills": (jills.ills.build(NETWORK), jills.ills.Hparams(0.3, 1e-4)),
    "gauss_newton": (jills.gauss_newton.build(NETWORK), jills.gauss_newton.Hparams()),
    "adam": (jills.adam.build(NETWORK), jills.adam.Hparams(0.1)),
    "adam_minibatch": (jills.adam.build(NETWORK, full_batch=False), jills.adam.Hparams(0.1)),
    "evidence": (jills.evidence.build(NETWORK), jills.evidence.Hparams()),
}
NEWTON = ALGORITHMS["gauss_newton"]
MEMBERS, STEPS = 3, 24
algorithms = pytest.mark.parametrize("name", ALGORITHMS)


def table(n, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 2))
    return jills.Batch(inputs, np.sin(2 * inputs[:, :1]) + 0.4 * rng.normal(size=(n, 1)))


TRAIN, HELD_OUT = table(23, 0), table(31, 1)


def start(key):
    return NETWORK.init(key, dtype="float64")


def train(name, **options):
    algorithm, hparams = ALGORITHMS[name]
    return jills.run(algorithm, hparams, start(jax.random.key(0)), TRAIN, STEPS, validation=HELD_OUT, **options)


def loss_on(params, batch):
    return np.mean((np.array(NETWORK.predict(params, batch.inputs)) - batch.targets) ** 2)


@algorithms
def test_the_best_parameters_are_those_of_the_lowest_validation_loss(name):
    state, info = train(name)
    assert info.validation.shape == (STEPS,)
    np.testing.assert_allclose(info.validation[0], loss_on(start(jax.random.key(0)), HELD_OUT), rtol=1e-12)
    last = loss_on(state.params, HELD_OUT)
    np.testing.assert_allclose(state.best_loss, min(info.validation.min(), last), rtol=1e-12)
    np.testing.assert_allclose(loss_on(state.best_params, HELD_OUT), state.best_loss, rtol=1e-12)
    path = np.append(info.validation, last)
    if name != "evidence":  # which may end before
        assert int(state.since_best) == STEPS - path.argmin()


@algorithms
def test_patience_ends_it_so_many_steps_after_the_lowest(name):
    free, info = train(name)
    state, short = train(name, patience=3)
    path = np.append(info.validation, loss_on(free.params, HELD_OUT))
    lows = np.minimum.accumulate(path)
    ends = [t for t in range(3, STEPS + 1) if lows[t] == lows[t - 3]]
    if ends:
        assert state.result == results.PATIENCE
        assert state.step == ends[0]
        np.testing.assert_allclose(short.validation[: ends[0]], info.validation[: ends[0]], rtol=1e-10)
        np.testing.assert_allclose(state.best_loss, lows[ends[0]], rtol=1e-10)
        word, why = jills.diagnose(state, short)
        assert word == "converged"
        assert "patience" in str(why)
    else:
        assert state.result in (results.RUNNING, results.AT_REST)


def test_without_rows_nothing_is_recorded_and_a_run_may_begin_to_look_later():
    algorithm, hparams = NEWTON
    first, info = jills.run(algorithm, hparams, start(jax.random.key(0)), TRAIN, 5)
    assert info.validation == ()
    np.testing.assert_allclose(first.best_loss, min(info.loss.min(), first.loss))
    second, _ = jills.run(algorithm, hparams, first, TRAIN, 5, validation=HELD_OUT)
    assert second.best_loss >= min(loss_on(first.params, HELD_OUT), second.best_loss)
    np.testing.assert_allclose(loss_on(second.best_params, HELD_OUT), second.best_loss, rtol=1e-12)
    third, _ = jills.run(algorithm, hparams, second, TRAIN, 1)
    np.testing.assert_allclose(third.best_loss, min(second.loss, third.loss), rtol=1e-12)


def test_a_run_in_two_parts_waits_as_one():
    whole, _info = train("gauss_newton", patience=4)
    algorithm, hparams = NEWTON
    state: Any = start(jax.random.key(0))
    for _ in range(12):
        state, _ = jills.run(algorithm, hparams, state, TRAIN, 2, validation=HELD_OUT, patience=4)
    assert (state.step, state.result) == (whole.step, whole.result)
    np.testing.assert_allclose(state.best_loss, whole.best_loss, rtol=1e-10)


def stacked(seeds, n):
    sets = [table(n, seed) for seed in seeds]
    return jills.Batch(np.stack([one.inputs for one in sets]), np.stack([one.targets for one in sets]))


@pytest.mark.parametrize("name", ["gauss_newton", "evidence"])
def test_each_member_of_a_sweep_has_its_own_rows(name):
    """The same as runs of their own; shorter data sets are filled up with rows of weight zero, NaN or not."""
    algorithm, hparams = ALGORITHMS[name]
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    batches, held_out = stacked((3, 4, 5), 19), stacked((6, 7, 8), 13)
    weights = np.ones((MEMBERS, 19))
    weights[1, 11:] = 0
    batches.targets[1, 11:] = np.nan
    result = jills.sweep(
        algorithm,
        hparams,
        start,
        keys,
        STEPS,
        chunk_steps=10,
        batches=batches._replace(weights=weights),
        validation=held_out,
        patience=5,
    )
    assert result.info.validation.shape == (1, MEMBERS, STEPS)
    for member in range(MEMBERS):
        some = weights[member] > 0
        own = jills.Batch(batches.inputs[member, some], batches.targets[member, some])
        rows = jills.Batch(held_out.inputs[member], held_out.targets[member])
        alone, info = jills.run(algorithm, hparams, start(keys[member]), own, STEPS, validation=rows, patience=5)
        found = jax.tree.map(lambda leaf, member=member: leaf[0, member], result.state)
        assert (found.step, found.result) == (alone.step, alone.result)
        np.testing.assert_allclose(found.best_loss, alone.best_loss, rtol=1e-4)
        np.testing.assert_allclose(result.info.validation[0, member, :5], info.validation[:5], rtol=1e-5)


def test_what_all_share_is_given_once():
    algorithm, hparams = NEWTON
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    weights = np.array(jills.folds(jax.random.key(2), 23, MEMBERS))
    shared = jills.sweep(algorithm, hparams, start, keys, 4, batches=TRAIN._replace(weights=weights))
    inputs, targets = (np.broadcast_to(part, (MEMBERS, *part.shape)) for part in TRAIN[:2])
    full = jills.Batch(inputs, targets, weights)
    for one, other in zip(
        jax.tree.leaves(shared.state),
        jax.tree.leaves(jills.sweep(algorithm, hparams, start, keys, 4, batches=full).state),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_member_may_bring_its_own_validation_rows():
    algorithm, hparams = NEWTON
    shift = lambda key: jax.random.normal(key, ())  # noqa: E731 used at once

    def problem(key):
        rows = jills.Batch(HELD_OUT.inputs, HELD_OUT.targets + shift(key))
        return jills.Member(start(key), TRAIN, validation=rows)

    keys = jax.random.split(jax.random.key(1), MEMBERS)
    result = jills.sweep(algorithm, hparams, problem, keys, 4)
    for member, key in enumerate(keys):
        expected = loss_on(start(key), jills.Batch(HELD_OUT.inputs, HELD_OUT.targets + np.array(shift(key))))
        np.testing.assert_allclose(result.info.validation[0, member, 0], expected, rtol=1e-10)


def test_what_does_not_fit_is_refused():
    algorithm, hparams = NEWTON
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    params, wrong = start(keys[0]), cast(Any, (TRAIN,))
    with pytest.raises(ValueError, match="patience is 3, but there are no validation rows"):
        jills.run(algorithm, hparams, params, TRAIN, 2, patience=3)
    with pytest.raises(ValueError, match="patience is 0"):
        jills.run(algorithm, hparams, params, TRAIN, 2, validation=HELD_OUT, patience=0)
    with pytest.raises(ValueError, match="of the validation rows: inputs have shape"):
        jills.run(algorithm, hparams, params, TRAIN, 2, validation=HELD_OUT._replace(inputs=np.ones((31, 3))))
    with pytest.raises(ValueError, match="stacked for 2 members, but there are 3 keys"):
        jills.sweep(algorithm, hparams, start, keys, 2, batches=stacked((0, 1), 9))
    with pytest.raises(ValueError, match="let it return params only"):
        jills.sweep(algorithm, hparams, lambda key: (start(key), TRAIN), keys, 2, batches=TRAIN)
    with pytest.raises(ValueError, match="batches is"):
        jills.sweep(algorithm, hparams, start, keys, 2, batches=wrong)
    with pytest.raises(ValueError, match="inputs of batches"):
        jills.sweep(algorithm, hparams, start, keys, 2, batches=TRAIN._replace(inputs=np.array([["a"]])))


def test_other_data_of_the_same_shape_compile_nothing(monkeypatch):
    import chex

    algorithm, hparams = NEWTON
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    problem = start
    jills.sweep(algorithm, hparams, problem, keys, 2, batches=stacked((3, 4, 5), 19))
    chex.clear_trace_counter()
    monkeypatch.setattr(type(algorithm), "advance", chex.assert_max_traces(0)(type(algorithm).advance))
    jills.sweep(algorithm, hparams, problem, keys, 2, batches=stacked((6, 7, 8), 19))


def test_a_member_that_is_not_finite_leaves_its_neighbours_alone():
    algorithm, hparams = NEWTON
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    bad = stacked((3, 4, 5), 19)
    bad.inputs[1, 2] = np.inf
    result = jills.sweep(algorithm, hparams, start, keys, 4, batches=bad)
    assert list(result.state.result[0]) == [results.RUNNING, results.NON_FINITE, results.RUNNING]
    assert np.isinf(result.state.best_loss[0, 1])
    assert jnp.isfinite(result.state.best_loss[0, jnp.array([0, 2])]).all()
