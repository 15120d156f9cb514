"""Graphs of ONNX, run by its runtime, against what the estimators predict."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from jills import estimators
from jills.estimators import GroupedRegressor, NetworkClassifier, NetworkRegressor

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
SMALL: dict[str, Any] = {"hidden": (5, 3), "members": 3, "regularization": 1e-3, "max_steps": 20, "random_state": 0}
FLOAT32 = 2e-6  # of the spread


def table(n=61, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 2)) * [1.0, 100.0] + [5.0, 1000.0]
    return inputs, 1e4 + 70.0 * np.sin(inputs[:, 0])


def run(path, inputs, **others):
    """All outputs by their names; the tensors are of the dtype that the graph asks for."""
    session = runtime.InferenceSession(path)
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}[session.get_inputs()[0].type]
    told = session.run(None, {"inputs": np.asarray(inputs, dtype), **others})
    return dict(zip([output.name for output in session.get_outputs()], told, strict=True))


def check(told, expected, spread):
    assert told.dtype == np.float32
    assert told.shape == expected.shape
    assert len(told) == 1 or np.std(expected) > 0.1 * spread
    np.testing.assert_allclose(told, expected, atol=FLOAT32 * spread, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(estimators.forward.FUNCTIONS))
def test_networks_of_all_activations(name, tmp_path):
    rng = np.random.default_rng(1)
    leaf = lambda *shape: rng.normal(size=(7, *shape)).astype(np.float32)  # noqa: E731
    scale = lambda size: estimators.forward.Scaling(rng.normal(size=size), rng.uniform(1, 2, size))  # noqa: E731
    params: Any = [(leaf(3, 5), leaf(5)), (5 * leaf(5, 11), 5 * leaf(11)), (leaf(11, 2), leaf(2))]
    forward = estimators.forward.Forward.of(params, name, scale(3), scale(2))
    estimators.graph.write(tmp_path / "model.onnx", forward, "float32")
    inputs = rng.normal(size=(13, 3)).astype(np.float32)
    expected = forward.predict(inputs)
    check(run(tmp_path / "model.onnx", inputs)["mean"], expected, np.max(np.abs(expected)))


@pytest.mark.parametrize("outputs", [(), (1,), (2,)], ids=str)
def test_regression_with_any_number_of_rows_before_and_after_a_file(outputs, tmp_path):
    inputs, targets = table()
    targets = targets if not outputs else np.stack([targets, -3.0 * targets][: outputs[0]], axis=1)
    frame = pd.DataFrame(inputs.astype(np.float32), columns=["a", "b"])
    model: Any = NetworkRegressor(**SMALL).fit(frame, targets)
    model.to_onnx(tmp_path / "model.onnx")
    model.save(tmp_path / "model.npz")
    estimators.load(tmp_path / "model.npz").to_onnx(tmp_path / "loaded.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "loaded.onnx").read_bytes()
    for count in (1, 17, 61):
        expected = model.predict(frame[:count])
        check(run(tmp_path / "model.onnx", frame[:count])["mean"], expected, 70.0)
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].doc_string == "a, b"


def test_without_hidden_layers(tmp_path):
    inputs, targets = table()
    inputs = inputs.astype(np.float32)
    model = NetworkRegressor(**{**SMALL, "hidden": ()}).fit(inputs, targets)
    model.to_onnx(tmp_path / "model.onnx")
    check(run(tmp_path / "model.onnx", inputs)["mean"], model.predict(inputs), 70.0)


@pytest.mark.parametrize("labels", [["no", "yes", "perhaps"], [3, 5, 7], [False, True], [2.0, -1.0]], ids=str)
def test_classes(labels, tmp_path):
    inputs, targets = table()
    inputs = inputs.astype(np.float32)
    which = np.digitize(targets, np.quantile(targets, [0.3, 0.6][: len(labels) - 1]))
    model = NetworkClassifier(**SMALL).fit(inputs, np.asarray(labels)[which])
    model.save(tmp_path / "model.npz")
    estimators.load(tmp_path / "model.npz").to_onnx(tmp_path / "model.onnx")
    told = run(tmp_path / "model.onnx", inputs[:19])
    assert list(told) == ["labels", "probabilities"]
    check(told["probabilities"], model.predict_proba(inputs[:19]), 1.0)
    np.testing.assert_array_equal(told["labels"], model.predict(inputs[:19]))
    assert len(set(told["labels"])) > 1


def test_columns_far_from_zero_keep_their_digits_in_float64(tmp_path):
    rng = np.random.default_rng(0)
    seconds = 1.7e9 + rng.uniform(0, 100, (61, 1))
    targets = 1e8 + np.sin((seconds[:, 0] - 1.7e9) / 30)
    model = NetworkRegressor(**SMALL).fit(seconds, targets)
    model.to_onnx(tmp_path / "model.onnx", dtype="float64")
    told = run(tmp_path / "model.onnx", seconds)["mean"]
    assert told.dtype == np.float64
    assert np.std(told) > 0.3
    np.testing.assert_allclose(told, model.predict(seconds), atol=FLOAT32, rtol=0)
    with pytest.raises(ValueError, match="dtype is 'float16', but must be"):
        model.to_onnx(tmp_path / "model.onnx", dtype="float16")


def test_all_groups_in_one_graph(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.array(["b", "a", "c"])[rng.integers(3, size=71)]
    inputs = rng.uniform(-1, 1, (71, 2)).astype(np.float32)
    targets = np.where(groups == "a", 10.0, -5.0) + np.sin(3 * inputs[:, 0])
    model: Any = GroupedRegressor((5,), members=2, max_steps=20, random_state=0).fit(inputs, targets, groups=groups)
    model.to_onnx(tmp_path / "model.onnx")
    places = np.searchsorted(model.groups_, groups)
    told = run(tmp_path / "model.onnx", inputs, groups=places)["mean"]
    check(told, model.predict(inputs, groups=groups), 20.0)
    model.fitted_.of_group("c").to_onnx(tmp_path / "one.onnx")
    of = groups == "c"
    check(run(tmp_path / "one.onnx", inputs[of])["mean"], told[of], 5.0)
    with pytest.raises(Exception, match="out of"):
        run(tmp_path / "model.onnx", inputs, groups=places + 1)


def test_groups_that_are_far_apart(tmp_path):
    rng = np.random.default_rng(0)
    groups, inputs = np.repeat([3, 5], 40), 1.7e9 + rng.uniform(0, 100, (80, 1))
    targets = np.where(groups == 3, 1e8, -1e3) + np.sin((inputs[:, 0] - 1.7e9) / 30)
    model = GroupedRegressor((5,), members=2, max_steps=20, random_state=0).fit(inputs, targets, groups=groups)
    model.to_onnx(tmp_path / "model.onnx", dtype="float64")
    told = run(tmp_path / "model.onnx", inputs, groups=(groups - 3) // 2)["mean"]
    np.testing.assert_allclose(told, model.predict(inputs, groups=groups), atol=FLOAT32, rtol=0)
    np.testing.assert_allclose(told, targets, atol=0.1)


def test_without_onnx_the_extra_is_named(monkeypatch, tmp_path):
    model: Any = NetworkRegressor(**SMALL)
    with pytest.raises(NotFittedError):
        model.to_onnx(tmp_path / "model.onnx")
    model.fit(*table())
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jills\[onnx\]'"):
        model.to_onnx(tmp_path / "model.onnx")
