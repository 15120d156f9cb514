"""The newcomer's scripts do what they say, in small form."""

from typing import Any

import numpy as np
import pytest

from experiments.examples import classes, gap, many_series, mixed_table, save_and_load
from jills.estimators import NetworkRegressor

pytestmark = pytest.mark.usefixtures("usual_jax")
SMALL: dict[str, Any] = {"hidden": (4,), "members": 3, "max_steps": 20}


def test_mixed_table(capsys):
    score, share = mixed_table.main(count=300, **SMALL)
    assert score > 0.85
    assert 0.8 < share <= 1.0
    told = capsys.readouterr().out
    assert "75 flats held out" in told
    assert "district_centre" in told


def test_classes(capsys):
    loss, accuracy, promised = classes.main(**SMALL)
    assert loss < 0.6  # of equal shares 1.1
    assert accuracy > 0.75
    assert abs(accuracy - promised) < 0.12
    assert capsys.readouterr().out.count("it was") == 3


def test_many_series(capsys):
    error, frame = many_series.main(series=20, hidden=(4,))
    assert error < 0.4
    assert len(frame) == 20
    assert set(frame["word"]) <= {"converged", "improving"}
    assert "20 networks" in capsys.readouterr().out


def test_gap(tmp_path):
    path = tmp_path / "gap.png"
    assert gap.main(path=path, hidden=(8,), members=3, max_steps=20) >= 2
    assert path.read_bytes()[1:4] == b"PNG"


def test_save_and_load(capsys):
    assert save_and_load.main(**SMALL) < 1e-4
    assert "another process" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["equinox", "flax"])
@pytest.mark.parametrize(("hidden", "activation"), [((), "tanh"), ((5, 3), "silu"), ((5,), "arcsinh")], ids=str)
def test_networks_in_other_libraries(library, hidden, activation):
    pytest.importorskip(library)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(41, 2)) * [1.0, 100.0] + [0.0, 1000.0]
    targets = 1e3 + np.stack([rows[:, 0], np.sin(rows[:, 0])], axis=1)
    options: Any = {"hidden": hidden, "members": 3, "regularization": 1e-3, "max_steps": 20}
    model = NetworkRegressor(**options, activation=activation, random_state=0).fit(rows, targets)
    there = save_and_load.elsewhere(getattr(save_and_load, f"by_{library}"), model.to_numpy(), rows)
    expected = model.predict(rows)
    assert np.std(expected, axis=0).min() > 0.3
    np.testing.assert_allclose(there, expected, atol=1e-5, rtol=1e-7)


def test_flats_have_gaps():
    table, prices = mixed_table.flats(200)
    assert np.any(table["age"].isna())
    assert np.any(table["heating"].isna())
    assert np.isfinite(prices).all()
