"""The tasks of a comparison: what needs no network, and the accuracy of one that classifies."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jills
from experiments import compare, config, data, problems
from experiments.data.splits import Dataset, Split

pytestmark = pytest.mark.usefixtures("usual_jax")
CONFIG = """\
title = "Digits"
num_steps = 3
seeds = 2
chunk_steps = 3
[data]
name = "digits"
split_seed = 1
[network]
hidden = []
[hparams.adam]
learning_rate = 0.1
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "digits.toml").write_text(CONFIG)
    return tmp_path / "digits.toml"


@pytest.mark.parametrize("block_rows", [1, 5, 100])
def test_linear_regression_by_blocks_is_least_squares(block_rows):
    generator = np.random.default_rng(2)
    inputs = generator.normal(3, 1, (23, 5))
    inputs[:, 4] = inputs[:, 0] - inputs[:, 1]  # of rank 4: the fit is unique, its parameters are not
    targets, others = generator.normal(size=(23, 2)), generator.normal(3, 1, (7, 5))
    others[:, 4] = others[:, 0] - others[:, 1]
    parameters = np.linalg.lstsq(np.c_[inputs, np.ones(23)], targets, rcond=1e-10)[0]
    fitted = problems.linear_regression(Split(inputs, targets, np.arange(23)), others, block_rows)
    np.testing.assert_allclose(fitted, np.c_[others, np.ones(7)] @ parameters, atol=1e-10)


def small_dataset(**fields):
    """Training targets of mean 0 that are linear in the inputs, and test targets that are not."""
    train = Split(np.array([[0.0], [1.0], [2.0]]), np.array([[-1.0], [0.0], [1.0]]), np.arange(3))
    test = Split(np.array([[3.0], [4.0]]), np.array([[2.0], [5.0]]), np.arange(2))
    return Dataset("small", train, test, np.zeros(1), np.ones(1), "unit", "row", **fields)


def test_baselines_of_a_table_are_the_mean_and_linear_regression():
    assert problems.baselines(small_dataset(), jills.losses.squared_error) == pytest.approx(
        {"mean": 14.5, "linear regression": 2.0}
    )


def test_baselines_of_a_series_are_persistence_and_linear_regression():
    known = problems.baselines(small_dataset(persistence=np.array([[2.0], [2.0]])), jills.losses.squared_error)
    assert known == pytest.approx({"persistence": 4.5, "linear regression": 2.0})


def test_baselines_of_classes_are_accuracies():
    dataset = data.load("digits", "unused")
    assert dataset.train.labels is not None
    most = np.bincount(dataset.train.labels).argmax()
    known = problems.baselines(dataset, jills.losses.squared_error)
    assert known["majority class"] == np.mean(dataset.test.labels == most)
    assert 0.9 < known["least squares"] < 0.95


def test_the_test_of_classes_has_an_accuracy(path):
    task = problems.make_task(config.load_config(path), "unused")
    assert task.dataset is not None
    params, batch, metrics = task.problem(jax.random.key(3))
    assert batch.targets.shape == (1438, 10)
    test = task.dataset.test
    outputs = np.asarray(task.network.predict(params, jnp.asarray(test.inputs, "float64")))
    known = metrics(params)
    assert set(known) == {"test_loss", "test_accuracy"}
    assert known["test_accuracy"].dtype == jnp.float64
    np.testing.assert_allclose(known["test_accuracy"], np.mean(outputs.argmax(axis=1) == test.labels))
    np.testing.assert_allclose(known["test_loss"], np.mean((outputs - test.targets) ** 2))
    np.testing.assert_allclose(known["test_loss"], task.loss(jnp.asarray(outputs), jnp.asarray(test.targets)))


def test_a_diverged_network_is_right_about_nothing(path):
    task = problems.make_task(config.load_config(path), "unused")
    params, _, metrics = task.problem(jax.random.key(3))
    assert metrics(jax.tree.map(lambda leaf: leaf * jnp.nan, params))["test_accuracy"] == 0


def test_a_comparison_of_classes_keeps_the_accuracy_and_draws_no_series(path, tmp_path, capsys):
    assert compare.main([str(path), "--results", str(tmp_path / "results")]) == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert {file.name for file in folder.glob("*.png")} == {"loss.png", "stability.png"}
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        accuracy = dataset.test_accuracy.values
        assert accuracy.shape == (1, 1, 2, 4)
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
        assert dataset.predictions.shape == (1, 2, 359, 10)
    printed = capsys.readouterr().out
    assert "final_test_accuracy" in printed
    assert "test accuracy without a network: majority class 0." in printed


def test_every_data_set_has_a_table_in_the_config():
    assert set(config.DATA) == {*data.DATASETS, "teacher"}
    for name, table in config.DATA.items():
        if name != "teacher":  # whose widths have no default
            assert table.model_validate({"name": name}).model_dump()["name"] == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.lags=3", "data.lags: unknown key; allowed: name, test_fraction, split_seed"),
        ("data.test_fraction=1.0", "data.test_fraction: Input should be less than 1, not 1.0"),
        ("data.name='digit'", "allowed: sunspots, electricity, elnino, teacher, diabetes, boston"),
    ],
)
def test_a_wrong_table_is_refused(path: Path, change, message):
    with pytest.raises(config.ConfigError, match=message):
        config.load_config(path, [change])
