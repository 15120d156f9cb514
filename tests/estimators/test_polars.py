"""Frames and series of Polars go in wherever arrays do, and mean the same."""

from typing import Any

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jills import estimators
from jills.estimators import GroupedRegressor, NetworkClassifier, NetworkRegressor

pl = pytest.importorskip("polars")
SMALL: dict[str, Any] = {"hidden": (3,), "members": 2, "max_steps": 20, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    """Arrays of inputs, targets, weights and groups."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(53, 2)) * [1.0, 100.0]
    targets = np.sin(inputs[:, 0]) + 0.01 * inputs[:, 1]
    return inputs, targets, rng.integers(0, 3, 53), np.array(["u", "v"])[rng.integers(2, size=53)]


def frames(inputs, *columns):
    return pl.DataFrame(inputs, schema=["a", "b"]), *map(pl.Series, columns)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_regression(method, table, tmp_path):
    inputs, targets, weights, _ = table
    frame, series, counts = frames(inputs, targets, weights)
    model, known = NetworkRegressor(**SMALL), NetworkRegressor(**SMALL)
    getattr(model, method)(frame, series, sample_weight=counts)
    getattr(known, method)(inputs, targets, sample_weight=weights)
    assert list(getattr(model, "feature_names_in_", ())) == ["a", "b"]
    for one, other in zip(model.predict(frame, return_std=True), known.predict(inputs, return_std=True), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    score = known.score(inputs, targets, sample_weight=weights)
    assert model.score(frame, series, sample_weight=counts) == pytest.approx(score)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a"]])
    model.save(tmp_path / "model.npz")
    loaded: Any = estimators.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="inputs have columns"):
        loaded.predict(frame[["b", "a"]])


def test_several_outputs(table):
    inputs, targets, *_ = table
    frame, outputs = pl.DataFrame(inputs, schema=["a", "b"]), pl.DataFrame({"up": targets, "down": -targets})
    model = NetworkRegressor(**SMALL).fit(frame, outputs)
    known = NetworkRegressor(**SMALL).fit(inputs, np.stack([targets, -targets], axis=1))
    np.testing.assert_array_equal(model.predict(frame), known.predict(inputs))


@pytest.mark.parametrize("dtype", ["String", "Categorical", "Boolean"])
def test_classes(dtype, table):
    inputs, targets, weights, _ = table
    labels = targets > 0 if dtype == "Boolean" else np.where(targets > 0, "high", "low")
    frame, series, counts = frames(inputs, labels, weights)
    options = {**SMALL, "class_weight": "balanced"}
    model = NetworkClassifier(**options).fit(frame, series.cast(getattr(pl, dtype)), sample_weight=counts)
    known = NetworkClassifier(**options).fit(inputs, labels, sample_weight=weights)
    np.testing.assert_array_equal(model.classes_, known.classes_)
    np.testing.assert_array_equal(model.predict(frame), known.predict(inputs))
    np.testing.assert_array_equal(model.predict_proba(frame), known.predict_proba(inputs))


@pytest.mark.parametrize("dtype", ["String", "Categorical"])
def test_groups(dtype, table):
    inputs, targets, weights, groups = table
    frame, series, counts, labels = frames(inputs, targets, weights + 1, groups)
    labels = labels.cast(getattr(pl, dtype))
    model = GroupedRegressor(**SMALL).fit(frame, series, groups=labels, sample_weight=counts)
    known = GroupedRegressor(**SMALL).fit(inputs, targets, groups=groups, sample_weight=weights + 1)
    told = model.predict(frame, groups=labels, return_std=True)
    for one, other in zip(told, known.predict(inputs, groups=groups, return_std=True), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(model.diagnosis_["group"]) == ["u", "u", "v", "v"]
    assert list(getattr(model, "feature_names_in_", ())) == ["a", "b"]
    assert model.score(frame, series, groups=labels) > 0.5


def test_a_pipeline_that_hands_on_frames_of_polars(table):
    inputs, targets, _, groups = table
    frame, series = frames(inputs, targets)
    frame = frame.with_columns(kind=pl.Series(groups))
    columns = make_column_transformer((OneHotEncoder(sparse_output=False), ["kind"]), (StandardScaler(), ["a", "b"]))
    networks: Any = NetworkRegressor(**SMALL)
    model = make_pipeline(columns.set_output(transform="polars"), networks).fit(frame, series)
    assert networks.feature_names_in_[0] == "onehotencoder__kind_u"
    dense = np.column_stack([groups == "u", groups == "v", (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)])
    known = NetworkRegressor(**SMALL).fit(dense, targets)
    np.testing.assert_allclose(model.predict(frame), known.predict(dense), atol=1e-3)
