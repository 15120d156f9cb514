"""Tables in, predictions with their uncertainty out: against the engine, NumPy, and what is known of the data."""

import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import log_loss

import jills
from jills import estimators
from jills.estimators import GroupedRegressor, NetworkClassifier, NetworkRegressor, training

SMALL: dict[str, Any] = {"hidden": (5,), "members": 3, "max_steps": 20, "random_state": 0}


def small(options: dict[str, Any]) -> dict[str, Any]:
    return SMALL | options


def table(n=97, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-2, 2, size=(n, 3)) * [1.0, 100.0, 0.01] + [5.0, 1000.0, 0.0]
    return inputs, 30.0 + 7.0 * (np.sin(2 * (inputs[:, 0] - 5.0)) + noise * rng.normal(size=n))


@pytest.fixture(scope="module")
def fitted():
    return NetworkRegressor(**SMALL).fit(*table())


def test_it_learns_and_says_how_sure_it_is(fitted):
    inputs, targets = table(500, seed=1)
    mean, std = fitted.predict(inputs, return_std=True)
    assert fitted.score(inputs, targets) > 0.9
    assert 0.4 < fitted.noise_std_[0] / 0.7 < 1.5
    assert (std > 0.9 * fitted.noise_std_[0]).all()
    low, high = fitted.predict_interval(inputs, coverage=0.9)
    assert 0.8 < np.mean((low < targets) & (targets < high)) < 0.98
    assert fitted.relevance_.argmax() == 0
    np.testing.assert_allclose(mean, fitted.predict(inputs), rtol=1e-12)
    narrow = fitted.predict_interval(inputs, coverage=0.5)
    assert (narrow[1] - narrow[0] < high - low).all()
    draws = fitted.sample_y(inputs[:7], 4000, random_state=1)
    np.testing.assert_allclose(draws.std(axis=1), std[:7], rtol=0.1)
    np.testing.assert_allclose(draws.mean(axis=1), mean[:7], atol=0.1)


def test_its_mean_is_that_of_the_engine(fitted):
    inputs, _ = table(23, seed=2)
    inside = fitted.fitted_
    columns = (inputs - inside.inputs.mean) / inside.inputs.scale
    network = inside.method.algorithm.network
    each = jax.vmap(network.predict, in_axes=(0, None))(inside.params, jnp.asarray(columns, "float32"))
    expected = np.mean(np.asarray(each, np.float64), axis=0)[:, 0] * inside.targets.scale + inside.targets.mean
    np.testing.assert_allclose(fitted.predict(inputs), expected, rtol=1e-5)
    np.testing.assert_array_equal(fitted.to_numpy().predict(inputs)[:, 0], fitted.predict(inputs))


@pytest.mark.parametrize("name", sorted(estimators.forward.FUNCTIONS))
def test_activations_in_numpy_are_those_of_the_engine(name):
    values = np.linspace(-40, 40, 101)
    ours = np.array(estimators.forward.activation_of(name).forward(jnp.asarray(values)))
    np.testing.assert_allclose(estimators.forward.FUNCTIONS[name](values), ours, rtol=1e-12, atol=1e-15)


def test_without_hidden_layers_it_is_bayesian_ridge():
    """A group for each column apart: with all columns alike in use, the two choose nearly the same."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(203, 1))
    targets = 3.0 * inputs[:, 0] + 0.5 * rng.normal(size=203)
    model = NetworkRegressor(hidden=(), members=1, random_state=0).fit(inputs, targets)
    known = BayesianRidge().fit(inputs, targets)
    new = np.linspace(-3, 3, 11)[:, None]
    expected, deviation = known.predict(new, return_std=True)
    mean, std = model.predict(new, return_std=True)
    np.testing.assert_allclose(mean, expected, atol=0.01)
    np.testing.assert_allclose(std, deviation, rtol=0.01)


def test_a_weight_counts_rows_and_their_order_does_not_matter():
    inputs, targets = table(41)
    weights = np.random.default_rng(3).integers(0, 3, 41)
    order = np.random.default_rng(4).permutation(41)
    repeated = NetworkRegressor(**SMALL).fit(np.repeat(inputs, weights, axis=0), np.repeat(targets, weights))
    weighed = NetworkRegressor(**SMALL).fit(inputs[order], targets[order], sample_weight=weights[order])
    np.testing.assert_array_equal(weighed.predict(inputs), repeated.predict(inputs))


def test_folds_leave_rows_out_and_calibrate():
    inputs, targets = table(60, noise=0.5)
    model = NetworkRegressor(**small({"folds": 4})).fit(inputs, targets)
    weights = model._trained_.weights
    assert weights.shape == (4, 60)
    assert (np.sum(weights == 0, axis=0) == 1).all()
    residual = targets - model.oof_prediction_
    assert model.oof_score_ == pytest.approx(1 - np.mean(residual**2) / np.var(targets))
    assert model.oof_score_ < model.score(inputs, targets)
    np.testing.assert_allclose(np.mean((residual / model.oof_std_) ** 2), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"regularization": "validation"},
        {"regularization": 0.01},
        {"regularization": "validation", "algorithm": "adam", "max_steps": 300},
        {"regularization": "validation", "algorithm": "ills"},
        {"regularization": 0.001, "algorithm": "adam", "folds": 3, "max_steps": 300},
    ],
    ids=str,
)
def test_other_algorithms_and_regularisations_fit_too(options):
    inputs, targets = table()
    model = NetworkRegressor(**small(options)).fit(inputs, targets)
    _, std = model.predict(inputs, return_std=True)
    assert model.score(inputs, targets) > 0.3
    assert (std > 0).all()
    assert not hasattr(model, "log_evidence_")


def test_several_outputs():
    inputs, targets = table()
    both = np.stack([targets, -100 * targets + inputs[:, 1]], axis=1)
    model = NetworkRegressor(**SMALL).fit(inputs, both)
    mean, std = model.predict(inputs, return_std=True)
    assert mean.shape == std.shape == both.shape
    assert model.noise_std_.shape == (2,)
    assert model.sample_y(inputs, 5).shape == (97, 2, 5)
    assert np.all(np.mean((mean - both) ** 2, axis=0) < 0.3 * np.var(both, axis=0))


@pytest.mark.parametrize("regularization", ["evidence", "validation"])
@pytest.mark.parametrize("labels", [["no", "yes"], [3, 5, 7], [False, True]], ids=str)
def test_classes_of_any_kind(labels, regularization):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(120, 2))
    which = (inputs[:, 0] > 0).astype(int) + (len(labels) > 2) * (inputs[:, 1] > 0.5)
    options = {"folds": 3, "regularization": regularization}
    model = NetworkClassifier(**small(options)).fit(inputs, np.asarray(labels)[which])
    told = model.predict_proba(inputs)
    np.testing.assert_allclose(told.sum(axis=1), 1.0)
    np.testing.assert_array_equal(model.predict(inputs), model.classes_[told.argmax(axis=1)])
    assert model.score(inputs, np.asarray(labels)[which]) > 0.9
    assert model.oof_prediction_.shape == told.shape
    assert model.oof_score_ > 0.7


def test_class_weights_move_the_boundary():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 1))
    labels = (inputs[:, 0] + rng.normal(size=150) > 1.5).astype(int)
    plain, balanced = (
        NetworkClassifier(**SMALL, class_weight=weight).fit(inputs, labels) for weight in (None, "balanced")
    )
    assert balanced.predict(inputs).sum() > plain.predict(inputs).sum()


def test_hidden_auto_takes_the_lowest_out_of_fold_error():
    inputs, targets = table(60)
    model: Any = NetworkRegressor(hidden="auto", members=2, max_steps=6, random_state=0).fit(inputs, targets)
    scores = {
        hidden: NetworkRegressor(hidden, members=2, max_steps=6, folds=5, random_state=0)
        .fit(inputs, targets)
        .oof_score_
        for hidden in ((10,), (50,), (20, 20))
    }
    assert model.hidden_ == max(scores, key=scores.__getitem__)
    assert model.oof_score_ == pytest.approx(scores[model.hidden_])


def scores_of(kind, choices, inputs, targets, **options):
    """Of each candidate by itself, with the folds that choose."""
    models = (kind(**small({"members": 2, "folds": 5, **options, **choice})) for choice in choices)
    return [model.fit(inputs, targets).oof_score_ for model in models]


def test_candidates_for_hidden_are_chosen_by_out_of_fold_error():
    inputs, targets = table(60)
    candidates: Any = [[2], (7, 3), ()]
    model: Any = NetworkRegressor(**small({"members": 2, "hidden": candidates})).fit(inputs, targets)
    scores = scores_of(NetworkRegressor, [{"hidden": tuple(each)} for each in candidates], inputs, targets)
    assert model.hidden_ == tuple(candidates[int(np.argmax(scores))]) != ()
    assert model.oof_score_ == pytest.approx(max(scores))
    assert model.get_params()["hidden"] is candidates


@pytest.mark.parametrize("algorithm", ["gauss_newton", "ills", "adam"])
def test_candidates_for_regularization_are_chosen_by_out_of_fold_error(algorithm):
    """Of few rows with much noise; the training loss would take the lowest number."""
    inputs, targets = table(40, noise=1.0)
    numbers = [0.0, 0.3, 30.0] if algorithm == "adam" else [0.0, 0.03, 30.0]
    options: Any = {"algorithm": algorithm, "hidden": (20,), "max_steps": 200 if algorithm == "adam" else 20}
    model: Any = NetworkRegressor(**small({"members": 2, "regularization": numbers, **options})).fit(inputs, targets)
    choices = [{"regularization": number} for number in numbers]
    scores = scores_of(NetworkRegressor, choices, inputs, targets, **options)
    assert model.regularization_ == numbers[int(np.argmax(scores))] > 0
    assert model.oof_score_ == pytest.approx(max(scores), rel=1e-3)
    assert model.fitted_.described["regularization"] == model.regularization_
    assert model._trained_.result.state.loss.shape == (3 if algorithm == "gauss_newton" else 9, 5)
    assert len(model.diagnosis_.word) == 5


def test_candidates_of_a_classifier():
    inputs, targets = table(80, noise=1.0)
    labels = np.digitize(targets, np.quantile(targets, [0.3, 0.6]))
    numbers = np.array([1e-4, 0.1])
    model = NetworkClassifier(**small({"regularization": numbers})).fit(inputs, labels)
    each = [NetworkClassifier(**small({"regularization": one, "folds": 5})).fit(inputs, labels) for one in numbers]
    losses = [log_loss(labels, one.oof_prediction_) for one in each]
    assert model.regularization_ == numbers[int(np.argmin(losses))] == 0.1
    np.testing.assert_allclose(log_loss(labels, model.oof_prediction_), min(losses), rtol=1e-3)


def test_fit_chooses_and_minibatches_go_on_from_there(tmp_path):
    inputs, targets = table(60)
    model: Any = NetworkRegressor(**small({"members": 2, "hidden": [(7,), (2,)], "regularization": [1e-4, 10.0]}))
    with pytest.raises(ValueError, match="partial_fit chooses none"):
        model.partial_fit(inputs, targets)
    model.fit(inputs, targets).partial_fit(inputs, targets)
    assert (model.hidden_, model.regularization_) == ((2,), 1e-4)
    model.save(tmp_path / "model.npz")
    loaded: Any = estimators.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": []}, r"hidden is \[\], but must be widths"),
        ({"hidden": [10, (20, 20)]}, r"hidden is \[10, \(20, 20\)\], but must be widths"),
        ({"hidden": [(10,), (0,)]}, r"hidden is \(0,\), but must be positive"),
        ({"regularization": []}, r"regularization is \[\], but must be"),
        ({"regularization": [0.1, -1.0]}, r"regularization is \[0.1, -1.0\], but must be"),
        ({"regularization": [0.1, "evidence"]}, r"regularization is \[0.1, 'evidence'\], but must be"),
        ({"regularization": [0.1, True]}, r"regularization is \[0.1, True\], but must be"),
        ({"regularization": [0.1, np.nan]}, r"regularization is \[0.1, nan\], but must be"),
        ({"regularization": [0.1, 1.0], "algorithm": "evidence"}, "evidence regularises by itself"),
        ({"regularization": [0.1, 1.0], "folds": 21}, "folds is 21, but there are only 20"),
    ],
    ids=str,
)
def test_candidates_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkRegressor(**options).fit(*table(20))


def test_choosing_wants_as_many_rows_as_folds():
    with pytest.raises(ValueError, match="to choose among candidates, folds is 5, but there are only 4"):
        NetworkRegressor(hidden="auto").fit(*table(4))


@pytest.mark.parametrize("kind", [NetworkRegressor, NetworkClassifier, GroupedRegressor])
def test_the_word_for_compilation_is_handed_on(kind, monkeypatch):
    words = []
    swept = training.sweep
    monkeypatch.setattr(training, "sweep", lambda *args, **kw: words.append(kw["compile"]) or swept(*args, **kw))
    inputs, targets = table(20)
    kind(hidden=(2,), max_steps=2, compile="fast").fit(inputs, targets > 30 if kind is NetworkClassifier else targets)
    assert words == ["fast"]
    with pytest.raises(ValueError, match="compile is 'quick'"):
        kind(compile="quick").fit(inputs, np.arange(20) % 2)
    assert words == ["fast"]


def test_warm_start_goes_on():
    inputs, targets = table()
    model = NetworkRegressor(**small({"max_steps": 5, "warm_start": True})).fit(inputs, targets)
    first = model.loss_curve_[-1]
    model.fit(inputs, targets)
    assert model.n_iter_ == 10
    assert model.loss_curve_[0] <= 1.5 * first


def test_warm_start_goes_on_with_the_candidates_taken(monkeypatch):
    sweeps = []
    swept = training.sweep
    monkeypatch.setattr(training, "sweep", lambda *args, **kwargs: sweeps.append(1) or swept(*args, **kwargs))
    inputs, targets = table(30)
    options = {"max_steps": 3, "warm_start": True, "hidden": [(), (2,)], "regularization": [1e-3, 0.1], "folds": 2}
    model: Any = NetworkRegressor(**small(options)).fit(inputs, targets)
    first = model.hidden_
    assert len(sweeps) == 2
    model.fit(inputs, targets)
    assert len(sweeps) == 3
    assert (model.hidden_, model.n_iter_) == (first, 6)
    assert model._trained_.result.state.step.tolist() == [[6] * 4] * 2


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_minibatches_one_after_the_other(kind):
    inputs, targets = table(1200)
    if kind == "classes":
        targets = np.where(targets > 30, "high", "low")
    model: Any = (NetworkRegressor if kind == "regression" else NetworkClassifier)(**SMALL)
    scores = []
    for epoch in range(15):
        for start in range(0, 1200, 200):
            rows = slice(start, start + 200)
            first = {"classes": ["low", "high"]} if kind == "classes" and epoch == start == 0 else {}
            model.partial_fit(inputs[rows], targets[rows], **first)
        scores.append(model.score(inputs, targets))
    assert scores[-1] > 0.8
    assert scores[-1] > scores[0]
    assert model.n_iter_ == 90
    if kind == "regression":
        low, high = model.predict_interval(inputs)
        assert 0.8 < np.mean((low < targets) & (targets < high)) < 1.0


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_what_is_saved_predicts_in_a_process_without_scikit_learn(kind, tmp_path, fitted):
    inputs, targets = table()
    model: Any = fitted
    if kind == "classes":
        model = NetworkClassifier(**SMALL).fit(inputs, np.where(targets > 30, "high", "low"))
    model.save(tmp_path / "model.npz")
    np.save(tmp_path / "inputs.npy", inputs)
    program = f"""
import sys
sys.modules["sklearn"] = sys.modules["pandas"] = None
import numpy as np
from jills import estimators
model = estimators.load({str(tmp_path / "model.npz")!r})
inputs = np.load({str(tmp_path / "inputs.npy")!r})
regression = model.classes is None
told = model.predict(inputs, return_std=True) if regression else (model.predict(inputs), model.predict_proba(inputs))
np.savez({str(tmp_path / "told.npz")!r}, *told)
try:
    estimators.NetworkRegressor
except ImportError as error:
    assert "jills[estimators]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
    told = np.load(tmp_path / "told.npz")
    expected = (
        model.predict(inputs, return_std=True)
        if kind == "regression"
        else (model.predict(inputs), model.predict_proba(inputs))
    )
    np.testing.assert_array_equal(told["arr_0"], expected[0])
    np.testing.assert_allclose(told["arr_1"], expected[1], rtol=1e-5)


def test_other_files_are_refused(tmp_path):
    jills.save(tmp_path / "tree.npz", {"a": np.ones(3)})
    with pytest.raises(ValueError, match="no estimator of jills"):
        estimators.load(tmp_path / "tree.npz")


def test_a_file_keeps_the_names_of_columns(tmp_path):
    inputs, targets = table()
    frame = pd.DataFrame(inputs, columns=["a", "b", "c"])
    model: Any = NetworkRegressor(**SMALL).fit(frame, targets)
    model.save(tmp_path / "model.npz")
    loaded: Any = estimators.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="inputs have columns"):
        loaded.predict(frame[frame.columns[::-1]])


def test_groups_are_saved_and_taken_apart(tmp_path):
    rng = np.random.default_rng(1)
    groups = np.repeat(["b", "a"], [13, 17])
    inputs = rng.uniform(-1, 1, (30, 2))
    targets = np.where(groups == "a", 10.0, -5.0) + inputs[:, 0]
    options: Any = {"hidden": (3,), "members": 2, "max_steps": 4, "random_state": 0}
    model = GroupedRegressor(**options).fit(inputs, targets, groups=groups)
    model.save(tmp_path / "groups.npz")
    loaded: Any = estimators.load(tmp_path / "groups.npz")
    for one, other in zip(
        loaded.predict(inputs, groups, return_std=True), model.predict(inputs, groups, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    of = groups == "b"
    alone = loaded.of_group("b")
    mean, std = model.predict(inputs, groups=groups, return_std=True)
    np.testing.assert_allclose(alone.predict(inputs[of], return_std=True), (mean[of], std[of]), rtol=1e-4)
    plain: Any = model.to_numpy()
    np.testing.assert_allclose(plain["b"].predict(inputs[of])[:, 0], mean[of], rtol=1e-4)
    with pytest.raises(ValueError, match="were not among the 2"):
        loaded.of_group("c")
    with pytest.raises(ValueError, match=r"must be \(n, 2\)"):
        loaded.predict(inputs[:, :1], groups)


def test_groups_know_the_names_of_columns_after_a_file(tmp_path):
    inputs, targets = table(30)
    frame = pd.DataFrame(inputs, columns=["a", "b", "c"])
    GroupedRegressor((2,), max_steps=2).fit(frame, targets).save(tmp_path / "groups.npz")
    with pytest.raises(ValueError, match="inputs have columns"):
        estimators.load(tmp_path / "groups.npz").predict(frame[["c", "b", "a"]])


def test_groups_of_dates_and_far_levels_keep_their_digits():
    """Each against itself about zero, in float32."""
    rng = np.random.default_rng(0)
    groups, inputs = np.repeat([0, 1], 40), rng.uniform(0, 3, (80, 1))
    targets = np.sin(2 * inputs[:, 0]) + 0.01 * rng.normal(size=80)
    near, far = (GroupedRegressor((6,), random_state=0) for _ in range(2))
    near.fit(inputs, targets, groups=groups)
    far.fit(1.7e9 + 86400 * inputs, targets + 1e9 * groups, groups=groups)
    mean, std = far.predict(1.7e9 + 86400 * inputs, groups=groups, return_std=True)
    np.testing.assert_allclose(mean - 1e9 * groups, near.predict(inputs, groups=groups), atol=0.002)
    np.testing.assert_allclose(std, near.predict(inputs, groups=groups, return_std=True)[1], rtol=0.05)
    np.testing.assert_allclose(far.noise_std_, 0.01, rtol=0.4)
    alone: Any = far.fitted_.of_group(1)
    np.testing.assert_allclose(alone.predict(1.7e9 + 86400 * inputs[40:]), mean[40:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone.predict(1.7e9 + 86400 * inputs[40:], return_std=True)[1], std[40:], rtol=1e-4)


def test_a_long_compilation_is_told_of_once(monkeypatch):
    monkeypatch.setattr(training, "_told", [])
    monkeypatch.setattr(training, "WORTH_A_WORD", -1.0)
    monkeypatch.setattr(training, "is_cached", lambda: False)
    slow = training.sweep
    monkeypatch.setattr(training, "sweep", lambda *args, **kwargs: slow(*args, **kwargs)._replace(compile_seconds=1e9))
    with pytest.warns(UserWarning, match="enable_compilation_cache"):
        NetworkRegressor(**SMALL).fit(*table(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NetworkRegressor(**SMALL).fit(*table(20))


def test_each_group_has_a_network_of_its_own():
    rng = np.random.default_rng(0)
    groups = np.repeat(["b", "a", "c"], [30, 45, 20])
    inputs = rng.uniform(-1, 1, (95, 1))
    level = {"a": 0.0, "b": 100.0, "c": -5.0}
    noise = {"a": 0.1, "b": 5.0, "c": 0.02}
    truth = np.array(
        [level[g] + (1 + 9 * (g == "b")) * np.sin(3 * x) for g, x in zip(groups, inputs[:, 0], strict=True)]
    )
    targets = truth + rng.normal(size=95) * [noise[g] for g in groups]
    order = rng.permutation(95)
    model = GroupedRegressor((5,), members=2, random_state=0).fit(inputs[order], targets[order], groups=groups[order])
    mean, std = model.predict(inputs, groups=groups, return_std=True)
    for label in "abc":
        of = groups == label
        assert np.sqrt(np.mean((mean - truth)[of] ** 2)) < 3 * noise[label]
        assert 0.5 * noise[label] < np.median(std[of]) < 3 * noise[label]
    assert list(model.groups_) == ["a", "b", "c"]
    assert list(model.diagnosis_["group"]) == ["a", "a", "b", "b", "c", "c"]
    assert list(model.diagnosis_["rows"]) == [45, 45, 30, 30, 20, 20]
    alone = GroupedRegressor((5,), members=2, random_state=0).fit(inputs, targets, groups=groups)
    np.testing.assert_allclose(alone.predict(inputs, groups=groups), mean, rtol=1e-3)
    low, high = model.predict_interval(inputs, groups=groups)
    assert 0.8 < np.mean((low < targets) & (targets < high)) <= 1.0
    assert model.score(inputs, targets, groups=groups) > 0.95
    with pytest.raises(ValueError, match=r"groups \['d'\] were not among the 3"):
        model.predict(inputs[:1], groups=["d"])


BAD = {
    "activation": "swish",
    "members": 0,
    "regularization": "ridge",
    "algorithm": "lbfgs",
    "max_steps": 0,
    "folds": 1,
    "dtype": "float16",
    "hidden": (5, 0),
    "compile": "quick",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters_are_refused_before_anything_is_compiled(name):
    with pytest.raises(ValueError, match=f"{name} is {BAD[name]!r}".replace("(", r"\(").replace(")", r"\)")):
        NetworkRegressor(**{name: BAD[name]}).fit(*table(20))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="evidence regularises by itself"):
        NetworkRegressor(algorithm="evidence", regularization=0.1).fit(*table(20))
    with pytest.raises(ValueError, match="one class"):
        NetworkClassifier().fit(np.eye(3), [1, 1, 1])


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 1000, 1025, 4097])
def test_padding_is_at_most_an_eighth(count):
    size = estimators.rows.padded_size(count)
    assert size >= count
    assert size == 16 or size - count <= count / 8 + 1
    assert len({estimators.rows.padded_size(n) for n in range(1024, 2048)}) <= 9
