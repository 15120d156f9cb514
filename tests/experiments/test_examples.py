"""The newcomer's scripts do what they say, in small form."""

from typing import Any

import numpy as np
import pytest

from experiments.examples import classes, gap, many_series, mixed_table, save_and_load

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


def test_flats_have_gaps():
    table, prices = mixed_table.flats(200)
    assert np.any(table["age"].isna())
    assert np.any(table["heating"].isna())
    assert np.isfinite(prices).all()
