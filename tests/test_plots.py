"""The displays draw what the estimators tell, where they were asked to, and nothing is imported before."""

import subprocess
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jills
from jills import plots

ROWS = 48


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    inputs = pd.DataFrame(rng.normal(size=(ROWS, 2)), columns=["told", "idle"])
    return inputs, np.sin(inputs["told"].to_numpy()) + 0.1 * rng.normal(size=ROWS)


@pytest.fixture(scope="module")
def pipeline(table):
    scaler = StandardScaler().set_output(transform="pandas")
    model = jills.estimators.NetworkRegressor(hidden=(2,), members=2, max_steps=12, folds=2, random_state=0)
    return make_pipeline(scaler, model).fit(*table)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class Known:
    """Predicts a standard normal target at zero, with intervals that are right."""

    def predict(self, inputs):
        return np.zeros(len(inputs))

    def predict_interval(self, inputs, coverage=0.9):
        from statistics import NormalDist

        end = np.full(len(inputs), NormalDist().inv_cdf(0.5 + 0.5 * coverage))
        return -end, end


def test_training(pipeline):
    shown = plots.TrainingDisplay.from_estimator(pipeline, color="black")
    loss, log_evidence = shown.loss, shown.log_evidence
    assert loss.shape == (12,)
    assert log_evidence is not None
    assert log_evidence.shape == (2, 12)
    np.testing.assert_allclose(log_evidence[:, -1], pipeline[-1].log_evidence_, rtol=0.1)
    line = shown.ax_.get_lines()[0]
    np.testing.assert_array_equal(line.get_ydata(), loss)
    assert line.get_color() == "black"
    assert shown.evidence_ax_ is not None
    assert shown.evidence_ax_.get_ylabel().startswith("log evidence")
    assert shown.figure_ is shown.ax_.figure


def test_training_without_evidence():
    model = SimpleNamespace(loss_curve_=np.array([1.0, 0.5]))
    shown = plots.TrainingDisplay.from_estimator(model)
    assert shown.log_evidence is None
    assert shown.evidence_ax_ is None
    with pytest.raises(AttributeError, match="fit a NetworkRegressor"):
        plots.TrainingDisplay.from_estimator(Known())


def test_predictions_of_rows_held_out(pipeline, table):
    inputs, targets = table
    _, ax = plt.subplots()
    shown = plots.PredictionDisplay.from_estimator(pipeline, inputs, targets, coverage=0.8, ax=ax)
    assert shown.ax_ is ax
    np.testing.assert_array_equal(shown.y_pred, pipeline.predict(inputs))
    assert shown.interval is not None
    low, high = shown.interval
    assert (low < high).all()
    assert f"hold {np.mean((low <= targets) & (targets <= high)):.0%} of {ROWS}" in ax.get_title()
    elsewhere = plt.figure().subplots()
    assert shown.plot(elsewhere).figure_ is elsewhere.figure


def test_predictions_out_of_fold(pipeline, table):
    shown = plots.PredictionDisplay.from_estimator(pipeline, y=table[1])
    np.testing.assert_array_equal(shown.y_pred, pipeline[-1].oof_prediction_)
    model = SimpleNamespace(oof_prediction_=np.zeros(3), oof_std_=np.ones(3))
    told = plots.PredictionDisplay.from_estimator(model, y=np.zeros(3))
    assert told.interval is not None
    np.testing.assert_allclose(told.interval[1], 1.645, atol=1e-3)
    with pytest.raises(AttributeError, match="folds=5"):
        plots.PredictionDisplay.from_estimator(Known(), y=np.zeros(3))
    with pytest.raises(ValueError, match="give y"):
        plots.PredictionDisplay.from_estimator(Known(), np.zeros((3, 1)))


def test_a_column_of_several_targets():
    model = SimpleNamespace(predict=lambda X: np.stack([X[:, 0], 2 * X[:, 0]], axis=1))
    inputs = np.arange(3.0)[:, None]
    shown = plots.PredictionDisplay.from_estimator(model, inputs, np.zeros((3, 2)), output=1)
    np.testing.assert_array_equal(shown.y_pred, [0.0, 2.0, 4.0])
    assert shown.interval is None


def test_right_intervals_lie_on_the_diagonal():
    targets = np.random.default_rng(0).normal(size=4000)
    shown = plots.CalibrationDisplay.from_estimator(Known(), np.zeros((4000, 1)), targets)
    np.testing.assert_allclose(shown.coverage, shown.levels, atol=0.03)
    too_sure = plots.CalibrationDisplay.from_estimator(Known(), np.zeros((4000, 1)), 2 * targets, levels=[0.9])
    assert too_sure.coverage[0] < 0.7


def test_relevance_has_the_columns_names(pipeline):
    shown = plots.RelevanceDisplay.from_estimator(pipeline)
    top = shown.ax_.get_yticklabels()[-1].get_text()
    assert sorted(shown.names) == ["idle", "told"]
    assert top == shown.names[np.argmax(shown.relevance)]
    few = plots.RelevanceDisplay.from_estimator(pipeline[-1], names=["a", "b"], most=1)
    assert len(few.ax_.patches) == 1
    with pytest.raises(ValueError, match="3 names"):
        plots.RelevanceDisplay.from_estimator(pipeline, names=["a", "b", "c"])
    with pytest.raises(AttributeError, match="2 to 64"):
        plots.RelevanceDisplay.from_estimator(Known())


def test_classes_are_sent_elsewhere():
    model = SimpleNamespace(classes_=np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"sklearn\.calibration"):
        plots.CalibrationDisplay.from_estimator(model, np.zeros((3, 1)), np.zeros(3))


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'jills\[plots\]'"):
        plots.RelevanceDisplay(np.ones(1), np.array(["x0"])).plot()


def test_importing_jills_imports_no_plots():
    code = "import sys, jills; assert not {'jills.plots', 'matplotlib', 'sklearn'} & set(sys.modules); jills.plots"
    subprocess.run([sys.executable, "-c", code], check=True)
