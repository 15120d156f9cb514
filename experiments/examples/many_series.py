"""A network of its own for each of 300 series of unequal length, all in one call, and how each training went."""

from typing import Any

import numpy as np
import pandas as pd

import jills


def main(series: int = 300, **parameters: Any) -> tuple[float, pd.DataFrame]:
    """The mean error of the networks over the spread of the waves, and a row for each series."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 61, series)
    name = np.repeat(np.arange(series), lengths)  # which series each row belongs to
    hour = rng.uniform(0, 1, len(name))
    speed, shift, noise = rng.uniform(1, 2, series), rng.uniform(0, 1, series), rng.uniform(0.1, 0.4, series)
    wave = np.sin(2 * np.pi * (speed[name] * hour + shift[name]))
    measured = wave + noise[name] * rng.normal(size=len(name))

    model = jills.estimators.GroupedRegressor(**{"hidden": (6,), "random_state": 0, **parameters})
    model.fit(hour[:, None], measured, groups=name)
    error = float(np.std(model.predict(hour[:, None], groups=name) - wave) / np.std(wave))
    frame = model.diagnosis_
    print(f"{series} networks, {len(name)} rows: error {error:.2f} of the spread of the waves without noise")
    print(f"noise, found against true: correlation {np.corrcoef(model.noise_std_, noise)[0, 1]:.2f}")
    print("how training went:", frame["word"].value_counts().to_dict())
    print(frame.drop(columns="why").head(3).to_string(index=False))
    return error, frame


if __name__ == "__main__":
    main()
