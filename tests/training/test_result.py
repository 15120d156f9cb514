"""What the result of a sweep tells of its members: against NumPy, which knows nothing of jills."""

import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jills
from jills import activations, results

H, S, T, ROWS, NEW = 2, 3, 5, 17, 19
NETWORK = jills.Network((7, 13, 11), activations.tanh)
RATES = [0.01, 0.1]


def problem(key):
    inputs = jax.random.normal(key, (ROWS, 7))
    return NETWORK.init(key), jills.Batch(inputs, jnp.sin(inputs @ jnp.ones((7, 11))))


def metrics(params):
    return {"norm": jnp.linalg.norm(params[0].weight), "bias": params[0].bias.astype("bfloat16")}


def train(**options) -> jills.SweepResult:
    keys = jax.random.split(jax.random.key(2), S)
    return jills.sweep(
        jills.adam.build(NETWORK), jills.adam.Hparams(jnp.array(RATES)), problem, keys, T, metrics=metrics, **options
    )


@pytest.fixture(scope="module")
def result():
    return train(validation=problem(jax.random.key(5))[1])


def judged(values, **changes) -> Any:
    """A result of which only final losses matter."""
    losses: Any = np.asarray(values)
    blank: Any = ()
    zeros: Any = np.zeros(losses.shape, np.int32)
    state = jills.State(blank, (), (), zeros, losses, blank, changes.pop("best_loss", losses), zeros)
    info = jills.Info(losses[..., None], losses[..., None], losses[..., None] > 0)
    return jills.SweepResult(state._replace(**changes), info, 1, False, 0.0, 0.0)


def by_hand(params, h, s, inputs):
    """The network in NumPy."""
    first, last = jax.tree.map(lambda leaf: np.asarray(leaf)[h, s], params)
    return np.tanh(inputs @ first.weight + first.bias) @ last.weight + last.bias


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_every_member_predicts(result, best, stacked):
    inputs = np.random.default_rng(0).normal(size=(S, NEW, 7) if stacked else (NEW, 7))
    predicted = result.predict(inputs, best=best)
    assert isinstance(predicted, jax.Array)
    assert predicted.shape == (H, S, NEW, 11)
    params = result.state.best_params if best else result.state.params
    for h, s in np.ndindex(H, S):
        expected = by_hand(params, h, s, inputs[s] if stacked else inputs)
        np.testing.assert_allclose(predicted[h, s], expected, rtol=1e-9, atol=1e-12)


def test_members_predict_a_few_at_a_time(result, monkeypatch):
    inputs = np.random.default_rng(0).normal(size=(NEW, 7))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("jills.training.result.MOST_NUMBERS", 4 * NEW * 32)  # of six members
    np.testing.assert_allclose(result.predict(inputs)[1, 2], by_hand(result.state.params, 1, 2, inputs), rtol=1e-9)


def test_predictions_are_in_the_precision_of_the_parameters():
    with jax.enable_x64(False):
        network = jills.Network((2, 1))
        start = lambda key: (network.init(key), jills.Batch(jnp.ones((3, 2)), jnp.ones((3, 1))))  # noqa: E731
        small = jills.sweep(jills.adam.build(network), jills.adam.Hparams(), start, jax.random.key(0)[None], 1)
        assert small.predict(np.ones((5, 2))).dtype == "float32"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones((NEW, 5)), r"inputs have shape \(19, 5\)"),
        (np.ones(7), r"give one row as inputs\[None, :\]"),
        (np.ones((H, NEW, 7)), r"stacked for 2 keys, but there are 3"),
        ([[1.0] * 7], "inputs are"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(result, inputs, message):
    with pytest.raises(ValueError, match=message):
        result.predict(inputs)


def test_a_member_is_what_run_returns(result):
    state, info = result.member(1, 2)
    np.testing.assert_array_equal(state.params[1].weight, np.asarray(result.state.params[1].weight)[1, 2])
    np.testing.assert_array_equal(info.loss, result.info.loss[1, 2])
    assert (state.loss.shape, info.loss.shape) == ((), (T,))
    assert isinstance(result.member(np.int64(0), 0), jills.Trained)
    assert jills.diagnose(state, info).word == jills.diagnose(result.state, result.info).word[1, 2]
    key = jax.random.split(jax.random.key(2), S)[2]
    jills.run(jills.adam.build(NETWORK), jills.adam.Hparams(), state, problem(key)[1], 1)


@pytest.mark.parametrize(("h", "s", "message"), [(2, 0, "h is 2, .* 0 to 1"), (0, 3, "s is 3, .* 0 to 2")])
def test_there_is_no_such_member(result, h, s, message):
    with pytest.raises(IndexError, match=message):
        result.member(h, s)
    with pytest.raises(IndexError, match="h is -1"):
        result.member(-1, 0)
    with pytest.raises(TypeError, match="integer"):
        result.member(0.0, 0)


def test_the_best_has_the_lowest_final_loss(result):
    losses = np.asarray(result.state.loss)
    h, s = result.best()
    assert (type(h), type(s)) == (int, int)
    assert all(losses[h, s] <= other for other in losses.ravel())
    assert judged([[3.0, np.nan, 2.0], [-np.inf, 2.0, np.inf]]).best() == (0, 2)


def test_a_member_without_rows_is_never_the_best():
    codes = np.array([[results.BAD_WEIGHTS, 0, 0]])
    assert judged([[0.0, 2.0, 1.0]], result=codes).best() == (0, 2)


def test_the_best_by_validation_and_by_a_function(result):
    lowest = result.info.validation.min(axis=2)  # at the best of the steps before the last
    np.testing.assert_array_less(np.asarray(result.state.best_loss), lowest + 1e-12)
    h, s = result.best("validation")
    assert result.state.best_loss[h, s] == np.min(result.state.best_loss)
    assert result.best(lambda each: -each.state.loss) == np.unravel_index(np.argmax(result.state.loss), (H, S))


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("validation", "had no validation rows; give it validation="),
        ("log_evidence", "next to uncorrelated with the test error"),
        ("evidence", "jills.ensemble"),
        ("test", "by is 'test', but must be 'loss', 'validation' or a function"),
        (lambda result: result.info.loss, r"shape \(1, 3, 1\), but must tell a number for each of \(1, 3\)"),
        (lambda result: np.nan * result.state.loss, "no member has a finite value"),
    ],
)
def test_criteria_that_do_not_choose_are_refused(by, message):
    with pytest.raises(ValueError, match=message):
        judged([[1.0, 2.0, 3.0]]).best(by)


def test_a_frame_of_members(result):
    frame = result.to_dataframe()
    assert list(frame.columns) == [
        *("hparam", "seed", "learning_rate", "b1", "b2", "eps"),
        *("steps", "final_loss", "best_loss", "result", "diagnosis", "last_validation"),
    ]
    assert len(frame) == H * S
    row = frame[(frame.hparam == 1) & (frame.seed == 2)].iloc[0]
    assert (row.learning_rate, row.b1, row.steps, row.result) == (0.1, 0.9, T, "running")
    assert row.final_loss == result.state.loss[1, 2]
    assert row.last_validation == result.info.validation[1, 2, -1]
    assert row.diagnosis == jills.diagnose(result.state, result.info).word[1, 2]
    means = frame.groupby("learning_rate").final_loss.mean()
    np.testing.assert_allclose(means[0.1], np.mean(result.state.loss, axis=1)[1])


def test_a_frame_of_curves(result):
    frame = result.to_dataframe(curves=True)
    assert len(frame) == H * S * T
    assert {"hparam", "seed", "step", "learning_rate", "loss", "update_norm", "metrics_norm"} <= set(frame)
    assert "metrics_bias" not in frame  # an array
    for h, s in np.ndindex(H, S):
        rows = frame[(frame.hparam == h) & (frame.seed == s)].sort_values("step")
        np.testing.assert_array_equal(rows.loss, result.info.loss[h, s])
        np.testing.assert_array_equal(rows.metrics_norm, result.info.metrics["norm"][h, s])
        assert list(rows.step) == list(range(T))
        assert set(rows.learning_rate) == {RATES[h]}


def test_a_dataset_with_labels(result, tmp_path):
    dataset = result.to_xarray()
    assert dict(dataset.sizes) == {"hparam": H, "seed": S, "step": T, "metrics_bias_0": 13}
    assert dataset.loss.dims == dataset.update_norm.dims == dataset.validation.dims == ("hparam", "seed", "step")
    assert dataset.metrics_bias.dims == ("hparam", "seed", "step", "metrics_bias_0")
    np.testing.assert_array_equal(dataset.metrics_bias, result.info.metrics["bias"].astype("float32"))
    np.testing.assert_array_equal(dataset.learning_rate, RATES)
    np.testing.assert_array_equal(dataset.loss.sel(hparam=1, seed=2), result.info.loss[1, 2])
    np.testing.assert_array_equal(dataset.final_loss, result.state.loss)
    by_rate = dataset.swap_dims(hparam="learning_rate").sel(learning_rate=0.1)
    np.testing.assert_array_equal(by_rate.final_loss, result.state.loss[1])
    dataset.to_netcdf(tmp_path / "sweep.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "sweep.nc", engine="h5netcdf") as read:
        xr.testing.assert_equal(read.load(), dataset)


class Detail(NamedTuple):
    damping: Any
    alpha: Any


class Hparams(NamedTuple):
    damping: Any
    loss: Any


def test_hyperparameters_and_records_of_one_name_stand_side_by_side():
    one, ones = judged(np.ones((H, S))), jnp.ones((H, S, 3))
    detail = Detail(np.zeros((H, S, 1)), np.zeros((H, S, 1, 7)))
    hparams = Hparams(np.arange(2.0), np.arange(2.0) + 3)
    one = one._replace(info=one.info._replace(detail=detail), hparams=hparams)
    one = one._replace(state=one.state._replace(params=(jills.Layer(ones, ones),)))
    dataset, frame = one.to_xarray(), one.to_dataframe(curves=True)
    assert dataset.detail_alpha.shape == (H, S, 1, 7)
    for table in (dataset, frame):
        assert {"damping", "detail_damping", "hparams_loss", "loss"} <= {*table.keys(), *getattr(table, "coords", ())}


@pytest.mark.parametrize(("method", "package"), [("to_dataframe", "pandas"), ("to_xarray", "xarray")])
def test_packages_that_are_not_there(result, method, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"{method} needs {package}: pip install {package}"):
        getattr(result, method)()


def test_a_file_knows_the_network(result, tmp_path):
    inputs = np.random.default_rng(0).normal(size=(NEW, 7))
    jills.save(tmp_path / "sweep.npz", {"one": result})
    loaded = jills.load(tmp_path / "sweep.npz")["one"]
    assert loaded.network == NETWORK
    np.testing.assert_array_equal(loaded.predict(inputs), result.predict(inputs))
    like = jills.load(tmp_path / "sweep.npz", {"one": result})["one"]
    assert like.network == NETWORK
    xr.testing.assert_identical(loaded.to_xarray(), result.to_xarray())
    assert [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jills.Network)] == []


@pytest.mark.parametrize(
    "network",
    [
        jills.Network((3, 1)),
        jills.Network((3, 5, 2, 1), (activations.leaky_relu(0.3), activations.relu), activations.sigmoid),
        jills.Network((3, 5, 2, 1), activations.leaky_relu(0.3)),
    ],
    ids=["none", "several", "one"],
)
def test_a_file_holds_networks(network, tmp_path):
    jills.save(tmp_path / "network.npz", [network, jnp.ones(2)])
    assert jills.load(tmp_path / "network.npz")[0] == network


def test_activations_of_ones_own_stay_behind(result, tmp_path):
    own = jills.Network(
        (7, 13, 11), jills.Activation(lambda total: jnp.tanh(total), lambda total: 1 - jnp.tanh(total) ** 2)
    )
    jills.save(tmp_path / "sweep.npz", result._replace(network=own))
    loaded = jills.load(tmp_path / "sweep.npz")
    assert loaded.network is None
    inputs = np.ones((NEW, 7))
    with pytest.raises(ValueError, match=r"does not know its network, .*; give network="):
        loaded.predict(inputs)
    np.testing.assert_array_equal(loaded.predict(inputs, network=NETWORK), result.predict(inputs))
    with pytest.raises(ValueError, match="a file cannot hold functions of your own"):
        jills.save(tmp_path / "network.npz", own)


@pytest.mark.parametrize("newer", [("network",), ("network", "algorithm", "hparams", "keys")])
def test_files_of_earlier_versions(result, newer, tmp_path):
    """They are of format 1, and their results have fewer fields."""
    path = tmp_path / "sweep.npz"
    jills.save(path, result)
    with np.load(path) as file:
        entries = dict(file)
    told = json.loads(str(entries.pop("jills_tree"))) | {"format": 1}
    for name in newer:
        told["tree"]["fields"].pop(name)
    lost = tuple(f".{name}" for name in newer)
    kept: Any = {name: array for name, array in entries.items() if not name.startswith(lost)}
    np.savez(path, jills_tree=np.array(json.dumps(told)), **kept)
    old = jills.load(path)
    assert old.network is None
    assert old.best() == result.best()
    assert len(old.to_dataframe()) == H * S
    rest = dict.fromkeys(newer, None) | ({"algorithm": ""} if "algorithm" in newer else {})
    jax.tree.map(np.testing.assert_array_equal, old, result._replace(**rest))
    on, again = train(state=old), train(state=result)
    np.testing.assert_array_equal(on.state.loss, again.state.loss)
    assert on.network == NETWORK
