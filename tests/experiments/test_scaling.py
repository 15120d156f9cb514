"""Arithmetic on paper against what the steps do, exponents, and the measuring scripts at toy size."""

import math
from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest

import jills
from experiments import measuring
from experiments.studies import arithmetic, by_the_step, hard_problems, many_networks, minibatches, robustness, scaling

pytestmark = pytest.mark.usefixtures("usual_jax")

SIZES, ROWS = (3, 5, 2), 11


def products_of(function, *arguments):
    """Multiply-adds of all products of two matrices in the traced function, loops entered once, branches never."""

    def walk(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                left, right = (variable.aval.shape for variable in equation.invars)
                (contracted, _), _ = equation.params["dimension_numbers"]
                inner = math.prod(left[axis] for axis in contracted)
                # Products with a vector are linear in activations or parameters, and left out on paper.
                if min(len(left), len(right)) > 1:
                    total += math.prod(equation.outvars[0].aval.shape) * inner
            elif equation.primitive.name not in ("cond", "custom_vmap_call"):
                inside = [part for value in equation.params.values() for part in np.atleast_1d(np.array(value, object))]
                total += sum(walk(getattr(part, "jaxpr", part)) for part in inside if hasattr(part, "jaxpr"))
        return total

    return walk(jax.make_jaxpr(function)(*arguments).jaxpr)


def start(sizes=SIZES, rows=ROWS):
    network, task = scaling.make_problem(scaling.Point(rows=rows, inputs=sizes[0]), "float64", sizes)
    return network, *task(jax.random.key(1))


def step_products(algorithm, params, batch):
    return products_of(partial(algorithm.step, algorithm.defaults), algorithm.init(params, batch), batch)


def test_forward_and_adam_are_what_a_step_multiplies():
    network, params, batch = start()
    assert arithmetic.forward(SIZES, ROWS) == 11 * (3 * 5 + 5 * 2) == products_of(network.predict, params, batch.inputs)
    assert step_products(jills.adam.build(network), params, batch) == arithmetic.adam(SIZES, ROWS)


def test_ills_is_its_products_and_its_solves():
    network, params, batch = start()
    # The solver is one opaque call in the trace.
    solves = arithmetic.least_squares(11, 4, 5) + arithmetic.least_squares(11, 6, 2)
    solves += arithmetic.least_squares(11 * 2, 5 * 4, 1)
    products = step_products(jills.ills.build(network, solver=jills.solvers.qr), params, batch)
    assert products == arithmetic.ills(SIZES, ROWS) - solves
    assert arithmetic.deviation_entries(SIZES, ROWS) == 22 * 20
    assert arithmetic.deviation_entries((3, 2), ROWS) == 0


@pytest.mark.parametrize("shape", [(13, 13), (31, 7)])
def test_householder_counts_reflections(shape):
    rows, columns = shape
    # Column j: the products of a vector of rows − j with each column right of it, and the update of each.
    loops = sum(2 * (rows - j) * (columns - j) for j in range(columns))
    np.testing.assert_allclose(arithmetic.householder(rows, columns), loops, rtol=0.15)


@pytest.mark.parametrize("sizes", [(3, 5, 1), (3, 5, 2)], ids=["one output", "two outputs"])
def test_gauss_newton_is_what_its_iterations_multiply(sizes):
    network, params, batch = start(sizes)
    blocks = jills.gauss_newton.default_blocks(network)
    algorithm = jills.gauss_newton.build(network, linear_solver=jills.ConjugateGradients(), blocks=blocks)
    paper = arithmetic.gauss_newton(sizes, ROWS, 1, blocks, 0)
    # The inverses are opaque calls; those of the output layer alone, then of all layers.
    counted = sum(arithmetic.inverse(size) for size in (6, sizes[2], 6, sizes[2], 4, 5))
    traced = step_products(algorithm, params, batch)
    np.testing.assert_allclose(traced, paper - counted, rtol=0.1)


def test_small_blocks_are_dense():
    blocks = ((1, 1), (0, 0), (0, 1))
    assert arithmetic.iterative_blocks(SIZES, ROWS, blocks) == [(1, 1)]
    assert arithmetic.iterative_blocks(SIZES, ROWS, blocks, 25) == [(1, 1), (0, 1)]
    passes = 2 * ROWS * (20 + 12) + ROWS * 20 + 3 * arithmetic.forward(SIZES, ROWS, 1)
    dense = ROWS * 2 * 20**2 + 20**3 / 6 + 2 * 20**2
    assert arithmetic.gauss_newton(SIZES, ROWS, 5, ((0, 0),)) == passes + dense


def test_exponents_are_those_of_the_upper_half():
    sizes = np.array([1.0, 2, 4, 8, 16, 32, 64])
    seconds = 3e-6 * np.where(sizes < 8, 8.0, sizes) ** 1.7
    assert scaling.exponent(sizes, seconds) == pytest.approx(1.7)
    assert scaling.exponent([5, 10, 20], [1, 2, np.nan]) == pytest.approx(1.0)
    assert math.isnan(scaling.exponent([5, 10], [1, np.nan]))
    table = pd.DataFrame({"axis": "rows", "algorithm": "adam", "value": sizes, "seconds": seconds})
    table = table.assign(multiply_adds=sizes, peak_bytes=sizes**2, compile_seconds=1.0)
    (row,) = scaling.exponents(table).to_dict("records")
    assert [row["seconds"], row["multiply_adds"], row["peak_bytes"]] == pytest.approx([1.7, 1, 2])
    assert row["compile_seconds"] == pytest.approx(0, abs=1e-12)


def test_what_is_too_large_is_left_out_and_says_why():
    limits = scaling.Limits(longest=2.0, max_bytes=1e6)
    point = scaling.Point(rows=10_000)
    assert "deviation matrix of 0.1 GB" in scaling.too_large("ills", point, "float32", 0.1, limits)
    assert "at least 3 s" in scaling.too_large("adam", point, "float32", 3.0, limits)
    assert scaling.too_large("adam", point, "float32", 0.1, limits) == ""


def test_scaling_leaves_what_it_says(tmp_path, capsys):
    # The other algorithms go the same way, but compile for seconds; so does a sweep, which the next test but one has.
    axes = ["--rows", "7", "--width", "--depth", "--outputs", "--members"]
    more = ["--algorithms", "adam", "--base", "rows=11", "width=3", "--repeats", "1", "--seconds", "0.001"]
    assert scaling.main([*axes, *more, "--matmul-size", "64", "--results", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    names = {"scaling.csv", "exponents.csv", "environment.json", "scaling.png"}
    assert {path.name for path in folder.iterdir()} == names
    table = pd.read_csv(folder / "scaling.csv")
    assert list(table.axis) == ["rows"]
    measured = table[["seconds", "compile_seconds", "peak_bytes", "share", "seconds_ratio"]].to_numpy()
    assert np.isfinite(measured).all()
    assert measured.min() > 0
    assert (table.seconds_ratio[table.algorithm == "adam"] == 1).all()
    printed = capsys.readouterr()
    assert "exponents over the upper half" in printed.out
    assert "1/1" in printed.err


def test_ctrl_c_keeps_the_rows_before_it(capsys):
    def rows():
        yield {"n": 1}
        raise KeyboardInterrupt

    assert measuring.collect(rows(), 3, lambda row: f"row {row['n']}") == ([{"n": 1}], True)
    told = capsys.readouterr().err
    assert "1/3" in told
    assert "row 1" in told


def test_many_networks_leaves_what_it_says(tmp_path, monkeypatch, capsys):
    # Gauss-Newton compiles for seconds.
    monkeypatch.setattr(many_networks, "builders", lambda: {"adam": jills.adam.build})
    toy = ["--members", "5", "--rows", "13", "--hidden", "3", "--steps", "2", "--repeats", "1", "--singles", "1"]
    assert many_networks.main([*toy, "--matmul-size", "64", "--results", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"algorithms.csv", "environment.json"}
    assert pd.read_csv(folder / "algorithms.csv").ms_in_a_sweep[0] > 0
    assert "ratio_to_adam" in capsys.readouterr().out


def test_minibatches_leave_what_they_say(tmp_path, monkeypatch, capsys):
    jax.config.update("jax_enable_x64", False)
    all_of_them = minibatches.trainers
    monkeypatch.setattr(minibatches, "trainers", lambda *arguments: all_of_them(*arguments)[2:])
    toy = ["--dataset", "digits", "--hidden", "3", "--seconds", "0.01", "--results", str(tmp_path)]
    assert minibatches.main(toy) == 0
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"curves.csv", "environment.json", "minibatches.png"}
    table = pd.read_csv(folder / "curves.csv")
    assert set(table.trainer) == {"Adam 0.003", "Gauss–Newton"}
    assert (table.groupby("trainer").seconds.diff().dropna() > 0).all()
    assert np.isfinite(table.train_loss).all()
    assert "Adam 0.003" in capsys.readouterr().out


FAMILY = hard_problems.FAMILIES[0]


def test_problems_come_from_their_keys_and_are_what_their_kind_says():
    keys = jax.random.split(jax.random.key(3), 800)
    problem = jax.jit(jax.vmap(hard_problems.make_problem(FAMILY, "float32")))
    (params, batch), again = problem(keys), problem(keys[::-1])
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[::-1]), (params, batch), again)
    facts = hard_problems.facts(FAMILY, "float32", keys)
    kinds = np.array(hard_problems.KINDS)[facts.kind]
    assert set(kinds) == set(hard_problems.KINDS)
    assert not facts.troubles[(kinds == "plain") | (kinds == "no rows")].any()
    assert len(np.unique(facts.troubles[kinds == "mixture"], axis=0)) > 10
    of = lambda kind, leaf: np.asarray(leaf)[kinds == kind]  # noqa: E731 read at once
    spread = lambda kind, leaf: np.ptp(np.log10(np.std(of(kind, leaf), axis=1)))  # noqa: E731
    assert spread("input scales", batch.inputs) > 8
    assert min(spread("input unit", batch.inputs), spread("target unit", batch.targets)) > 20
    assert (np.ptp(of("duplicated columns", batch.inputs), axis=2) == 0).all()
    collinear = of("collinear columns", batch.inputs)
    np.testing.assert_allclose(collinear[..., -1], collinear[..., :-1].sum(axis=2), rtol=1e-5, atol=1e-6)
    dead = np.ptp(of("dead columns", batch.inputs), axis=1) == 0
    assert 0.3 < dead.mean() < 0.7
    years = of("raw years", batch.inputs)[..., 0]
    assert 1700 <= years.min() < 1710 < 1990 < years.max() <= 2000
    assert (np.ptp(of("constant targets", batch.targets), axis=1) == 0).all()
    assert (of("one row", batch.weights).sum(axis=1) == 1).all()
    assert (of("few rows", batch.weights).sum(axis=1) < FAMILY.network.num_params).all()
    empty = of("empty folds", batch.weights) == 0
    assert 0.8 < empty.mean() < 0.95
    np.testing.assert_array_equal(
        np.isnan(of("empty folds", batch.inputs)), np.broadcast_to(empty[..., None], (*empty.shape, 3))
    )
    assert np.ptp(np.log10(of("row weights", batch.weights)), axis=1).min() > 10
    assert (of("no rows", batch.weights) == 0).all()
    assert (of("zero inputs", batch.inputs) == 0).all()
    sizes = {kind: np.std(of(kind, params[0].weight)) for kind in ("plain", "saturated start")}
    assert sizes["saturated start"] / sizes["plain"] == pytest.approx(100, rel=0.2)


def test_one_hot_columns_have_one_category_a_row_and_rare_ones():
    """Of 29 categories of 97 rows, some have one, two or three."""
    family = hard_problems.FAMILIES[5]
    keys = jax.random.split(jax.random.key(4), 200)
    _, batch = jax.jit(jax.vmap(hard_problems.make_problem(family, "float32")))(keys)
    kinds = np.array(hard_problems.KINDS)[hard_problems.facts(family, "float32", keys).kind]
    inputs = np.asarray(batch.inputs)[kinds == "one-hot columns"]
    assert len(inputs) > 3
    assert (inputs.sum(axis=2) == 1).all()
    assert set(np.unique(inputs)) == {0, 1}
    rows = inputs.sum(axis=1)
    assert ((rows > 0) & (rows <= 3)).sum(axis=1).min() >= 5
    assert rows.max(axis=1).min() >= 15


def test_the_loss_of_the_best_constant_is_the_weighted_variance():
    weights = np.arange(11.0) % 5
    targets = np.sin(np.arange(22.0)).reshape(11, 2)
    spread, square = hard_problems.constant_loss(np.where(weights[:, None] > 0, targets, np.nan), weights)
    mean = np.average(targets, axis=0, weights=weights)
    np.testing.assert_allclose(spread, np.average((targets - mean) ** 2, axis=0, weights=weights).mean())
    np.testing.assert_allclose(square, np.average(targets**2, axis=0, weights=weights).mean())
    assert np.isnan(hard_problems.constant_loss(targets, 0 * weights)).all()


def test_the_loss_of_the_best_constant_keeps_its_digits():
    """Targets of float32 at a level of 1000 with a spread of one last digit, where float32 would see none or a half."""
    targets = np.float32(1000) + np.arange(4, dtype="float32")[:, None] * np.float32(2**-14)
    spread, _ = hard_problems.constant_loss(targets, np.ones(4, "float32"))
    np.testing.assert_allclose(spread, 1.25 * 2.0**-28, rtol=1e-12)


def together(network):
    """Two blocks instead of all, for the time it takes to compile."""
    return jills.gauss_newton.build(network, blocks=jills.gauss_newton.together(network))


def test_gauss_newton_is_robust_on_a_few_problems():
    jax.config.update("jax_enable_x64", False)
    key = robustness.family_key(0, FAMILY)
    members = robustness.run_family(FAMILY, key, 60, 10, together)
    np.testing.assert_array_equal(members.refused, members.kind == "no rows")
    trained = members[~members.refused]
    assert 0 < len(trained) < len(members)
    assert trained.not_higher.all()
    assert trained.reaches_constant.mean() >= 0.9
    algorithm, params, batch = robustness.member(0, FAMILY.name, 7)
    assert algorithm.network == FAMILY.network
    loss = algorithm.init(params, batch).loss
    np.testing.assert_allclose(loss, members.start_loss[7], rtol=1e-5)


def some_members(family, key, count, num_steps, build):
    """Half of them end no higher and below a constant, half do neither."""
    final = np.where(np.arange(count) % 2, 0.5, 2.0)
    table = pd.DataFrame({"family": family.name, "index": np.arange(count), "kind": "plain", "start_loss": 1.0})
    table = table.assign(final_loss=final, constant_loss=1.0, mean_square=1.0, status="stalled", result=0)
    return table.assign(not_higher=final < 1, reaches_constant=final < 1, refused=False, troubles="")


def test_robustness_fails_where_members_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "run_family", some_members)
    assert robustness.main(["--problems", "24", "--results", str(tmp_path)]) == 1
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"members.csv", "summary.csv", "environment.json"}
    summary = pd.read_csv(folder / "summary.csv")
    families = [family.name for family in hard_problems.FAMILIES]
    assert list(summary.kind) == ["plain", *families, "all"]
    assert list(summary.members) == [24, *8 * [3], 24] == list(summary.stalled)
    assert summary.worst_rise[0] == 2.0
    printed = capsys.readouterr()
    assert "16 of 24 members end higher than they started" in printed.out
    assert "33.33% reach the loss of the best constant, 99% are asked for" in printed.out
    assert "8/8" in printed.err


@pytest.mark.parametrize(
    ("kind", "refused", "failed"), [("no rows", True, False), ("plain", True, True), ("no rows", False, True)]
)
def test_who_is_refused_by_mistake_or_trained_on_nothing_fails(tmp_path, capsys, kind, refused, failed):
    good = {
        "family": FAMILY.name,
        "index": 0,
        "kind": "plain",
        "start_loss": 1.0,
        "final_loss": 0.5,
        "constant_loss": 1.0,
    }
    good |= {
        "not_higher": True,
        "reaches_constant": True,
        "refused": False,
        "troubles": "",
        "status": "stalled",
        "result": 0,
    }
    odd = good | {"kind": kind, "refused": refused, "result": 6 if refused else 0}
    assert robustness.finish(tmp_path, pd.DataFrame([good, odd])) == failed
    assert f"{int(refused)} of 2 members refused, {int(failed)} of them" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_is_a_violation():
    members = pd.DataFrame({"kind": ["plain"] * 3, "start_loss": [1.0, 1, 0], "final_loss": [0.5, np.nan, 0]})
    members = members.assign(not_higher=[True, False, True], reaches_constant=True, status="improving", result=0)
    members = members.assign(refused=False, family="")
    table = robustness.summarize(members)
    assert list(table.kind) == ["plain", "all"]
    assert table.not_higher[0] == pytest.approx(2 / 3)
    assert np.isinf(table.worst_rise[0])


def test_by_the_step_counts_steps_to_the_loss_of_adam(monkeypatch):
    for name, value in {"HIDDEN": 7, "ADAM_STEPS": 31, "STEPS": 5, "RATES": (1e-2, 3e-2)}.items():
        monkeypatch.setattr(by_the_step, name, value)
    rng = np.random.default_rng(0)
    inputs = by_the_step.standardised(rng.normal(size=(53, 3)))
    table = by_the_step.Table("waves", inputs, by_the_step.standardised(np.sin(2 * inputs[:, 0])))
    row = by_the_step.measured(table, 1)
    for name in ("as it comes", "block by block"):
        steps, each, ratio = (row[f"{name}: {column}"] for column in ("steps", "step over Adam's", "ratio"))
        assert 1 <= round(steps) <= 5
        assert ratio == pytest.approx(31 / (steps * each))


def test_tables_that_are_not_there_are_left_out_with_a_word(tmp_path, capsys):
    names = [table.name for table in by_the_step.tables(str(tmp_path))]
    assert "diabetes" in names
    assert "concrete" not in names
    assert "concrete is left out" in capsys.readouterr().err
