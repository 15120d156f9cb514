"""Whatever is given to the entries that people use: refused in our words, or used as its plain copy would be.

Thousands of odd arrays, parameters, hyperparameters, counts and keys, drawn by hypothesis. `DOORS_EXAMPLES=10` in the
environment draws ten times as many, and others in every run.
"""

import os
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from odd_inputs import (
    KINDS,
    LAYOUTS,
    NETWORK,
    REFUSED,
    RUBBISH,
    WEIGHTS,
    deleted,
    odd_arrays,
    odd_numbers,
    outcome,
    plain,
)

import jills
from jills import Batch, Layer, Network, State, activations

FACTOR = int(os.environ.get("DOORS_EXAMPLES", "1"))
ADAM = jills.adam.build(NETWORK)
NEWTON = jills.gauss_newton.build(NETWORK, blocks=jills.gauss_newton.together(NETWORK))
SOFTMAX = jills.adam.build(NETWORK, jills.losses.softmax_cross_entropy)
SIGMOID = jills.adam.build(NETWORK, jills.losses.sigmoid_cross_entropy)
BOUNDED = jills.ills.build(Network((3, 5, 2), activations.tanh, activations.tanh))
KEYS = jax.random.split(jax.random.key(3), 1)
REAL = "float16 float32 float64 longdouble int8 int32 int64 uint16 uint64 bool bfloat16 >f2 >f4 >f8 >i4 >longdouble"
n = 11
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("training fails", "were projected into it", "the matrix subclass")
]


def thorough(count):
    """Settings of a property of so many examples."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=count * FACTOR, deadline=None, derandomize=FACTOR == 1, database=None, suppress_health_check=slow
    )


@pytest.fixture(scope="module", autouse=True)
def whole_tracebacks():
    """JAX leaves its own frames out of tracebacks, and would pass its errors off as ours."""
    config: Any = jax.config
    before = config.jax_traceback_filtering
    config.update("jax_traceback_filtering", "off")
    yield
    config.update("jax_traceback_filtering", before)


# The entries: each takes params and a batch, and returns what it knows of them then


def run(algorithm, params, batch):
    return jills.run(algorithm, algorithm.defaults, params, batch, 2)[0]


def init(algorithm, params, batch):
    return algorithm.init(params, batch)


def sweep(algorithm, params, batch):
    result = jills.sweep(algorithm, algorithm.defaults, Partial(same_member, params, batch), KEYS, 2)
    return jax.tree.map(lambda leaf: leaf[0, 0], result.state)


def same_member(params, batch, key):
    return jills.Member(params, batch)


def closed_over(algorithm, params, batch):
    result = jills.sweep(algorithm, algorithm.defaults, lambda key: (params, batch), KEYS, 2)
    return jax.tree.map(lambda leaf: leaf[0, 0], result.state)


@cache
def start(algorithm, dtype):
    return algorithm.init(make_params(dtype), Batch(*(array.astype(dtype) for array in BATCH[:2])))


def step(algorithm, params, batch):
    return algorithm.step(algorithm.defaults, start(algorithm, str(params[0].weight.dtype)), batch)[0]


def observe(algorithm, params, batch):
    return algorithm.observe(start(algorithm, str(params[0].weight.dtype)), batch)


def make_params(dtype="float64") -> Any:
    rng: Any = np.random.default_rng(5)
    shapes = (((3, 5), (5,)), ((5, 2), (2,)))
    return tuple(Layer(*(rng.standard_normal(shape).astype(dtype) for shape in pair)) for pair in shapes)


ROWS: Any = np.random.default_rng(7)
BATCH: Any = Batch(ROWS.standard_normal((n, 3)), ROWS.standard_normal((n, 2)), ROWS.integers(0, 3, n) / 2)


def assert_same(found, expected):
    """Equal losses and parameters, bit for bit, both of them not finite included."""
    for one, other in zip(*(jax.tree.leaves((s.loss, s.params, s.best_loss)) for s in (found, expected)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found.result == expected.result


def check_batch(entry, dtype, batch):
    """Refused in our words, or as its plain copy."""
    look, algorithm = entry
    found = outcome(look, algorithm, make_params(dtype), batch)
    if found is not REFUSED:
        inputs, targets = (plain(part, dtype) for part in batch[:2])
        # Weights are brought near one before they are rounded.
        weights = None if batch.weights is None else plain(batch.weights, np.longdouble)
        expected = look(algorithm, make_params(dtype), Batch(inputs, targets, weights))
        assert_same(found, expected)


dtypes = st.sampled_from(["float32", "float64"])
QUICK = [*6 * [(run, ADAM), (run, NEWTON)], (init, NEWTON), (observe, NEWTON), (sweep, ADAM)]
SLOW = [(step, ADAM), (step, NEWTON), (closed_over, ADAM)]


@thorough(300)
@given(entry=st.sampled_from(QUICK), dtype=dtypes, inputs=odd_arrays((n, 3)), weighed=st.booleans())
def test_inputs(entry, dtype, inputs, weighed):
    check_batch(entry, dtype, Batch(inputs.value, BATCH.targets, BATCH.weights if weighed else None))


@thorough(250)
@given(entry=st.sampled_from(QUICK), dtype=dtypes, targets=odd_arrays((n, 2)), weighed=st.booleans())
def test_targets(entry, dtype, targets, weighed):
    check_batch(entry, dtype, Batch(BATCH.inputs, targets.value, BATCH.weights if weighed else None))


@thorough(300)
@given(entry=st.sampled_from(QUICK), dtype=dtypes, weights=odd_arrays((n,), WEIGHTS))
def test_weights(entry, dtype, weights):
    check_batch(entry, dtype, Batch(BATCH.inputs, BATCH.targets, weights.value))


@thorough(30)
@given(
    entry=st.sampled_from(SLOW),
    dtype=dtypes,
    inputs=odd_arrays((n, 3)),
    targets=odd_arrays((n, 2), ["usual"]),
    weights=st.none() | odd_arrays((n,), WEIGHTS),
)
def test_step_and_problems_that_close_over_arrays(entry, dtype, inputs, targets, weights):
    check_batch(entry, dtype, Batch(inputs.value, targets.value, getattr(weights, "value", None)))


@pytest.mark.parametrize("kind", REAL.split())
def test_what_is_harmless_is_taken(kind):
    """The others would hold as well if all were refused."""
    for layout in LAYOUTS.values():
        inputs, targets, weights = (layout(KINDS[kind](np.abs(array))) for array in BATCH)
        batch = Batch(inputs, targets, weights)
        assert (outcome(run, ADAM, make_params(), batch) is REFUSED) == (np.max(weights) == 0)


@thorough(60)
@given(entry=st.sampled_from(QUICK), batch=st.sampled_from(RUBBISH))
def test_what_is_no_batch(entry, batch):
    assert outcome(entry[0], entry[1], make_params(), batch) is REFUSED


rows = st.lists(st.sampled_from([0.0, 0.0, 1e-30, 0.3, 1.0, 7.0, 1e30]), min_size=n, max_size=n)


@thorough(60)
@given(dtype=dtypes, weights=rows, places=st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 2)), max_size=8))
def test_rows_of_weight_zero_are_as_if_they_were_not_there(dtype, weights, places):
    """Whatever they hold; and what is not finite in any other row is refused."""
    check_rows(dtype, np.array(weights), places)


def check_rows(dtype, weights, places):
    inputs = BATCH.inputs.copy()
    for row, column in places:
        inputs[row, column] = np.nan if column else np.inf
    found = outcome(run, ADAM, make_params(dtype), Batch(inputs, BATCH.targets, weights))
    used = weights > 0
    if not used.any() or not np.isfinite(inputs[used]).all():
        assert found is REFUSED
        return
    # As many rows as ever, for one program: those of no weight repeat the first that has some.
    rows = np.where(used, np.arange(n), used.argmax())
    arrays: Any = (inputs[rows].astype(dtype), BATCH.targets[rows].astype(dtype), weights)
    clean = Batch(*arrays)
    assert_same(found, run(ADAM, make_params(dtype), clean))


# Parameters and states


def with_leaf(tree, place, value):
    leaves, structure = jax.tree.flatten(tree)
    leaves[place] = value
    return jax.tree.unflatten(structure, leaves)


ARRANGED = {
    "a list": list,
    "layers as tuples": lambda params: tuple(map(tuple, params)),
    "layers as lists": lambda params: tuple(map(list, params)),
    "a layer less": lambda params: params[:1],
    "a layer more": lambda params: (*params, params[-1]),
    "backwards": lambda params: params[::-1],
    "one layer": lambda params: params[0],
    "by name": lambda params: {"params": params},
    "weights and biases exchanged": lambda params: tuple(Layer(*layer[::-1]) for layer in params),
    "mixed": lambda params: (params[0], Layer(*(leaf.astype("float32") for leaf in params[1]))),
    "float16": lambda params: jax.tree.map(lambda leaf: leaf.astype("float16"), params),
    "bfloat16": lambda params: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params),
    "whole numbers": lambda params: jax.tree.map(lambda leaf: leaf.astype("int64"), params),
    "longdouble": lambda params: jax.tree.map(lambda leaf: leaf.astype("longdouble"), params),
    "complex": lambda params: jax.tree.map(lambda leaf: leaf + 0j, params),
    "objects": lambda params: jax.tree.map(lambda leaf: leaf.astype(object), params),
    "several networks": lambda params: jax.tree.map(lambda leaf: leaf[None], params),
    "other byte order": lambda params: jax.tree.map(lambda leaf: leaf.astype(leaf.dtype.newbyteorder()), params),
    "columns first": lambda params: jax.tree.map(np.asfortranarray, params),
    "backwards in memory": lambda params: jax.tree.map(lambda leaf: leaf[::-1].copy()[::-1], params),
    "read-only": lambda params: jax.tree.map(LAYOUTS["read-only"], params),
    "of jax": lambda params: jax.tree.map(jnp.asarray, params),
    "matrices": lambda params: jax.tree.map(np.asmatrix, params),
    "masked": lambda params: jax.tree.map(np.ma.masked_array, params),
    "lists of numbers": lambda params: tuple(Layer(layer.weight.tolist(), layer.bias.tolist()) for layer in params),
    "deleted": lambda params: jax.tree.map(deleted, params),
}


def predict(algorithm, params, batch):
    return algorithm.network.predict(params, batch.inputs)


def check_params(entry, dtype, params):
    """Refused in our words, or as their plain copy."""
    batch = Batch(*BATCH[:2])
    found = outcome(entry, NEWTON, params, batch)
    if found is not REFUSED:
        copy: Any = tuple(Layer(*(plain(leaf, dtype) for leaf in layer)) for layer in params)
        expected = entry(NEWTON, copy, batch)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@thorough(120)
@given(
    entry=st.sampled_from([run, init, sweep, predict]),
    place=st.integers(0, 3),
    data=st.data(),
)
def test_params_with_an_odd_array(entry, place, data):
    shape = jax.tree.leaves(make_params())[place].shape
    check_params(entry, "float64", with_leaf(make_params(), place, data.draw(odd_arrays(shape)).value))


@thorough(100)
@given(
    entry=st.sampled_from([run, init, sweep, predict]),
    dtype=dtypes,
    arranged=st.sampled_from(sorted(ARRANGED)),
    rubbish=st.none() | st.sampled_from(RUBBISH),
)
def test_params_as_a_whole(entry, dtype, arranged, rubbish):
    params = make_params(dtype)
    if entry is predict and arranged in ("float16", "bfloat16", "longdouble"):
        return  # no precision to train in, and one to predict with
    if entry is sweep and arranged == "longdouble":
        return  # the arguments of a Partial become float64 first
    check_params(entry, dtype, ARRANGED[arranged](params) if rubbish is None else rubbish)


@thorough(150)
@given(inputs=odd_arrays((n, 3)), dtype=dtypes)
def test_predictions(inputs, dtype):
    check_prediction(inputs.value, dtype)


def check_prediction(inputs, dtype):
    found = outcome(NETWORK.predict, make_params(dtype), inputs)
    if found is not REFUSED:
        expected = NETWORK.predict(make_params(dtype), plain(inputs, dtype))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
        assert len(NETWORK.forward(make_params(dtype), inputs)) == 2


def go_on(algorithm, state, batch):
    return jills.run(algorithm, algorithm.defaults, state, batch, 2)[0]


def look_again(algorithm, state, batch):
    return algorithm.observe(state, batch)


def one_more(algorithm, state, batch):
    return algorithm.step(algorithm.defaults, state, batch)[0]


def sweep_on(algorithm, state, batch):
    if isinstance(state, State):
        state = jax.tree.map(lambda leaf: leaf[None, None] if isinstance(leaf, np.ndarray) else leaf, state)
    problem = Partial(same_member, make_params(), batch)
    return jills.sweep(algorithm, algorithm.defaults, problem, KEYS, 2, state=state).state


def check_state(look, place, value):
    """Refused in our words, or as its plain copy."""
    entry, algorithm = look
    batch = Batch(*BATCH[:2])
    state = jax.tree.map(np.asarray, start(algorithm, "float64"))
    given = value if place is None else with_leaf(state, place, value)
    found = outcome(entry, algorithm, given, batch)
    if found is not REFUSED and place is not None:
        right = jax.tree.leaves(state)[place]
        expected = entry(algorithm, with_leaf(state, place, plain(value, right.dtype)), batch)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)


@thorough(120)
@given(
    entry=st.sampled_from([(go_on, NEWTON), (look_again, NEWTON), (sweep_on, NEWTON), (look_again, BOUNDED)]),
    data=st.data(),
)
def test_states_with_an_odd_array(entry, data):
    leaves = jax.tree.leaves(start(entry[1], "float64"))
    place = data.draw(st.integers(0, len(leaves) - 1))
    check_state(entry, place, data.draw(odd_arrays(leaves[place].shape, ["usual", "whole"])).value)


@thorough(60)
@given(entry=st.sampled_from([go_on, look_again, one_more, sweep_on]), rubbish=st.sampled_from(RUBBISH))
def test_what_is_no_state(entry, rubbish):
    if not (entry is sweep_on and rubbish is None):  # where it means a start
        check_state((entry, NEWTON), None, rubbish)


# Numbers

ALGORITHMS = [ADAM, NEWTON]


def train(algorithm, hparams, dtype, many):
    params, batch = make_params(dtype), Batch(*BATCH[:2])
    if not many:
        return jills.run(algorithm, hparams, params, batch, 2)[0]
    return jills.sweep(algorithm, hparams, Partial(same_member, params, batch), KEYS, 2).state


def check_hparams(algorithm, field, value, dtype, many):
    """Refused in our words, or as the number in the dtype of the params, which is then within its limits."""
    found = outcome(train, algorithm, algorithm.defaults._replace(**{field: value}), dtype, many)
    if found is REFUSED:
        return
    number: Any = plain(value, dtype)
    assert not np.isfinite(number).all() or type(algorithm.defaults).limits[field].holds(number).all()
    if many:
        assert found.loss.shape == (number.size, 1)
    expected = train(algorithm, algorithm.defaults._replace(**{field: number}), dtype, many)
    assert_same_trees(found.params, expected.params)


def assert_same_trees(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@thorough(180)
@given(algorithm=st.sampled_from(ALGORITHMS), value=odd_numbers(), dtype=dtypes, many=st.booleans(), data=st.data())
def test_hyperparameters(algorithm, value, dtype, many, data):
    field = data.draw(st.sampled_from(algorithm.defaults._fields))
    check_hparams(algorithm, field, value, dtype, many)


@thorough(60)
@given(algorithm=st.sampled_from(ALGORITHMS), hparams=st.sampled_from(RUBBISH), many=st.booleans())
def test_what_is_no_hyperparameters(algorithm, hparams, many):
    assert outcome(train, algorithm, hparams, "float64", many) is REFUSED


@thorough(80)
@given(value=odd_numbers() | odd_arrays((3,)).map(lambda odd: odd.value))
def test_products(value):
    check_product(value)


def check_product(value):
    found = outcome(lambda: jills.product(jills.adam.Hparams, learning_rate=value))
    if found is not REFUSED:
        np.testing.assert_array_equal(found.learning_rate, np.atleast_1d(plain(value, "float64")))


COUNTS = [0, -1, 1, 2, 2.0, 2.5, np.int64(2), np.uint8(2), np.array(2), jnp.asarray(2), True, False, "2", *RUBBISH]


@thorough(60)
@given(
    count=st.sampled_from(COUNTS),
    name=st.sampled_from(["num_steps", "chunk_steps", "batch_size"]),
    many=st.booleans(),
)
def test_counts(count, name, many):
    check_count(count, name if many else "num_steps", many)


def check_count(count, name, many):
    def call(count):
        if many:
            problem = Partial(same_member, make_params(), Batch(*BATCH[:2]))
            return jills.sweep(ADAM, ADAM.defaults, problem, KEYS, **{"num_steps": 2, name: count})
        return jills.run(ADAM, ADAM.defaults, make_params(), Batch(*BATCH[:2]), count)

    if outcome(call, count) is not REFUSED:
        assert (count is None and name == "batch_size") or (isinstance(count, int | np.integer) and count >= 1)


@thorough(60)
@given(field=st.sampled_from(jills.Stop._fields), value=odd_numbers(), many=st.booleans())
def test_stops(field, value, many):
    check_stop(field, value, many)


def check_stop(field, value, many):
    def call(value):
        stop, batch = jills.Stop(**{field: value}), Batch(*BATCH[:2])
        if many:
            return jills.sweep(
                ADAM, ADAM.defaults, Partial(same_member, make_params(), batch), KEYS, 2, stop=stop
            ).state
        return jills.run(ADAM, ADAM.defaults, make_params(), batch, 2, stop=stop)[0]

    found = outcome(call, value)
    if found is not REFUSED:
        assert_same_trees(found.params, call(plain(value, "float64")).params)


RAW = np.asarray(jax.random.key_data(KEYS))
ODD_KEYS = [RAW, RAW.astype(">u4"), RAW.astype("int64"), RAW.tolist(), RAW[0], RAW[:0], RAW[None], RAW[:, :1], KEYS]
ODD_KEYS += [
    KEYS[0],
    KEYS[:0],
    KEYS[None],
    list(KEYS),
    jax.random.key(0, impl="rbg"),
    pd.DataFrame(RAW),
    RAW.astype(float),
]
ODD_KEYS += [np.ma.masked_array(RAW), np.asmatrix(RAW), np.asfortranarray(RAW), deleted(RAW)]
ODD_KEYS += [thing for thing in RUBBISH if not isinstance(thing, jax.Array)]


@thorough(60)
@given(place=st.integers(0, len(ODD_KEYS) - 1), entry=st.sampled_from(["sweep", "grid", "init"]))
def test_keys(place, entry):
    check_keys(ODD_KEYS[place], entry)


def normal(key, hparams=None):
    return jax.random.normal(key)


def check_keys(keys, entry):
    def call(keys):
        if entry == "init":
            return NETWORK.init(keys)
        if entry == "grid":
            return jills.grid(lambda _, key: jax.random.normal(key), jills.adam.Hparams(), keys)
        return jills.sweep(ADAM, ADAM.defaults, Partial(drawn, Batch(*BATCH[:2])), keys, 2).state.params

    found = outcome(call, keys)
    if found is not REFUSED:
        expected = call(jax.random.key(0, impl="rbg") if keys is ODD_KEYS[13] else KEYS[0] if entry == "init" else KEYS)
        assert_same_trees(found, expected)


def drawn(batch, key):
    return NETWORK.init(key), batch


GOOD: Any = (make_params(), Batch(*BATCH[:2]))
RETURNED = [GOOD, list(GOOD), GOOD[::-1], GOOD[:1], (*GOOD, None), (*GOOD, len), (*GOOD, 7), (*GOOD, None, None), *GOOD]
RETURNED += [(*GOOD, None, 7), (*GOOD, None, GOOD[0]), (*GOOD, None, None, None)]
RETURNED += [{"params": GOOD[0], "batch": GOOD[1]}, start(ADAM, "float64"), (start(ADAM, "float64"), GOOD[1])]


@thorough(30)
@given(returned=st.sampled_from(range(len(RETURNED))), rubbish=st.none() | st.sampled_from(RUBBISH))
def test_what_problems_return(returned, rubbish):
    value = RETURNED[returned] if rubbish is None else rubbish
    found = outcome(jills.sweep, ADAM, ADAM.defaults, lambda key: value, KEYS, 1)
    assert (found is REFUSED) != (returned in (0, 1, 4, 5, 7) and rubbish is None)


@thorough(120)
@given(place=st.integers(0, 3), many=st.booleans(), rubbish=st.sampled_from(RUBBISH))
def test_what_is_no_algorithm_no_problem_no_metrics(place, many, rubbish):
    """Functions and types among the rubbish may be called, and then return what they return."""
    if place == 3 and (rubbish is None or callable(rubbish)):
        return
    if place == 1 and callable(rubbish):
        return
    arguments = [ADAM, Partial(same_member, *GOOD), KEYS, None]
    arguments[place] = rubbish
    algorithm, problem, keys, metrics = arguments
    if many or place in (1, 2):
        call = partial(jills.sweep, algorithm, ADAM.defaults, problem, keys, 1, metrics=metrics)
    else:
        call = partial(jills.run, algorithm, ADAM.defaults, *GOOD, 1, metrics=metrics)
    assert outcome(call) is REFUSED


@thorough(60)
@given(
    algorithm=st.sampled_from([SOFTMAX, SIGMOID, BOUNDED]),
    targets=odd_arrays((n, 2), ["usual", "one hot", "one hot", "nan"]),
    weighed=st.booleans(),
)
def test_targets_that_a_loss_or_an_output_does_not_allow(algorithm, targets, weighed):
    batch = Batch(BATCH.inputs, targets.value, BATCH.weights if weighed else None)
    check_batch((init, algorithm), "float64", batch)


@thorough(50)
@given(inputs=odd_arrays((n, 3)), targets=odd_arrays((n, 2), ["usual"]), weights=st.none() | odd_arrays((n,), WEIGHTS))
def test_without_64_bits(inputs, targets, weights):
    with jax.enable_x64(False):
        check_batch((run, NEWTON), "float32", Batch(inputs.value, targets.value, getattr(weights, "value", None)))
        assert outcome(run, NEWTON, make_params("float64"), Batch(inputs.value, targets.value)) is REFUSED
