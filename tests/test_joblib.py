"""Inside joblib's workers, processes and threads: the same bits as alone."""

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_validate

from fastmnist import LogisticRegression, MLPClassifier


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:600] * 15).astype(np.uint8), y[:600]


MODELS = {
    "mlp": MLPClassifier((40,), max_iter=3, tol=0, backend="numba", random_state=0),
    "softmax": LogisticRegression(max_iter=4, backend="numba"),
}


def _bits(model):
    arrays = [*model.coefs_, *model.intercepts_] if hasattr(model, "coefs_") else [model.coef_, model.intercept_]
    return b"".join(array.tobytes() for array in arrays)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
@pytest.mark.parametrize("name", MODELS)
def test_models_fitted_in_workers_have_the_same_bits(digits, name, backend):
    expected = cross_validate(MODELS[name], *digits, cv=3, return_estimator=True)
    with parallel_config(backend, n_jobs=2):
        got = cross_validate(MODELS[name], *digits, cv=3, return_estimator=True)
    assert got["test_score"].tolist() == expected["test_score"].tolist()
    for ours, theirs in zip(got["estimator"], expected["estimator"], strict=True):
        assert _bits(ours) == _bits(theirs)
        assert ours.n_threads is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search_finds_the_same_on_two_jobs(digits):
    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(20,), (40, 20)]}
    searches = [GridSearchCV(clone(MODELS["mlp"]), grid, cv=2, n_jobs=jobs).fit(*digits) for jobs in (1, 2)]
    one, two = searches
    assert one.cv_results_["mean_test_score"].tolist() == two.cv_results_["mean_test_score"].tolist()
    assert one.best_params_ == two.best_params_
    assert _bits(one.best_estimator_) == _bits(two.best_estimator_)
