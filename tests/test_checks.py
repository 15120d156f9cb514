"""What is refused, and in which words, through the entries that people use; and what is taken all the same."""

import itertools
import re
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jills
from jills import Batch, Layer, Network, activations, ills

NETWORK = Network((3, 5, 2), activations.tanh)
ILLS, ADAM = jills.ills.build(NETWORK), jills.adam.build(NETWORK)
KEY = jax.random.key(3)
n = 11


def make_params(network=NETWORK, dtype="float64"):
    rng = np.random.default_rng(5)

    def draw(*shape) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    return tuple(Layer(draw(below, above), draw(above)) for below, above in itertools.pairwise(network.sizes))


def make_batch():
    inputs: Any = np.random.default_rng(7).uniform(-1.0, 1.0, (n, 3))
    targets: Any = np.stack([np.sin(inputs.sum(axis=1)), inputs[:, 0] * inputs[:, 1]], axis=1)
    return Batch(inputs, targets)


def ones(*shape) -> Any:
    return np.ones(shape)


def changed(array, place, value) -> Any:
    array = np.array(array)
    array[place] = value
    return array


# The entries: each takes a batch (and params) to where it is checked.


def init(batch, params=None, algorithm=ILLS):
    return algorithm.init(make_params(algorithm.network) if params is None else params, batch)


def run(batch, params=None, algorithm=ILLS):
    params = make_params(algorithm.network) if params is None else params
    return jills.run(algorithm, algorithm.defaults, params, batch, 5)


def sweep(batch, params=None, algorithm=ILLS):
    params = make_params(algorithm.network) if params is None else params
    return jills.sweep(algorithm, algorithm.defaults, lambda key: (params, batch), KEY[None], 5)


entries = pytest.mark.parametrize("entry", [init, run, sweep])

GOOD = make_batch()
BAD_BATCHES = {
    "inputs too wide": (
        GOOD._replace(inputs=ones(n, 7)),
        r"inputs have shape (11, 7), but network sizes (3, 5, 2) want (n, 3) with the n of the inputs, (11, 7)",
    ),
    "targets too narrow": (
        GOOD._replace(targets=ones(n, 1)),
        r"targets have shape (11, 1), but network sizes (3, 5, 2) want (n, 2) with the n of the inputs, (11, 3)",
    ),
    "targets too short": (GOOD._replace(targets=ones(7, 2)), r"targets have shape (7, 2)"),
    "one-dimensional targets": (
        GOOD._replace(targets=ones(n)),
        r"targets have shape (11,), but network sizes (3, 5, 2) want (n, 2) with the n of the inputs, (11, 3); "
        r"give one output as targets[:, None]",
    ),
    "one-dimensional inputs": (GOOD._replace(inputs=ones(n)), r"inputs have shape (11,)"),
    "no rows": (Batch(ones(0, 3), ones(0, 2)), "the batch has no rows; at least one is needed"),
    "weights too short": (
        GOOD._replace(weights=ones(7)),
        "weights have shape (7,), but must be (n,) = (11,), one number for each row",
    ),
    "weights in a column": (GOOD._replace(weights=ones(n, 1)), "weights have shape (11, 1)"),
    "a negative weight": (
        GOOD._replace(weights=changed(ones(n), 4, -1.0)),
        "weights hold negative, NaN or infinite values; each must be finite and ≥ 0",
    ),
    "a NaN weight": (GOOD._replace(weights=changed(ones(n), 4, np.nan)), "weights hold negative, NaN"),
    "an infinite weight": (GOOD._replace(weights=changed(ones(n), 4, np.inf)), "weights hold negative, NaN"),
    "no weight": (GOOD._replace(weights=0.0 * ones(n)), "all weights are zero: no row is left to train on"),
    "a NaN input": (
        GOOD._replace(inputs=changed(GOOD.inputs, (4, 1), np.nan)),
        "inputs hold NaN or inf in 1 of 11 rows, first in row 4; drop or fill them, or give those rows weight zero",
    ),
    "infinite targets": (
        GOOD._replace(targets=changed(GOOD.targets, [2, 9], np.inf)),
        "targets hold NaN or inf in 2 of 11 rows, first in row 2",
    ),
    "a NaN row with a weight": (
        Batch(changed(GOOD.inputs, [2, 4], np.nan), GOOD.targets, changed(ones(n), 2, 0.0)),
        "inputs hold NaN or inf in 1 of 11 rows, first in row 4",
    ),
}


@entries
@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_is_refused_at_every_entry(entry, name):
    batch, message = BAD_BATCHES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        entry(batch)


@pytest.mark.parametrize("name", ["one-dimensional targets", "a NaN input"])
def test_jax_arrays_are_checked_like_those_of_numpy(name):
    batch, message = BAD_BATCHES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        init(jax.tree.map(jnp.asarray, batch))


def test_a_state_to_go_on_from_does_not_open_another_entry():
    state, _ = run(GOOD)
    batch, message = BAD_BATCHES["a NaN input"]
    with pytest.raises(ValueError, match=message):
        run(batch, state)


@entries
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (make_params(dtype="float16"), "params are float16; all must be float32 or all float64"),
        (make_params(dtype="int64"), "params are int64; all must"),
        (
            tuple(Layer(w, b.astype("float32")) for w, b in make_params()),
            "params are float32, float64; all must be float32 or all float64",
        ),
        (
            make_params(Network((3, 7, 2))),
            "params have shapes [((3, 7), (7,)), ((7, 2), (2,))], but a network of sizes (3, 5, 2) has "
            "[((3, 5), (5,)), ((5, 2), (2,))]; make them with network.init(key)",
        ),
        (make_params()[:1], "params have shapes [((3, 5), (5,))], but"),
    ],
    ids=["float16", "integers", "mixed", "another width", "a layer missing"],
)
def test_bad_params_are_refused_at_every_entry(entry, params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        entry(GOOD, params)


# Numbers


BAD_HPARAMS = [
    (ILLS, jills.ills.Hparams(0.0), "learning_rate is 0, but must lie in (0, 1]"),
    (ILLS, jills.ills.Hparams(-0.5), "learning_rate is -0.5, but must lie in (0, 1]"),
    (ILLS, jills.ills.Hparams(1.5), "learning_rate is 1.5, but must lie in (0, 1]"),
    (ILLS, jills.ills.Hparams(0.5, -1e-6), "ridge is -1e-06, but must lie in [0, "),
    (ADAM, jills.adam.Hparams(0.0), "learning_rate is 0, but must lie in (0, "),
    (ADAM, jills.adam.Hparams(-1.0), "learning_rate is -1, but must lie in (0, "),
    (ADAM, jills.adam.Hparams(b1=1.0), "b1 is 1, but must lie in [0, 1)"),
    (ADAM, jills.adam.Hparams(b2=-0.1), "b2 is -0.1, but must lie in [0, 1)"),
    (ADAM, jills.adam.Hparams(eps=-1e-8), "eps is -1e-08, but must lie in [0, "),
    (
        ILLS,
        jills.adam.Hparams(0.1),
        "hparams are jills.adam.Hparams, but this algorithm wants jills.ills.Hparams(learning_rate=0.5, ridge=0.0)",
    ),
    (
        ADAM,
        jills.ills.Hparams(0.1),
        "hparams are jills.ills.Hparams, but this algorithm wants jills.adam.Hparams(learning_rate=0.01,",
    ),
    (ADAM, 0.1, "hparams are builtins.float, but this algorithm wants jills.adam.Hparams"),
]


@pytest.mark.parametrize(("algorithm", "hparams", "message"), BAD_HPARAMS)
def test_bad_numbers_are_refused(algorithm, hparams, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jills.run(algorithm, hparams, make_params(), GOOD, 5)
    with pytest.raises(ValueError, match=re.escape(message)):
        jills.sweep(algorithm, hparams, lambda key: (make_params(), GOOD), KEY[None], 5)


def test_one_bad_number_among_good_ones_is_refused():
    rates = jnp.array([0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match=re.escape("learning_rate is 2, but must lie in (0, 1]")):
        jills.sweep(ILLS, jills.ills.Hparams(rates), lambda key: (make_params(), GOOD), KEY[None], 5)


def test_the_ends_of_the_intervals_are_allowed():
    ILLS.check(jills.ills.Hparams(1.0, 0.0))
    ADAM.check(jills.adam.Hparams(1e-30, b1=0.0, b2=0.0, eps=0.0))


@pytest.mark.parametrize("entry", [jills.grid, jills.sweep])
@pytest.mark.parametrize(
    "hparams",
    [
        jills.adam.Hparams(jnp.ones(3), jnp.full(2, 0.5)),
        jills.adam.Hparams(jnp.full((2, 2), 0.5)),
        jills.adam.Hparams(jnp.ones(0)),
    ],
    ids=["unequal lengths", "two axes", "none"],
)
def test_hparams_of_unequal_lengths_are_refused(entry, hparams):
    with pytest.raises(ValueError, match=r"the leaves of hparams have shapes .*a scalar, shared by all, or \(H,\)"):
        enter(entry, hparams, KEY[None])


@pytest.mark.parametrize("entry", [jills.grid, jills.sweep])
@pytest.mark.parametrize("keys", [jax.random.split(KEY, 0), KEY, jax.random.split(KEY, (2, 3))])
def test_keys_that_are_no_list_of_keys_are_refused(entry, keys):
    with pytest.raises(ValueError, match=re.escape(f"keys have shape {keys.shape}, but must be (S,) with S ≥ 1: jax")):
        enter(entry, jills.adam.Hparams(), keys)


def enter(entry, hparams, keys):
    if entry is jills.grid:
        return jills.grid(lambda hparams, key: hparams.learning_rate, hparams, keys)
    return jills.sweep(ADAM, hparams, lambda key: (make_params(), GOOD), keys, 5)


@pytest.mark.parametrize(
    ("name", "value"), [("num_steps", 0), ("num_steps", -3), ("chunk_steps", 0), ("batch_size", -1)]
)
def test_counts_below_one_are_refused(name, value):
    counts = {"num_steps": 5, name: value}
    with pytest.raises(ValueError, match=f"sweep: {name} is {value}, but must be at least 1"):
        jills.sweep(ADAM, jills.adam.Hparams(), lambda key: (make_params(), GOOD), KEY[None], **counts)
    if name == "num_steps":
        with pytest.raises(ValueError, match=f"run: num_steps is {value}, but must be at least 1"):
            jills.run(ADAM, jills.adam.Hparams(), make_params(), GOOD, value)


def test_a_rate_that_is_nan_is_one_members_failure():
    hparams = jills.adam.Hparams(jnp.array([0.1, jnp.nan]))
    with pytest.warns(UserWarning, match="learning_rate is NaN or infinite in 1 of 2; training fails") as caught:
        result = jills.sweep(ADAM, hparams, lambda key: (make_params(), GOOD), KEY[None], 5)
    assert [warning.filename for warning in caught] == [__file__]
    assert result.state.result.tolist() == [[jills.results.RUNNING], [jills.results.NON_FINITE]]
    assert result.state.loss[0, 0] < result.info.loss[0, 0, 0]


# Targets out of reach

BOUNDED = jills.ills.build(Network((3, 2), output=activations.tanh))
FAR = GOOD._replace(targets=changed(changed(GOOD.targets, (2, 0), 1.0), 5, -1.5))


@entries
def test_targets_outside_the_image_of_the_output_are_counted(entry):
    message = "3 of 22 targets lie outside the range (-1, 1) of the output activation and were projected into it"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entry(FAR, algorithm=BOUNDED)
    assert [warning.category for warning in caught] == [UserWarning]
    assert message in str(caught[0].message)
    assert "scale the targets, or give the network output=jills.activations.identity" in str(caught[0].message)


@pytest.mark.parametrize("entry", [init, run])
def test_the_warning_points_at_the_line_that_called(entry):
    with pytest.warns(UserWarning, match="3 of 22 targets") as caught:
        entry(FAR, algorithm=BOUNDED)
    assert caught[0].filename == __file__


def test_rows_of_weight_zero_are_not_counted():
    weights = changed(ones(n), 5, 0.0)
    with pytest.warns(UserWarning, match="1 of 20 targets lie outside"):
        init(FAR._replace(weights=weights), algorithm=BOUNDED)
    init(FAR._replace(weights=changed(weights, 2, 0.0)), algorithm=BOUNDED)  # warnings are errors here


def test_targets_within_reach_or_for_the_identity_raise_no_warning():
    init(GOOD, algorithm=BOUNDED)
    init(FAR)


# What is taken all the same


def trains(batch):
    """It trains: all finite, and the loss falls or is nothing."""
    state, info = run(batch)
    assert np.all(info.finite)
    assert state.result == jills.results.RUNNING
    assert state.loss < np.maximum(0.5 * info.loss[0], 1e-20)
    return state


def test_integers_are_converted_and_train():
    both: Any = np.random.default_rng(1).integers(0, 2, (n, 5))
    given_as_floats = trains(Batch(both[:, :3].astype(float), both[:, 3:].astype(float)))
    state = trains(Batch(both[:, :3].astype("int32"), both[:, 3:].astype(bool)))
    assert state.loss.dtype == "float64"
    np.testing.assert_allclose(state.loss, given_as_floats.loss, rtol=1e-6)


def test_a_constant_column_trains():
    trains(GOOD._replace(inputs=changed(GOOD.inputs, (slice(None), 1), 1.0)))


def test_a_duplicated_column_trains():
    trains(GOOD._replace(inputs=GOOD.inputs[:, [0, 1, 1]]))


def test_one_single_row_trains():
    trains(Batch(GOOD.inputs[:1], GOOD.targets[:1]))


def test_rows_of_weight_zero_may_hold_nan():
    weights = changed(ones(n), 4, 0.0)
    healthy, _ = run(GOOD._replace(weights=weights))
    spoilt = Batch(changed(GOOD.inputs, 4, np.nan), changed(GOOD.targets, (4, 1), np.inf), weights)
    state, info = run(spoilt)
    assert np.all(info.finite)
    jax.tree.map(np.testing.assert_array_equal, state.params, healthy.params)
    assert state.loss == healthy.loss


UNUSABLE = {
    "a list of rates": ills.Hparams([0.1, 0.2]),  # pyright: ignore[reportArgumentType] on purpose
    "None": ills.Hparams(None),  # pyright: ignore[reportArgumentType] on purpose
    "a word": ills.Hparams("fast"),  # pyright: ignore[reportArgumentType] on purpose
}


@pytest.mark.parametrize("hparams", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_hparams_that_are_no_numbers_are_refused(hparams):
    algorithm, params, batch = ills.build(NETWORK), NETWORK.init(jax.random.key(0)), make_batch()
    with pytest.raises(ValueError, match="each must be a number or an array of numbers"):
        jills.run(algorithm, hparams, params, batch, 2)
    with pytest.raises(ValueError, match="each must be a number or an array of numbers"):
        jills.sweep(algorithm, hparams, lambda key: (params, batch), jax.random.split(jax.random.key(0), 2), 2)


def test_several_rates_are_for_a_sweep():
    algorithm, params, batch = ills.build(NETWORK), NETWORK.init(jax.random.key(0)), make_batch()
    with pytest.raises(ValueError, match=r"one network takes scalars; for several use jills\.sweep"):
        jills.run(algorithm, ills.Hparams(jnp.array([0.1, 0.2])), params, batch, 2)


def test_a_foreign_state_is_refused():
    params, batch = NETWORK.init(jax.random.key(0)), make_batch()
    state, _ = jills.run(ills.build(NETWORK), ills.Hparams(), params, batch, 1)
    with pytest.raises(ValueError, match="the state to go on from is of another algorithm"):
        jills.run(jills.adam.build(NETWORK), jills.adam.Hparams(), state, batch, 1)
    keys = jax.random.split(jax.random.key(0), 3)
    result = jills.sweep(ills.build(NETWORK), ills.Hparams(), lambda key: (params, batch), keys, 1)
    with pytest.raises(ValueError, match="or number of members"):
        jills.sweep(ills.build(NETWORK), ills.Hparams(), lambda key: (params, batch), keys[:2], 1, state=result.state)


def test_fractions_of_steps_are_refused():
    params, batch = NETWORK.init(jax.random.key(0)), make_batch()
    with pytest.raises(ValueError, match=r"num_steps is 2\.5, but must be at least 1, and an integer"):
        jills.run(ills.build(NETWORK), ills.Hparams(), params, batch, 2.5)  # pyright: ignore[reportArgumentType] on purpose


def test_words_and_lists_are_no_data():
    params, batch = NETWORK.init(jax.random.key(0)), make_batch()
    for wrong, said in (
        ([[1.0]], "a list, but must be an array"),
        (np.array([["a"]]), "of dtype <U1, but must be real"),
    ):
        with pytest.raises(ValueError, match=f"inputs are {said}"):
            jills.run(ills.build(NETWORK), ills.Hparams(), params, batch._replace(inputs=wrong), 1)
    with pytest.raises(ValueError, match=r"must be a tuple of jills\.Layer"):
        jills.run(ills.build(NETWORK), ills.Hparams(), [(1, 2)], batch, 1)  # pyright: ignore[reportArgumentType] on purpose


def test_data_too_large_for_float32_are_refused_where_params_are_float32():
    params, batch = NETWORK.init(jax.random.key(0), "float32"), make_batch()
    with pytest.raises(ValueError, match="inputs hold NaN or inf in"):
        jills.run(ills.build(NETWORK), ills.Hparams(), params, batch._replace(inputs=1e200 * batch.inputs), 1)


# Arrays that are not what they seem


class Quantity(np.ndarray):
    """As of libraries with units: an array that means more than its numbers."""


NO_ARRAYS = {
    "masked": (np.ma.masked_array(GOOD.inputs, GOOD.inputs > 0.5), r"inputs are a masked array; fill them"),
    "objects": (GOOD.inputs.astype(object), "inputs are of dtype object, but must be real numbers"),
    "complex": (GOOD.inputs + 0j, "inputs are of dtype complex128, but must be real numbers"),
    "time differences": (np.ones((n, 3), "timedelta64[s]"), r"inputs are of dtype timedelta64\[s\], but must be real"),
    "with units": (GOOD.inputs.view(Quantity), r"inputs are a Quantity, .* give numpy.asarray\(inputs, float\)"),
    "a frame": (pd.DataFrame(GOOD.inputs), r"inputs are a DataFrame, .* give inputs.to_numpy\(\)"),
}


@entries
@pytest.mark.parametrize("name", NO_ARRAYS)
def test_arrays_that_are_not_what_they_seem_are_refused(entry, name):
    inputs, message = NO_ARRAYS[name]
    with pytest.raises(ValueError, match=message):
        entry(GOOD._replace(inputs=inputs))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (pd.Series(ones(n)), r"weights are a Series, .* give weights.to_numpy\(\)"),
        ([1.0] * n, r"weights are a list, .* give numpy.asarray\(weights, float\)"),
        (np.ones(n, object), "weights are of dtype object"),
    ],
    ids=["series", "list", "objects"],
)
def test_weights_are_held_to_the_same(weights, message):
    with pytest.raises(ValueError, match=message):
        run(GOOD._replace(weights=weights))


ORDERS = {
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "Fortran order": np.asfortranarray,
    "strides": lambda array: np.repeat(array, 2, axis=0)[::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "longdouble": lambda array: array.astype(np.longdouble),
}


@entries
@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_bytes_and_strides_does_not_matter(entry, name, dtype):
    """Compared with the plain copy: `run` after one of the same shape used to misread the bytes."""
    params = make_params(dtype=dtype)
    arrays: Any = [np.array(leaf, dtype) for leaf in (GOOD.inputs, GOOD.targets, np.linspace(0.5, 2, n))]
    plain, odd = Batch(*arrays), Batch(*map(ORDERS[name], arrays))

    def loss(batch):
        found = entry(batch, params, ADAM)
        state = found if isinstance(found, jills.State) else found[0]
        return np.asarray(state.loss)

    np.testing.assert_array_equal(loss(plain), loss(odd))


def test_what_is_no_batch_no_loss_or_no_network_is_named():
    with pytest.raises(ValueError, match=r"batch is a tuple, but must be a jills.Batch\(inputs, targets"):
        run((GOOD.inputs, GOOD.targets))
    for build in (jills.ills.build, jills.gauss_newton.build, jills.adam.build):
        with pytest.raises(ValueError, match=r"loss is 'mse', but must be one of jills.losses"):
            build(NETWORK, "mse")  # pyright: ignore[reportArgumentType] on purpose
        with pytest.raises(ValueError, match=r"network is \(3, 5, 2\), but must be a jills.Network"):
            build((3, 5, 2))  # pyright: ignore[reportArgumentType] on purpose


@pytest.mark.parametrize("stop", [jills.Stop(target_loss="x"), jills.Stop(update_norm=ones(2)), (1e-4,)])  # pyright: ignore[reportArgumentType]
def test_a_stop_that_is_no_numbers_is_refused(stop):
    for call in (partial(jills.run, ADAM, ADAM.defaults, make_params(), GOOD, 2), partial(sweep_stop, ADAM)):
        with pytest.raises(ValueError, match=r"stop is .*, but must be a jills.Stop of numbers"):
            call(stop=stop)


def sweep_stop(algorithm, stop):
    return jills.sweep(algorithm, algorithm.defaults, lambda key: (make_params(), GOOD), KEY[None], 2, stop=stop)


def test_a_gradient_that_nobody_tells_of_stops_nothing():
    stop = jills.Stop(gradient_norm=1e-6)
    for call in (partial(jills.run, ILLS, ILLS.defaults, make_params(), GOOD, 2), partial(sweep_stop, ILLS)):
        with pytest.raises(ValueError, match=r"stop.gradient_norm is given, but this algorithm tells of no gradient"):
            call(stop=stop)


@pytest.mark.parametrize("keys", [np.arange(3), [0, 1], 7])
def test_numbers_are_no_keys(keys):
    with pytest.raises(ValueError, match=r"keys are int.*, but must be keys of JAX: jax.random.split"):
        jills.sweep(ADAM, ADAM.defaults, lambda key: (make_params(), GOOD), keys, 2)


def test_predictions_want_rows_of_the_right_width():
    params = NETWORK.init(KEY)
    with pytest.raises(ValueError, match=r"inputs have shape \(3,\), .* want \(n, 3\); give one row as inputs\[None"):
        NETWORK.predict(params, jnp.ones(3))
    with pytest.raises(ValueError, match=r"inputs have shape \(7, 2\), but network sizes \(3, 5, 2\) want \(n, 3\)"):
        NETWORK.predict(params, jnp.ones((7, 2)))
