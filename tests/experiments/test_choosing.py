"""What the claims on regularisation count: splits, scores, picks; their methods run in test_claims."""

import jax
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

import jills
from experiments import data
from experiments.claims import classes, fitting, guide, laplace, regularisation
from experiments.claims.base import load_config

pytestmark = pytest.mark.usefixtures("usual_jax")


@pytest.fixture
def config():
    return load_config(regularisation.EXPERIMENT, quick=True)


def test_splits_are_as_many_as_the_config_allows_table_and_method(config):
    fewer = {"splits_of_tables": {"sunspots": 1}, "splits_of_methods": {"mlp": 5}}
    config = config.model_copy(update={"seeds": 20, **fewer})
    pairs = [("boston", "ridge"), ("boston", "mlp"), ("sunspots", "mlp"), ("sunspots", "ridge")]
    assert [fitting.count_of(config, *pair) for pair in pairs] == [20, 5, 1, 1]


def test_of_large_tables_some_rows_are_drawn_and_series_keep_their_own_split(config):
    small = config.model_copy(update={"most_rows": 50})
    first, again, other = (regularisation.split_of(small, "diabetes", number, "unused") for number in (0, 0, 1))
    assert first.inputs.shape == (50, 10)
    assert first.test_targets.shape == (44, 1)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.targets, other.targets)
    series = data.load("sunspots", "unused")
    for number in range(2):
        split = regularisation.split_of(config.model_copy(update={"most_rows": 300}), "sunspots", number, "unused")
        np.testing.assert_allclose(split.test_inputs, series.test.inputs, rtol=1e-6)


def test_methods_are_compared_with_evidence_on_their_own_splits():
    rows = [
        {"data": "a", "method": method, "seed": seed, "rmse": rmse, "log_likelihood": rmse}
        for method, errors in (("evidence", [1.0, 3.0, 8.0]), ("ridge", [2.0, 4.0]))
        for seed, rmse in enumerate(errors)
    ]
    both = regularisation.beside_evidence(pd.DataFrame(rows))
    ridge = both[both["method"] == "ridge"]
    assert ridge["rmse"].tolist() == [1.5, 1.5]  # 6 / 4, and the same difference on both
    assert ridge["log_likelihood"].tolist() == [1.0, 1.0]


def test_log_loss_is_that_of_the_true_class_and_bounded():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]])
    told = classes.scores(probabilities, np.array([0, 1, 1]))
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["log_loss"] == pytest.approx(-np.mean(np.log([0.5, 0.8, 1e-7])))


def test_a_guide_picks_a_network_on_each_split_after_the_last_step():
    rows = [
        {"data": "a", "seed": seed, "hidden": hidden, "steps": steps, "log_evidence": value, "rmse": -value}
        for seed, hidden, steps, value in (
            (0, "5", 10, 9.0),
            (0, "5", 20, 1.0),
            (0, "20", 20, 2.0),
            (1, "5", 20, 4.0),
            (1, "20", 20, 3.0),
        )
    ]
    for measure, largest in (("log_evidence", True), ("rmse", False)):
        picked = guide.picks(pd.DataFrame(rows), measure, largest).sort_values("seed")
        assert picked["hidden"].tolist() == ["20", "5"]


def test_laplax_tells_what_the_formulas_of_its_module_say():
    pytest.importorskip("laplax")
    random, ratio = np.random.default_rng(0), 0.3
    network = jills.Network((2, 2, 1), jills.activations.tanh)
    params = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 2))
    inputs, targets, new = random.normal(size=(20, 2)), random.normal(size=(20, 1)), random.normal(size=(3, 2))
    likelihood, mean, variance = laplace.laplace(network, params, ratio, inputs, targets, new)
    for member in range(2):
        flat, back = ravel_pytree(jax.tree.map(lambda leaf, at=member: leaf[at], params))
        predict = lambda flat, rows, back=back: network.predict(back(flat), rows)[:, 0]  # noqa: E731 used at once
        known, unknown = (np.asarray(jax.jacobian(predict)(flat, rows)) for rows in (inputs, new))
        squares, norm = np.sum((predict(flat, inputs) - targets[:, 0]) ** 2), np.sum(np.square(flat))
        noise = (squares + ratio * norm) / 20
        precision = (known.T @ known + ratio * np.eye(len(flat))) / noise
        expected = -0.5 * (squares + ratio * norm) / noise - 10 * np.log(noise) - 0.5 * np.linalg.slogdet(precision)[1]
        expected += 0.5 * len(flat) * np.log(ratio / noise)
        np.testing.assert_allclose(likelihood[member], expected, rtol=1e-6)
        np.testing.assert_allclose(mean[member], predict(flat, new), rtol=1e-6)
        spread = np.einsum("np,pq,nq->n", unknown, np.linalg.inv(precision), unknown)
        np.testing.assert_allclose(variance[member], spread + noise, rtol=1e-6)
