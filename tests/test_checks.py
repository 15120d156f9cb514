"""What is refused, and in which words, through the entries that people use; and what is taken all the same."""

import itertools
import re
import warnings
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray
from jax.experimental.sparse import BCOO
from jax.tree_util import Partial

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


def run(batch, params=None, algorithm: Any = ILLS):
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
    with pytest.raises(ValueError, match=r"keys are .*, but must be of JAX: jax.random.split"):
        jills.sweep(ADAM, ADAM.defaults, lambda key: (make_params(), GOOD), keys, 2)


def test_predictions_want_rows_of_the_right_width():
    params = NETWORK.init(KEY)
    with pytest.raises(ValueError, match=r"inputs have shape \(3,\), .* want \(n, 3\); give one row as inputs\[None"):
        NETWORK.predict(params, jnp.ones(3))
    with pytest.raises(ValueError, match=r"inputs have shape \(7, 2\), but network sizes \(3, 5, 2\) want \(n, 3\)"):
        NETWORK.predict(params, jnp.ones((7, 2)))


# What the properties of test_doors.py have found, one of a kind with the right value


FOREIGN = {
    "a list": (GOOD.inputs.tolist(), "a list"),
    "rows": (iter(GOOD.inputs), "a iterator"),
    "a frame": (pd.DataFrame(GOOD.inputs), "a DataFrame"),
    "a sparse matrix": (scipy.sparse.csr_matrix(GOOD.inputs), "a csr_matrix"),
    "a sparse matrix of JAX": (BCOO.fromdense(jnp.asarray(GOOD.inputs)), "a BCOO"),
    "a labelled array": (xarray.DataArray(GOOD.inputs), "a DataArray"),
    "with units": (GOOD.inputs.view(Quantity), "a Quantity"),
    "a matrix": (GOOD.inputs.view(np.matrix), "a matrix"),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("name", FOREIGN)
def test_the_line_that_a_refusal_tells_to_write_works(name):
    inputs, kind = FOREIGN[name]
    with pytest.raises(ValueError, match=f"inputs are {kind}, but must be an array of numbers; give ") as refused:
        init(GOOD._replace(inputs=inputs))
    line = str(refused.value).split("give ")[-1]
    np.testing.assert_array_equal(eval(line, {"inputs": inputs, "numpy": np}), GOOD.inputs)


def test_arrays_of_jax_that_are_gone_are_named():
    gone = jnp.asarray(GOOD.targets)
    gone.delete()
    message = "are an array of JAX that was deleted or donated to another computation; keep a copy"
    with pytest.raises(ValueError, match=f"targets {message}"):
        run(GOOD._replace(targets=gone))
    with pytest.raises(ValueError, match=r"params\[0\].bias is an array of JAX that was deleted"):
        run(GOOD, (Layer(make_params()[0].weight, gone), make_params()[1]))


def test_rows_of_weight_zero_may_hold_what_the_dtype_cannot():
    """Warnings are errors here, and the cast to float32 used to warn."""
    weights = changed(ones(n), 4, 0.0)
    state, _ = run(Batch(changed(GOOD.inputs, 4, 1e300), GOOD.targets, weights), make_params(dtype="float32"), ADAM)
    expected, _ = run(Batch(changed(GOOD.inputs, 4, 0.0), GOOD.targets, weights), make_params(dtype="float32"), ADAM)
    np.testing.assert_array_equal(state.loss, expected.loss)


def test_a_state_shares_no_memory_with_what_it_was_made_of():
    """`init` used to keep the caller's own arrays where they happened to lie on a boundary of 64 bytes."""
    room = np.zeros(1024)
    place = -room.ctypes.data % 64 // 8
    weight: Any = room[place : place + 15].reshape(3, 5)
    weight[...] = make_params()[0].weight
    state = ADAM.init((make_params()[0]._replace(weight=weight), make_params()[1]), GOOD)
    weight[...] = 99.0
    np.testing.assert_array_equal(state.params[0].weight, make_params()[0].weight)


BAD_PARAMS = {
    "lists": (
        jax.tree.map(np.ndarray.tolist, make_params()),
        r"params\[0\].weight is a list",
    ),
    "objects": (
        jax.tree.map(lambda leaf: leaf.astype(object), make_params()),
        r"params\[0\].weight is of dtype object",
    ),
    "masked": (jax.tree.map(np.ma.masked_array, make_params()), r"params\[0\].weight is a masked array"),
    "of a sweep": (jax.tree.map(lambda leaf: leaf[None], make_params()), r"have shapes \[\(\(1, 3, 5\), .*jax.vmap"),
}


@pytest.mark.parametrize("name", BAD_PARAMS)
def test_params_are_plain_arrays_too(name):
    params, message = BAD_PARAMS[name]
    for entry in (init, run, sweep):
        with pytest.raises(ValueError, match=message):
            entry(GOOD, params)
    with pytest.raises(ValueError, match=message):
        NETWORK.predict(params, GOOD.inputs)


def test_params_of_64_bits_are_refused_where_jax_has_them_off():
    with jax.enable_x64(False), pytest.raises(ValueError, match="params are float64, but JAX has 64 bits off; give"):
        run(GOOD, make_params())


@entries
@pytest.mark.parametrize("name", ["big-endian", "Fortran order", "backwards"])
def test_the_order_of_bytes_of_params_does_not_matter(entry, name):
    states = [entry(GOOD, params, ADAM) for params in (make_params(), jax.tree.map(ORDERS[name], make_params()))]
    one, other = (found if isinstance(found, jills.State) else found[0] for found in states)
    np.testing.assert_array_equal(one.loss, other.loss)


def test_a_state_may_come_in_any_order_of_bytes():
    state = jax.tree.map(np.asarray, ADAM.init(make_params(), GOOD))
    odd = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype.newbyteorder(">")), state)
    for go_on in (lambda state: run(GOOD, state, ADAM)[0], lambda state: ADAM.observe(state, GOOD)):
        jax.tree.map(np.testing.assert_array_equal, go_on(odd), go_on(state))


def test_the_arguments_of_a_partial_are_held_to_the_same():
    """They go straight into a compiled program, which misreads them."""

    def problem(batch, key):
        return make_params(), batch

    def train(batch):
        return jills.sweep(ADAM, ADAM.defaults, Partial(problem, batch), KEY[None], 2).state.loss

    np.testing.assert_array_equal(train(GOOD), train(jax.tree.map(ORDERS["big-endian"], GOOD)))
    with pytest.raises(ValueError, match=r"the arguments of problem's Partial are a DataFrame, .* give .*\.to_numpy"):
        train(GOOD._replace(inputs=pd.DataFrame(GOOD.inputs)))
    metrics = Partial(lambda inputs, params: NETWORK.predict(params, inputs), np.ma.masked_array(GOOD.inputs))
    with pytest.raises(ValueError, match="the arguments of metrics's Partial are a masked array"):
        jills.run(ADAM, ADAM.defaults, make_params(), GOOD, 2, metrics=metrics)


# Steps outside of a trace, and a look at other rows


NO_STATE: Any = make_params()


def test_a_step_outside_of_a_trace_and_a_look_are_checked_as_a_start_is():
    state = ADAM.init(make_params(), GOOD)
    spoilt, message = BAD_BATCHES["a NaN input"]
    for enter in (lambda state, batch: ADAM.step(ADAM.defaults, state, batch), ADAM.observe):
        with pytest.raises(ValueError, match=message):
            enter(state, spoilt)
        with pytest.raises(ValueError, match="inputs are of dtype timedelta64"):
            enter(state, GOOD._replace(inputs=np.ones((n, 3), "timedelta64[s]")))
        with pytest.raises(ValueError, match="is of another algorithm, network, dtype or number of members"):
            enter(ILLS.init(make_params(), GOOD), GOOD)
        with pytest.raises(ValueError, match=r"the state to go on from is .*, but must be a jills.State, such as"):
            enter(NO_STATE, GOOD)
    with pytest.raises(ValueError, match=r"learning_rate is -1, but must lie in \(0, "):
        ADAM.step(jills.adam.Hparams(-1.0), state, GOOD)


def test_one_number_lets_all_go_on_and_a_number_of_python_may_stand_in_a_state():
    state, _ = jills.run(ADAM, ADAM.defaults, make_params(), GOOD, 2, stop=jills.Stop(target_loss=1e9))
    for result in (0, jills.results.RUNNING, np.int64(0), jnp.zeros((), "uint8")):
        go_on: Any = state._replace(result=result, loss=float(state.loss))
        after, _ = run(GOOD, go_on, ADAM)
        assert after.step == state.step + 5
    many: Any = 10**46
    for wrong in (state._replace(result=many), state._replace(step=many), state._replace(step=0.5)):
        with pytest.raises(ValueError, match=r"\.(result|step) is (1000|0\.5).*, but int32\[\] is expected"):
            run(GOOD, wrong, ADAM)


def test_activations_that_were_left_out_of_a_state_are_found_anew():
    """Zeros used to take their place, and ILLS trained on them."""
    state, _ = run(GOOD)
    light = state._replace(activations=())
    jax.tree.map(np.testing.assert_array_equal, run(GOOD, light), run(GOOD, state))
    one, other = (ILLS.step(ILLS.defaults, each, GOOD)[0] for each in (light, state))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


# Hyperparameters as numbers


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        (jills.adam.Hparams(1e-46), r"learning_rate is 1e-46, which in float32 is 0, but must lie in \(0, "),
        (jills.adam.Hparams(b1=1 - 1e-9), r"b1 is 0.999999999, which in float32 is 1, but must lie in \[0, 1\)"),
        (jills.adam.Hparams(b2=np.float64(1 - 1e-9)), r"b2 is 0.999999999, which in float32 is 1, but"),
    ],
)
def test_what_rounds_out_of_its_limits_is_refused(hparams, message):
    """With b1 = 1 Adam divides zero by zero; with a rate of zero it stands still."""
    ADAM.check(hparams)
    params = make_params(dtype="float32")
    for call in (
        partial(jills.run, ADAM, hparams, params, GOOD, 2),
        partial(jills.sweep, ADAM, hparams, lambda key: (params, GOOD), KEY[None], 2),
    ):
        with pytest.raises(ValueError, match=message):
            call()


NO_NUMBERS = [0.1 + 0j, np.complex64(0.1), Decimal("0.1"), Fraction(1, 10), 10**400, pd.Series([0.1]), np.array("0.1")]
NO_NUMBERS += [np.array(0.1, object), np.ma.masked_array(0.1, True), np.timedelta64(1), KEY]


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda number: type(number).__name__)
def test_what_is_no_real_number_is_no_hyperparameter_no_limit_and_no_axis(number):
    for call in (
        lambda: jills.run(ADAM, jills.adam.Hparams(number), make_params(), GOOD, 2),
        lambda: jills.run(ADAM, ADAM.defaults, make_params(), GOOD, 2, stop=jills.Stop(number)),
    ):
        with pytest.raises(
            ValueError, match=r"must be a number or an array of numbers|must be a jills.Stop of numbers"
        ):
            call()
    if not isinstance(number, pd.Series):
        with pytest.raises(
            ValueError, match=r"product: learning_rate is .*, but must be a number or a list of numbers"
        ):
            jills.product(jills.adam.Hparams, learning_rate=number)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.array, partial(np.array, dtype=">f8"), jnp.asarray])
def test_numbers_of_any_kind_are_hyperparameters(kind):
    states = [jills.run(ADAM, jills.adam.Hparams(rate), make_params(), GOOD, 3)[0] for rate in (0.5, kind(0.5))]
    np.testing.assert_array_equal(states[0].loss, states[1].loss)


def test_a_hyperparameter_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="product: there is no rate; the hyperparameters are learning_rate, ridge"):
        jills.product(ills.Hparams, rate=[0.1])


# Functions, keys and counts


def test_what_is_no_algorithm_no_function_or_no_member_is_named():
    problem = lambda key: (make_params(), GOOD)  # noqa: E731 for a table
    table: dict[str, Any] = {
        r"algorithm is <module 'jills.adam'.*, but must be what a build returns": (jills.adam, problem, None),
        "problem is .*, but must be a function": (ADAM, [make_params(), GOOD], None),
        "metrics is 7, but must be a function": (ADAM, problem, 7),
        r"problem\(key\) returned None, but must return a jills.Member\(params, batch\)": (
            ADAM,
            lambda key: None,
            None,
        ),
        r"problem\(key\) returned Batch.*, but must return": (ADAM, lambda key: GOOD, None),
    }
    for message, (algorithm, function, metrics) in table.items():
        with pytest.raises(ValueError, match=message):
            jills.sweep(algorithm, ADAM.defaults, function, KEY[None], 2, metrics=metrics)
    with pytest.raises(ValueError, match=r"algorithm is Network.*, but must be what a build returns"):
        jills.run(NETWORK, ADAM.defaults, make_params(), GOOD, 2)  # pyright: ignore[reportArgumentType] on purpose


def test_old_keys_may_come_in_any_order_of_bytes():
    draw = lambda _, key: jax.random.normal(key)  # noqa: E731 used twice
    raw: Any = np.asarray(jax.random.key_data(KEY[None]))
    expected = jills.grid(draw, ADAM.defaults, KEY[None])
    np.testing.assert_array_equal(jills.grid(draw, ADAM.defaults, raw.astype(">u4")), expected)


@pytest.mark.parametrize("key", [7, "a", None, np.arange(2), KEY[None]])
def test_a_network_is_drawn_from_one_key(key):
    with pytest.raises(ValueError, match=r"key is .*, but must be of JAX: jax.random.key|key has shape \(1,\), but"):
        NETWORK.init(key)


def test_counts_of_few_bits_do_not_overflow():
    """40 bytes of records a step, times the steps, is more than 255."""
    few: Any = np.uint8(200)
    result = jills.sweep(ADAM, ADAM.defaults, lambda key: (make_params(), GOOD), KEY[None], few)
    assert result.info.loss.shape == (1, 1, 200)


@pytest.mark.parametrize("count", [True, "3", 2**31, np.array([3])])
def test_what_is_no_count_is_refused(count):
    with pytest.raises(ValueError, match=r"run: num_steps is .*, but must be at least 1, and an integer below 2\*\*31"):
        jills.run(ADAM, ADAM.defaults, make_params(), GOOD, count)


# Predictions


@pytest.mark.parametrize("dtype", [">f8", ">f4", "int32", "float16", "longdouble", "bool"])
def test_predictions_are_those_of_the_plain_copy(dtype):
    params = make_params(dtype="float32")
    inputs: Any = np.round(2 * np.asarray(GOOD.inputs)).astype(dtype)
    found = NETWORK.predict(params, inputs)
    assert found.dtype == "float32"
    hidden = np.tanh(inputs.astype("float64") @ params[0].weight + params[0].bias)
    np.testing.assert_allclose(found, hidden @ params[1].weight + params[1].bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_predictions_are_refused_what_is_no_plain_array(name):
    inputs, message = NO_ARRAYS[name]
    with pytest.raises(ValueError, match=message):
        NETWORK.predict(make_params(), inputs)


def test_predictions_want_the_params_of_the_network():
    with pytest.raises(ValueError, match=r"params have shapes .*, but a network of sizes \(3, 5, 2\) has"):
        NETWORK.predict(make_params()[:1], GOOD.inputs)
    with pytest.raises(ValueError, match="params are float32, float64; all must be float32 or all float64"):
        NETWORK.predict(tuple(Layer(w, b.astype("float32")) for w, b in make_params()), GOOD.inputs)
