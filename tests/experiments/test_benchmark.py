"""The benchmark at toy size, as a user starts it; and its arithmetic on runs made by hand."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jills
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import one_problem, ratios, tables
from experiments.benchmark.config import FULL_BATCH, NAMES, QUICKLY_COMPILED, load_benchmark
from experiments.benchmark.files import read_json, run_path, write_json
from experiments.config import ConfigError
from experiments.peers import Budget, Problem, Trace, stepped, with_optax
from experiments.peers.base import Peer, Recorder

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "benchmark").glob("*.toml"))
TOY = """
title = "Toy"
seeds = 2
target_steps = 1000
tuning_seeds = 1
dtype = "float64"
[data]
name = "teacher"
inputs = 3
rows = 31
[network]
hidden = [2]
[leave_out]
"SciPy L-BFGS-B" = "for the test"
"jills gauss_newton" = "for the test"
"jills gauss_newton, fast tier" = "for the test"
"""
INF = math.inf


def made_by_hand():
    """Ours and two peers on two problems of three seeds; times in seconds, None where the target was not reached."""
    times = {
        ("easy", 101, "jills ills"): (1.0, 2.0, 4.0),
        ("easy", 101, "Adam, full batch"): (3.0, 2.0, 20.0),
        ("easy", 101, "Optax L-BFGS"): (None, None, 2.0),
        ("hard", 907, "jills ills"): (None, None, 5.0),
        ("hard", 907, "Adam, full batch"): (4.0, None, 10.0),
        ("hard", 907, "Optax L-BFGS"): (10.0, 20.0, 30.0),
    }
    rows = []
    for (problem, parameters, peer), seconds in times.items():
        for seed, value in enumerate(seconds):
            cap = 50.0
            row = {"problem": problem, "title": problem.title(), "loss": "squared_error", "parameters": parameters}
            row |= {"rows": 11, "peer": peer, "setting": "", "unit": "step", "seed": seed, "steps": 7, "target": 0.5}
            row |= {"reached": value is not None, "seconds": cap if value is None else value, "budget": 5.0}
            row |= {"cap": cap, "compile_seconds": 2.0 if peer == "Optax L-BFGS" else 1.0, "test_loss": 0.25}
            trace = {"seconds": [0.0, 1.5, 3.0], "losses": [1.0, 0.7, 0.4]}
            rows.append(row | {"best_loss": 0.4, "note": "", "trace": trace})
    return pd.DataFrame(rows)


def bounds_of(table, problem, peer):
    chosen = table[(table.problem == problem) & (table.peer == peer)].sort_values("seed")
    return [tuple(row) for row in chosen[["low", "point", "high"]].to_numpy().tolist()]


def test_a_ratio_knows_its_bounds():
    table = ratios.ratios(made_by_hand(), "jills ills")
    assert bounds_of(table, "easy", FULL_BATCH) == [(3, 3, 3), (1, 1, 1), (5, 5, 5)]
    assert bounds_of(table, "easy", "Optax L-BFGS") == [(50, 50, INF), (25, 25, INF), (0.5, 0.5, 0.5)]
    assert bounds_of(table, "hard", FULL_BATCH) == [(0, 0.08, 0.08), (0, 1, INF), (2, 2, 2)]
    compiled = ratios.ratios(made_by_hand(), "jills ills", compiled=True)
    assert bounds_of(compiled, "easy", "Optax L-BFGS")[2] == (4 / 5, 4 / 5, 4 / 5)
    assert bounds_of(compiled, "easy", FULL_BATCH)[0] == (2, 2, 2)


def test_with_compilation_ours_takes_the_tier_that_is_done_sooner():
    runs = made_by_hand()
    own = runs[(runs.peer == "jills ills") & (runs.problem == "easy")]
    fast = own.assign(peer="jills ills, fast tier", seconds=[1.9, 1.5, 4.5], compile_seconds=0.25)
    both = pd.concat([runs, fast], ignore_index=True)
    assert bounds_of(ratios.ratios(both, "jills ills"), "easy", FULL_BATCH) == [(3, 3, 3), (1, 1, 1), (5, 5, 5)]
    compiled = ratios.ratios(both, "jills ills", compiled=True)
    # Of medians 2 + 1 and 1.9 + 0.25 the lesser: the fast tier, though it takes longer on the first seed.
    expected = [(3 + 1) / 2.15, (2 + 1) / 1.75, (20 + 1) / 4.75]
    np.testing.assert_allclose([low for low, _, _ in bounds_of(compiled, "easy", FULL_BATCH)], expected)


def test_medians_drop_no_run():
    summary = ratios.summarize(
        ratios.with_losses(made_by_hand(), "jills ills"), "jills ills", pd.DataFrame(columns=MEMORY)
    ).set_index(["problem", "peer"])

    def median(problem, peer, name="ratio"):
        return tuple(float(summary.loc[(problem, peer), f"{name}_{b}_median"]) for b in ("low", "point", "high"))

    assert median("easy", FULL_BATCH) == (3, 3, 3)
    assert median("easy", "Optax L-BFGS") == (25, 25, INF)
    # Low 0, 0, 2; point 0.08, 1, 2; high 0.08, 2, infinity.
    assert median("hard", FULL_BATCH) == (0, 1, 2)
    assert median("hard", "Optax L-BFGS") == (0, 0.4, 0.4)
    assert median("hard", "jills ills", "seconds") == (50, 50, INF)
    assert summary.loc[("hard", "Optax L-BFGS"), "reached"] == 3
    # Ours was there after 1, 2 and 4 seconds, Adam's steps took 5.
    assert summary.loc[("easy", FULL_BATCH), "loss_when_ours_median"] == 0.7
    assert summary.loc[("easy", FULL_BATCH), "loss_at_budget_median"] == 0.4


MEMORY = ["problem", "peer", "mebibytes"]


def test_the_whole_is_a_geometric_mean_with_bounds():
    runs = made_by_hand()
    summary = ratios.summarize(ratios.with_losses(runs, "jills ills"), "jills ills", pd.DataFrame(columns=MEMORY))
    table = ratios.overall(summary).set_index(["group", "family"])
    adam = table.loc[("regression", FULL_BATCH)]
    np.testing.assert_allclose([adam.low, adam.point, adam.high], [0, math.sqrt(3 * 1), math.sqrt(3 * 2)])
    assert (adam.problems, adam.not_exact) == (2, 1)
    small = table.loc[("regression, below 500 parameters", "L-BFGS (Optax)")]
    np.testing.assert_allclose([small.low, small.point, small.high], [25, 25, INF])
    large = table.loc[("regression, 500 and above", "best peer")]
    np.testing.assert_allclose([large.low, large.point, large.high], [0, 0.4, 0.4])
    # (10 + 2) / (50 + 1), (20 + 2) / (50 + 1), (30 + 2) / (5 + 1): the middle one, an upper bound.
    half = table.loc[("regression, larger half, with compilation", "L-BFGS (Optax)")]
    np.testing.assert_allclose([half.low, half.point, half.high], [0, 22 / 51, 22 / 51])
    assert list(ratios.slower(summary).problem) == ["hard"]
    text = tables.markdown(summary, {}, "jills ills")
    assert "* Hard, run time: Optax L-BFGS, ratio ≤0.4" in text
    assert "≥25 (1, 1 bounds)" in text
    # Seconds of ours, Adam, L-BFGS; and with compilation, (3 + 1) / (1 + 1) and (50 + 2) / (2 + 1) the middle ones.
    lines = text[text.index("## All problems") :].splitlines()
    names, _, easy = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5])
    told = {name: cell for name, cell in zip(names, easy, strict=True) if cell}
    assert told == {
        "problem (parameters)": "Easy (101)",
        "jills ills, s": "2",
        FULL_BATCH: "3",
        "L-BFGS (Optax)": "≥25",
        f"{FULL_BATCH}, with compilation": "2",
        "L-BFGS (Optax), with compilation": "≥17.3",
    }


def test_signs():
    assert ratios.show(2, 2, 2) == "2"
    assert ratios.show(2, 2, INF) == "≥2"
    assert ratios.show(0, 2, 2) == "≤2"
    assert ratios.show(0, 2, INF) == "?2"


def test_curves_hold_what_was_best():
    arrays = ratios.curves(made_by_hand())
    one = arrays.loss.sel(problem="easy", peer=FULL_BATCH, seed=0).values
    seconds = arrays.seconds.sel(problem="easy").values
    np.testing.assert_array_equal(one, np.where(seconds < 1.5, 1.0, np.where(seconds < 3.0, 0.7, 0.4)))
    assert seconds[-1] == pytest.approx(50.0)


def test_thinning_keeps_the_falls_and_the_lowest():
    losses = np.array([4.0, 5.0, 3.0, 3.5, 2.0, math.nan, 1.0, 1.0])
    trace = Trace(np.arange(8.0), losses, 0.0, ())
    whole = one_problem.thin(trace)
    assert (whole["seconds"], whole["losses"]) == ([0, 2, 4, 6], [4, 3, 2, 1])
    steps = np.arange(5000.0)
    few = one_problem.thin(Trace(steps, 1 / (1 + steps), 0.0, ()), most=20)
    assert len(few["losses"]) <= 22
    assert few["losses"][-1] == 1 / 5000
    np.testing.assert_array_equal(few["losses"], 1 / (1 + np.array(few["seconds"])))


@pytest.fixture
def toy_problem(key):
    network = jills.Network((3, 2, 1), jills.activations.tanh)
    inputs = jnp.linspace(-1, 1, 33).reshape(11, 3)
    batch = jills.Batch(inputs, jnp.sin(3 * inputs[:, :1]))
    return Problem(network, jills.losses.squared_error, network.init(key, "float64"), batch)


def keeps_falling(problem, budget):
    """A peer that calls back, and never stops on its own."""
    recorder = Recorder(problem, budget)

    def solve():
        while True:
            recorder.note(0.9 * recorder.best, lambda: problem.params)

    return recorder.trace(recorder.until_enough(solve))


def test_a_run_goes_on_below_its_target(toy_problem):
    for peer_run in (lambda *both: with_optax.adam(*both, learning_rate=0.1), keeps_falling):
        start = stepped.start_loss(toy_problem)
        # Not long: a quick machine takes all the steps of a budget in a tenth of a second.
        trace = peer_run(toy_problem, Budget(20.0, target_loss=0.9 * start, min_seconds=0.03))
        assert trace.note == "target reached"
        assert 0.03 <= trace.seconds[-1] < 20
        assert trace.seconds_to(0.9 * start) < trace.seconds[-1]


def test_a_peer_that_breaks_or_gives_up_counts_as_its_limit(toy_problem):
    def breaks(problem, budget):
        raise RuntimeError("singular")

    def gives_up(problem, budget):
        assert (budget.max_seconds, budget.min_seconds, budget.target_loss) == (7.0, 1.0, 0.1)
        return Trace(np.array([0.0, 0.5]), np.array([1.0, 0.3]), 0.0, problem.params, "stopped on its own")

    goal = {"target": 0.1, "budget": 1.0}
    for run, lowest in ((breaks, math.nan), (gives_up, 0.3)):
        entry = Peer("peer", run)
        record = one_problem.measured(entry, toy_problem, goal, 7.0, lambda params: {"test_loss": 2.0})
        assert (record["reached"], record["seconds"]) == (False, 7.0)
        np.testing.assert_equal(record["best_loss"], lowest)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    config = load_benchmark(path)
    assert config.seeds >= 5
    assert config.dtype == "float32"


def test_wrong_configs_are_told_in_a_line(tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(TOY.replace("SciPy L-BFGS-B", "SciPy LBFGS"))
    with pytest.raises(ConfigError, match="leave_out: unknown peer 'SciPy LBFGS'; allowed: Adam, full batch;"):
        load_benchmark(path)
    path.write_text(TOY.replace("target_steps", "steps"))
    assert benchmark.main([str(path), "--results", str(tmp_path)]) == 2
    assert "steps: unknown key; allowed: title, data" in capsys.readouterr().err


def test_files_of_peers_differ():
    assert len({run_path(Path(), 0, name) for name in NAMES}) == len(NAMES)


def test_it_leaves_what_it_says_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    path, results = tmp_path / "toy.toml", tmp_path / "results"
    path.write_text(TOY)
    # Three names hold this, Adam on all rows in both tiers and "jills ills", besides those left out.
    command = [str(path), "--results", str(results), "--only", "ll", "--seconds", "1"]
    assert benchmark.main(command) == 0
    first, second = (run_path(results / "toy", seed, FULL_BATCH) for seed in range(2))
    write_json(first, read_json(first) | {"note": "kept"})
    second.unlink()
    assert benchmark.main(command) == 0
    assert read_json(first)["note"] == "kept"
    assert second.exists()

    names = {"toy", "runs.csv", "summary.csv", "summary.md", "traces.nc", "ratios.png", "curves.png"}
    assert {entry.name for entry in results.iterdir()} == names
    runs = pd.read_csv(results / "runs.csv")
    assert len(runs) == 6
    assert set(runs.peer) == {FULL_BATCH, QUICKLY_COMPILED, "jills ills"}
    assert runs.reached[runs.peer == FULL_BATCH].all()
    assert (runs.compile_seconds > 0).all()
    assert (runs.test_loss > 0).all()
    with xr.open_dataset(results / "traces.nc", engine="h5netcdf") as arrays:
        assert dict(arrays.sizes) == {"problem": 1, "peer": 3, "seed": 2, "point": 200}
        np.testing.assert_allclose(arrays.target[0], sorted(runs.target.unique(), key=list(runs.target).index))
    rates = read_json(results / "toy" / "tuning.json")["full_batch"]
    assert rates["rate"] == min(with_optax.RATES, key=lambda rate: rates["losses"][str(rate)])
    assert "Adam, full batch" in capsys.readouterr().out

    path.write_text(TOY.replace("hidden = [2]", "hidden = [3]"))
    with pytest.raises(ConfigError, match="holds another problem or protocol"):
        one_problem.claim(results / "toy", load_benchmark(path))
