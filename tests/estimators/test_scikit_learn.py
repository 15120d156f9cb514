"""What scikit-learn asks of an estimator, whole; and that its own tools work with ours."""

import pickle
import warnings
from typing import Any

import jax.monitoring
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jills.estimators import NetworkClassifier, NetworkRegressor

SMALL: dict[str, Any] = {"hidden": (2,), "members": 2, "max_steps": 4, "random_state": 0}


@pytest.mark.slow
@parametrize_with_checks([NetworkRegressor(**SMALL), NetworkClassifier(**SMALL, regularization="evidence")])
def test_scikit_learn_finds_nothing_to_object_to(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn's own
        check(estimator)


def small(options: dict[str, Any]) -> dict[str, Any]:
    return SMALL | options


def table(n=50, d=3, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, d))
    return inputs, np.sin(inputs[:, 0]) + 0.1 * rng.normal(size=n)


@pytest.fixture
def programs():
    """The names of all that is compiled, from here on."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **told: Any):
        if event.endswith("backend_compile_duration"):
            names.append(told["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


TRAINING = "jit(_steps)"


def test_folds_of_nearly_one_length_and_all_candidates_share_a_program(programs):
    """Five folds of 84 or 85 rows, three weight decays: padded, they are of one shape."""
    inputs, targets = table(106)
    model = NetworkRegressor(**small({"regularization": 0.1}))
    search = GridSearchCV(model, {"regularization": [1e-3, 1e-2, 0.1]}, cv=5, refit=False)
    search.fit(inputs, targets)
    assert programs.count(TRAINING) == 1
    programs.clear()
    search.fit(*table(106, seed=1))
    assert programs == []  # other data, the same shapes


def test_candidates_for_regularization_and_folds_share_a_program(programs):
    """Three numbers × five folds; the next three need no other."""
    model: Any = NetworkRegressor(**small({"regularization": [1e-3, 1e-2, 0.1]}))
    again: Any = clone(model)
    again.fit(*table(53))
    assert programs.count(TRAINING) == 1
    programs.clear()
    model.set_params(regularization=[3e-3, 3e-2, 0.3]).fit(*table(53, seed=1))
    assert programs == []
    assert model.regularization == [3e-3, 3e-2, 0.3]


def test_pipelines_frames_and_pickles():
    inputs, targets = table()
    frame = pd.DataFrame(inputs, columns=["a", "b", "c"]).assign(kind=["x", "y"] * 25)
    rest: Any = StandardScaler()
    columns = ColumnTransformer([("kinds", OneHotEncoder(), ["kind"])], remainder=rest)
    model = make_pipeline(columns, NetworkRegressor(**SMALL)).fit(frame, targets)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    wrapped = TransformedTargetRegressor(clone(model), func=np.cbrt, inverse_func=lambda values: values**3)
    assert np.isfinite(wrapped.fit(frame, targets).predict(frame)).all()
    assert np.isfinite(cross_val_score(NetworkRegressor(**SMALL), inputs, targets, cv=2)).all()
    named: Any = NetworkRegressor(**SMALL).fit(frame[["a", "b"]], targets)
    assert list(named.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        named.predict(frame[["b", "a"]])
