"""The experiments at toy size, as a user starts them: configs, results folder, interruption, messages."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.special import huber

import jills
from experiments import compare, config, problems, records
from experiments.studies import speed

pytestmark = pytest.mark.usefixtures("usual_jax")
ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
TOY = ["--set", "num_steps=6", "--set", "seeds=3", "--set", "chunk_steps=2"]


def run_toy(tmp_path, name, *more):
    status = compare.main([str(ROOT / "configs" / f"{name}.toml"), *TOY, *more, "--results", str(tmp_path)])
    return status, sorted(tmp_path.iterdir())


def test_the_main_job_leaves_what_it_says(tmp_path, capsys):
    status, (folder,) = run_toy(tmp_path, "sunspots")
    assert status == 0
    assert {path.name for path in folder.iterdir()} == {
        "results.nc", "summary.csv", "config.toml", "environment.json", "loss.png", "stability.png", "predictions.png"
    }  # fmt: skip
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"algorithm": 4, "hparam": 5, "seed": 3, "step": 7, "row": 59, "output": 1}
        losses = dataset.train_loss.sel(algorithm="ills")
        # Same starts for all algorithms, and ILLS falls.
        starts = dataset.train_loss.isel(step=0, hparam=0).values
        np.testing.assert_allclose(starts, np.broadcast_to(starts[0], starts.shape), rtol=1e-14)
        assert float(losses.isel(hparam=1, step=6).median()) < 0.2 * float(losses.isel(hparam=1, step=0).median())
        assert float(dataset.seconds.sel(algorithm="adam")[6]) > 0
        # What a step of evidence tells of its prior is an array: each entry has a curve.
        assert np.isfinite(dataset.alpha_0.sel(algorithm="evidence").isel(hparam=0, step=slice(0, 6))).all()
        assert dataset.attrs["version_jax"] == jax.__version__
    summary = pd.read_csv(folder / "summary.csv")
    assert len(summary) == 12
    assert set(summary.algorithm) == {"ills", "gauss_newton", "adam", "evidence"}
    printed = capsys.readouterr()
    assert "persistence 0.861" in printed.out
    assert "6/6" in printed.err
    assert "cpu" in json.loads((folder / "environment.json").read_text())["device"]


def test_the_resolved_config_runs_again(tmp_path):
    changes = ["num_steps=6", "hparams.adam.learning_rate=0.1"]
    first = config.load_config(ROOT / "configs/two_layer.toml", changes)
    records.write_config(tmp_path, first)
    again = config.load_config(tmp_path / "config.toml")
    assert again == first
    assert again.num_steps == 6
    assert again.hparams.adam is not None
    assert again.hparams.adam.learning_rate == 0.1


def test_a_folder_is_never_overwritten(tmp_path):
    folders = {records.new_folder(tmp_path, "configs/name.toml") for _ in range(4)}
    assert len(folders) == 4


def test_one_layer_finds_the_truth_in_one_step(tmp_path):
    status, (folder,) = run_toy(tmp_path, "one_layer")
    assert status == 0
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        distance = dataset.distance.isel(step=1)
        assert float(distance.sel(algorithm="ills", hparam=0).max()) < 1e-8
        assert float(distance.sel(algorithm="adam").min()) > 1e-3
    assert (folder / "distance.png").exists()


def test_float32_runs_in_float32(tmp_path):
    _, (folder,) = run_toy(tmp_path, "two_layer", "--set", "dtype=float32")
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        losses = dataset.train_loss.values[np.isfinite(dataset.train_loss.values)]
        np.testing.assert_array_equal(losses, losses.astype(np.float32))


def test_missing_data_is_advice_not_an_error(tmp_path, capsys):
    status, folders = run_toy(tmp_path, "electricity", "--data", str(tmp_path / "nowhere"))
    assert status == 3
    assert folders == []
    assert "python -m experiments.data.fetch" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    assert config.load_config(path).title


WRONG = {
    "seedz=3": r"seedz: unknown key; allowed: title, data, network, loss",
    "hparams.ills.learning_rat=0.1": r"hparams.ills.learning_rat: unknown key; allowed: learning_rate, ridge",
    "data.lag=3": r"data.lag: unknown key; allowed: name, lags, test_from",
    "network.hiden=[3]": r"network.hiden: unknown key; allowed: hidden, activation, output, slope",
    "ills.solvr='qr'": r"ills.solvr: unknown key; allowed: solver, linearized, margin",
    "data.name='sunspot'": r"data.name: unknown data set 'sunspot'; allowed: sunspots, electricity, elnino, teacher",
    "seeds='many'": r"seeds: Input should be a valid integer, not 'many'",
    "seeds=0": r"seeds: Input should be greater than or equal to 1, not 0",
    "network.activation='tan'": r"network.activation: Input should be 'identity', 'tanh'.*, not 'tan'",
    "hparams.ills.learning_rate=[]": r"hparams.ills.learning_rate: the list is empty; give at least one number",
    "hparams.ills.learning_rate=[0.1,1.5]": r"hparams.ills: learning_rate is 1.5, but must lie in \(0, 1\]",
    "hparams.adam.learning_rate=-1.0": r"hparams.adam: learning_rate is -1, but must lie in \(0, inf\)",
    "hparams={}": r"hparams: names no algorithm; allowed: ills, gauss_newton, adam, evidence",
    "data.lags=400": r"lags=400: must lie between 1 and 308",
    "network.output='relu'": r"hparams.ills: ills: the output activation has no inverse",
    "loss='hinge'": r"loss: Input should be 'squared_error', 'softmax_cross_entropy', .*, not 'hinge'",
    "ills.epsilon=1.0": r"ills.epsilon: Input should be less than 1, not 1.0",
    "ills.target='scaled'": r"hparams.ills: ills: scaled logits need a loss whose targets are probabilities",
    "loss='sigmoid_cross_entropy'": r"targets of this loss must lie in \[0, 1\]",
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_config_is_one_line(change, tmp_path, capsys):
    path = ROOT / "configs/sunspots.toml"
    status = compare.main([str(path), "--set", change, "--results", str(tmp_path / "results")])
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line.startswith(str(path))
    assert re.search(WRONG[change], line), line
    assert not (tmp_path / "results").exists()


def test_unreadable_configs_are_one_line(tmp_path, capsys):
    assert compare.main([str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("title = ")
    assert compare.main([str(tmp_path / "bad.toml")]) == 2
    assert "bad.toml: is not TOML" in capsys.readouterr().err
    assert compare.main([str(ROOT / "configs/sunspots.toml"), "--set", "seeds"]) == 2
    assert "must be key=value" in capsys.readouterr().err


def test_a_config_chooses_the_loss_and_where_ills_aims():
    def algorithms(*changes) -> Any:
        loaded = config.load_config(ROOT / "configs/sunspots.toml", changes)
        network = config.build_network(loaded, 3, 2)
        return [config.build_algorithm(loaded, name, network) for name in ("ills", "gauss_newton", "adam")]

    chosen = algorithms("loss=huber", "delta=0.3", "ills.target=ideal")
    assert [algorithm.loss for algorithm in chosen] == 3 * [jills.losses.huber(0.3)]
    assert chosen[0].target == jills.ills.ideal
    softmax = [algorithms("loss=softmax_cross_entropy", *more)[0] for more in (
        (), ("ills.target=softened", "ills.epsilon=0.2"), ("ills.target=scaled", "ills.logit=2.0")
    )]  # fmt: skip
    assert {algorithm.loss for algorithm in softmax} == {jills.losses.softmax_cross_entropy}
    expected = [jills.ills.working_response, jills.ills.softened(0.2), jills.ills.scaled(2.0)]
    assert [algorithm.target for algorithm in softmax] == expected
    assert [algorithm.loss for algorithm in algorithms()] == 3 * [jills.losses.squared_error]


def test_test_losses_and_baselines_are_in_the_loss_of_the_config():
    loaded = config.load_config(ROOT / "configs/sunspots.toml", ["loss=huber", "delta=0.2"])
    task = problems.make_task(loaded, "data")
    assert task.dataset is not None
    params, _, metrics = task.problem(jax.random.key(0))
    test = task.dataset.test
    residual = np.asarray(task.network.predict(params, jax.numpy.asarray(test.inputs))) - test.targets
    np.testing.assert_allclose(metrics(params)["test_loss"], np.mean(2 * huber(0.2, residual)))
    told = problems.baselines(task.dataset, config.build_loss(loaded))
    expected = np.mean(2 * huber(0.2, task.dataset.persistence - test.targets))
    np.testing.assert_allclose(told["persistence"], expected)


def test_lists_under_hparams_are_axes_and_all_combinations_are_made():
    changes = ["hparams.ills.learning_rate=[0.1,0.5,1]", "hparams.ills.ridge=[0.0,1e-6]"]
    loaded = config.load_config(ROOT / "configs/sunspots.toml", changes)
    hparams = config.build_hparams(loaded, "ills")
    np.testing.assert_allclose(hparams.learning_rate, [0.1, 0.1, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(hparams.ridge, [0, 1e-6] * 3)


def test_ctrl_c_keeps_what_is_complete(tmp_path):
    """A real signal to a real process, after its first chunk."""
    command = [sys.executable, "-m", "experiments.compare", "configs/sunspots.toml", "--results", str(tmp_path)]
    command += ["--set", "num_steps=1000000", "--set", "chunk_steps=10", "--set", "seeds=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen = ""
    while "30/1000000" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: kept and written is what was complete (ills" in printed
    (folder,) = tmp_path.iterdir()
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        assert list(dataset.algorithm.values) == ["ills"]
        assert dataset.sizes["step"] >= 31
        assert np.isfinite(dataset.train_loss.isel(step=30)).all()


def test_speed_measures_every_algorithm():
    loaded = config.load_config(ROOT / "configs/sunspots.toml")
    table = speed.measure(problems.make_task(loaded, "data"), 3, 2, 1, {"qr": speed.SOLVERS["qr"]})
    assert list(table.algorithm) == ["adam", "ills, qr"]
    assert table[["compile_s", "in_a_sweep", "in_a_loop"]].to_numpy().min() > 0
    assert (table.solves_alone[1:] > 0).all()


def test_ctrl_c_does_not_reach_the_writing(tmp_path, monkeypatch):
    """Finished work is summed up and written whatever is pressed."""

    def press(original):
        def pressed(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            return original(*arguments)

        return pressed

    monkeypatch.setattr(problems, "metrics_of", press(problems.metrics_of))
    monkeypatch.setattr(records, "write_results", press(records.write_results))
    status, (folder,) = run_toy(tmp_path, "sunspots")
    assert status == 0
    assert (folder / "results.nc").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_stability_picture_counts_the_diverged():
    """A member that became NaN is worse than any other, not as good as its last finite loss."""
    np.testing.assert_array_equal(records.quartiles([[np.nan], [1.0], [2.0]]), [[1.0], [2.0], [np.inf]])


def test_configs_hold_no_code():
    for path in CONFIGS:
        assert tomllib.loads(path.read_text(encoding="utf-8"))["title"]


def test_interrupting_before_anything_is_complete(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "run_one", interrupted)
    status, _ = run_toy(tmp_path, "sunspots")
    assert status == 130
    assert "nothing to keep" in capsys.readouterr().out
