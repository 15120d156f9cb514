"""A table with categories and missing values: a pipeline prepares it, and its networks tell how sure they are.

Prices of flats, made up: size and age in numbers, some missing; the district and the heating in words.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import jills

DISTRICTS = {"centre": 1.6, "park": 1.3, "harbour": 1.0, "mill": 0.8}
NOISE = 0.1  # of the logarithm of the price


def flats(count: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """A table, and the logarithm of the prices."""
    rng = np.random.default_rng(seed)
    size, age = rng.uniform(25, 140, count), rng.uniform(0, 100, count)
    district, heating = rng.choice(list(DISTRICTS), count), rng.choice(["gas", "heat pump"], count)
    # Old flats are dear again in the centre: no sum of effects of single columns.
    old = np.square((age - 50) / 50) * np.where(district == "centre", 0.5, -0.2)
    price = np.log(size * np.array([DISTRICTS[name] for name in district])) + old + 0.05 * (heating == "heat pump")
    table = pd.DataFrame({"size": size, "age": age, "district": district, "heating": heating})
    table.loc[rng.random(count) < 0.05, "age"] = np.nan
    table.loc[rng.random(count) < 0.05, "heating"] = np.nan
    return table, price + NOISE * rng.normal(size=count)


def main(count: int = 600, **parameters: Any) -> tuple[float, float]:
    """The coefficient of determination of rows held out, and how many of them the 90 % intervals hold."""
    train, test, known, unknown = train_test_split(*flats(count), random_state=0)
    words = make_pipeline(SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(sparse_output=False))
    numbers = SimpleImputer(add_indicator=True)
    columns = make_column_transformer((numbers, ["size", "age"]), (words, ["district", "heating"]))
    networks = jills.estimators.NetworkRegressor(**{"hidden": (10,), "random_state": 0, **parameters})
    model = make_pipeline(columns, networks).fit(train, known)

    score = float(r2_score(unknown, model.predict(test)))
    # A pipeline hands on `predict` only; its last step knows intervals.
    low, high = networks.predict_interval(columns.transform(test), coverage=0.9)
    share = float(np.mean((low <= unknown) & (unknown <= high)))
    print(f"R² of {len(test)} flats held out: {score:.3f}; the 90 % intervals hold {share:.0%} of them")
    for name, relevance in zip(columns.get_feature_names_out(), networks.relevance_, strict=True):
        print(f"  {name:32} {relevance:.2f}")
    return score, share


if __name__ == "__main__":
    main()
