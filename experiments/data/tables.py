"""The tables of the experiments: a random split, one target, which is a class in `breast_cancer` alone.

Every loader takes `test_fraction`, the share of the rows that is tested, and `split_seed`, which picks them, and raises
`MissingData` where its file or package is absent, and `ValueError` for a fraction that leaves no row on one side of the
split. `folder` is that of `python -m experiments.data.fetch`; those that come with a package do not read it. `rows` are
the positions in the source. Tables are left as published: a row that occurs twice may be on both sides of a split.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.data.splits import Dataset, Split, cut_share, regression, require, require_package, shuffled

WORST_TO_BEST = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
"""The grades of diamonds."""


def diabetes(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Progression of diabetes within a year from 10 measurements of 442 patients; BSD-3, as part of scikit-learn."""
    datasets = require_package("diabetes", "sklearn.datasets", "scikit-learn")
    # Its default is scaled with the statistics of all rows, those of the test included.
    inputs, target = datasets.load_diabetes(return_X_y=True, scaled=False)
    return _table("diabetes", inputs, target, "progression", test_fraction, split_seed)


def breast_cancer(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Malignant or benign, 30 measurements of cell nuclei in 569 images; CC BY 4.0, as part of scikit-learn."""
    datasets = require_package("breast-cancer", "sklearn.datasets", "scikit-learn")
    inputs, labels = datasets.load_breast_cancer(return_X_y=True)
    labels = labels.astype(np.int64)
    whole = shuffled(Split(inputs, np.eye(2)[labels], np.arange(len(labels)), labels), split_seed)
    cuts = cut_share(whole, test_fraction)
    scaled = regression("breast-cancer", *cuts, unit="class", row_name="row of the table")
    # Inputs are scaled as those of regression are; classes stay 0 and 1.
    train, test = scaled.train._replace(targets=cuts[0].targets), scaled.test._replace(targets=cuts[1].targets)
    return scaled._replace(train=train, test=test, target_mean=np.zeros(2), target_scale=np.ones(2), num_classes=2)


def boston(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Median values of homes in 506 districts of Boston, 1970, 13 inputs; comes with mlxtend.

    Here only since earlier work reports it. One input is built on the premise that segregation raises prices, for
    which scikit-learn has removed the set: draw no conclusion about homes or people.
    """
    inputs, target = require_package("boston", "mlxtend.data", "mlxtend").boston_housing_data()
    return _table("boston", inputs, target, "thousands of US dollars", test_fraction, split_seed)


def auto_mpg(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Fuel economy of 392 cars, 7 inputs, the origin as the number it is coded by; comes with mlxtend."""
    inputs, target = require_package("auto-mpg", "mlxtend.data", "mlxtend").autompg_data()
    # The last column is the name of the car, which became NaN.
    return _table("auto-mpg", inputs[:, :7], target, "miles per gallon", test_fraction, split_seed)


def concrete(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Compressive strength of 1030 samples of concrete from mixture and age, 8 inputs; 25 rows repeat another."""
    table = pd.read_csv(require(folder, "concrete", "concrete.csv"))
    target = table.pop("compressive_strength").to_numpy(np.float64)
    return _table("concrete", table.to_numpy(np.float64), target, "MPa", test_fraction, split_seed)


def diamonds(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """Logarithm of the prices of 53940 diamonds, 9 inputs; cut, color and clarity are numbers, 0 the worst grade.

    Twenty of them have a length of 0, where it was not measured, and 146 rows repeat another.

    Raises:
        ValueError: also for an unknown grade in the file.
    """
    path = require(folder, "diamonds", "diamonds.csv")
    table = pd.read_csv(path)
    for column, grades in WORST_TO_BEST.items():
        unknown = sorted(set(table[column]) - set(grades))
        if unknown:
            raise ValueError(f"{path}: unknown {column} {', '.join(map(str, unknown))}")
        table[column] = table[column].map(grades.index)
    target = np.log(table.pop("price").to_numpy(np.float64))
    return _table("diamonds", table.to_numpy(np.float64), target, "log of US dollars", test_fraction, split_seed)


def _table(
    name: str, inputs: np.ndarray, target: np.ndarray, unit: str, test_fraction: float, split_seed: int
) -> Dataset:
    """Shuffles `(n, d)` inputs and `(n,)` target, cuts and scales them."""
    whole = shuffled(Split(inputs, target[:, None], np.arange(len(inputs))), split_seed)
    return regression(name, *cut_share(whole, test_fraction), unit=unit, row_name="row of the table")
