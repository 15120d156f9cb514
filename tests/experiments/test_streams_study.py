"""The study of streams at toy size: each method of it in this process."""

import numpy as np
import pytest

from experiments.studies import streams


@pytest.mark.parametrize("name", streams.METHODS)
def test_each_method_learns_from_the_file(name, tmp_path):
    path = tmp_path / "table.npy"
    streams.write(path, 30_000, 5)
    row = streams.measured(name, path, 60.0)
    held_out = streams.drawn(np.random.default_rng(streams.HELD_OUT_SEED), 10_000, 5)[:, 5]
    assert row["rows"] == 30_000 // streams.BATCH * streams.BATCH
    assert 0.01 < row["held-out loss"] < 0.95 * np.var(held_out)
    assert row["peak MB"] >= row["MB before"]


def test_time_and_disk_are_bounded(tmp_path, capsys):
    path = tmp_path / "table.npy"
    streams.write(path, 30_000, 4)
    assert streams.measured("least squares", path, 0.0)["rows"] < 30_000
    assert streams.main(["--rows", str(10**15), "--folder", str(tmp_path)]) == 3
    assert "GB are free" in capsys.readouterr().err
