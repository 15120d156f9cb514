"""What networks do not know: the band is narrow where there are rows and opens in the gap between them.

Beyond the outermost rows it opens, too, but too little: there the networks go on as straight lines, and agree in it.
"""

from pathlib import Path
from typing import Any

import numpy as np

import jills
from experiments import figures

FIGURE = Path(__file__).parents[1] / "figures" / "gap.png"
GAP = 0.35  # no rows between minus this and this
NOISE = 0.1


def main(count: int = 60, path: Path = FIGURE, **parameters: Any) -> float:
    """How many times as wide the band is in the middle of the gap as beside it; writes a figure."""
    rng = np.random.default_rng(0)
    at = rng.uniform(GAP, 1.0, count) * rng.choice([-1, 1], count)
    wave = lambda at: np.sin(4 * at) + 0.5 * at  # noqa: E731 it is drawn, too
    measured = wave(at) + NOISE * rng.normal(size=count)

    model = jills.estimators.NetworkRegressor(**{"hidden": (20,), "random_state": 0, **parameters})
    model.fit(at[:, None], measured)
    grid = np.linspace(-1.3, 1.3, 261)
    low, high = model.predict_interval(grid[:, None], coverage=0.9)
    width = high - low
    beside = (np.abs(grid) > GAP) & (np.abs(grid) < 1)
    wider = float(width[np.abs(grid).argmin()] / np.median(width[beside]))
    print(f"90 % band: {np.median(width[beside]):.2f} beside the gap, {wider:.1f} times as wide in its middle")

    figure, panels = figures.subplots(1, 1, figsize=(5.4, 3.2))
    panel = panels[0, 0]
    mean = model.predict(grid[:, None])
    figures.band(panel, grid, low, mean, high, color=figures.LOOKS["gauss_newton"].colour, label="mean, 90 % band")
    panel.plot(grid, wave(grid), color="black", linestyle=":", linewidth=1, label="truth")
    panel.plot(at, measured, "k.", markersize=3, label=f"{count} rows")
    panel.set(xlabel="input", ylabel="target", ylim=(-2.2, 2.2))
    panel.legend(fontsize=8)
    figures.write(figure, path)
    return wider


if __name__ == "__main__":
    main()
