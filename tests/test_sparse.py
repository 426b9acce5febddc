"""scipy.sparse input: the model of the same dense data, without a dense copy of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse

from fastmnist import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression
from fastmnist.evaluation.explanation import explain

N, FEATURES, CLASSES = 240, 40, 3
MODELS = {
    "softmax": lambda **p: LogisticRegression(max_iter=15, tol=1e-2, **p),
    "softmax, sgd": lambda **p: LogisticRegression(solver="sgd", max_iter=3, tol=0, random_state=0, **p),
    "one-vs-rest": lambda **p: OneVsRestLogisticRegression(max_iter=15, tol=1e-2, **p),
    "mlp": lambda **p: MLPClassifier((20, 9), batch_size=32, max_iter=3, random_state=0, **p),
    "mlp, lbfgs": lambda **p: MLPClassifier((9,), solver="lbfgs", max_iter=5, random_state=0, **p),
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _data(dtype=np.uint8, share=0.2, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, N)
    X = rng.integers(1, 100, (N, FEATURES)) + 150 * (np.arange(FEATURES) % CLASSES == y[:, None])
    return (X * (rng.random(X.shape) < share)).astype(dtype), y


def _arrays(model):
    parameters = [*model.coefs_, *model.intercepts_] if hasattr(model, "coefs_") else [model.coef_, model.intercept_]
    return [(p.dtype, p.tobytes()) for p in parameters]


# Equal to the last bit: NumPy works on the same dense rows, and the compiled kernels on the same compressed rows, because dense data of few
# nonzeros are compressed too.
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64, bool])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_of_sparse_data_is_that_of_the_dense_ones(name, backend, dtype):
    X, y = _data(dtype)
    sparse = scipy.sparse.csr_array(X)
    ours, dense = MODELS[name](backend=backend).fit(sparse, y), MODELS[name](backend=backend).fit(X, y)
    assert _arrays(ours) == _arrays(dense)
    assert ours.loss_curve_ == dense.loss_curve_
    assert (ours.pixel_scale_, ours.input_max_) == (dense.pixel_scale_, dense.input_max_)
    np.testing.assert_array_equal(ours.predict_proba(sparse), dense.predict_proba(X))
    np.testing.assert_array_equal(dense.predict(sparse), dense.predict(X))
    assert ours.score(sparse, y) == dense.score(X, y)
    if hasattr(ours, "decision_function"):
        np.testing.assert_array_equal(ours.decision_function(sparse), dense.decision_function(X))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_weights_validation_and_early_stopping(backend):
    X, y = _data()
    sparse = scipy.sparse.csr_array(X)
    weight = np.arange(N) % 4 / 2.0
    models = [
        MLPClassifier((9,), max_iter=4, early_stopping=True, random_state=0, backend=backend).fit(data, y, weight)
        for data in (X, sparse)
    ]
    assert _arrays(models[0]) == _arrays(models[1])
    assert models[0].validation_scores_ == models[1].validation_scores_
    histories = [
        LogisticRegression(max_iter=3, backend=backend).fit(data, y, weight, validation_data=(data[:50], y[:50]))
        for data in (X, sparse)
    ]
    assert histories[0].history_["val_loss"] == histories[1].history_["val_loss"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_partial_fit(backend):
    X, y = _data()
    models = [MLPClassifier((9,), random_state=0, backend=backend) for _ in range(2)]
    for first in range(0, N, 80):
        part = slice(first, first + 80)
        models[0].partial_fit(X[part], y[part], classes=range(CLASSES))
        models[1].partial_fit(scipy.sparse.csr_array(X[part]), y[part], classes=range(CLASSES))
        assert _arrays(models[0]) == _arrays(models[1])


@pytest.mark.filterwarnings(
    "ignore::scipy.sparse.SparseEfficiencyWarning"
)  # of making a DIA matrix of scattered values
@pytest.mark.parametrize("form", ["coo", "csc", "bsr", "lil", "dok", "dia"])
@pytest.mark.parametrize("kind", [scipy.sparse.coo_array, scipy.sparse.coo_matrix])
def test_all_formats(form, kind):
    X, y = _data()
    expected = LogisticRegression(max_iter=3).fit(X, y)
    sparse = kind(X).asformat(form)
    assert _arrays(LogisticRegression(max_iter=3).fit(sparse, y)) == _arrays(expected)
    np.testing.assert_array_equal(expected.predict(sparse), expected.predict(X))


def _messy(dtype=np.float32, index_dtype=np.int32):
    """Rows with descending columns, columns that occur twice, and stored zeros; its dense form."""
    X, _ = _data(dtype)
    rows = scipy.sparse.csr_array(X)
    messy = scipy.sparse.lil_array(X).tocsr()
    data, indices, indptr = [], [], [0]
    for i in range(N):
        lo, hi = rows.indptr[i], rows.indptr[i + 1]
        columns, values = rows.indices[lo:hi][::-1], rows.data[lo:hi][::-1]
        indices += [*columns, 0, *columns[:1]]  # a stored zero, and one column again
        data += [*values, 0, *values[:1]]
        indptr.append(len(indices))
    messy = scipy.sparse.csr_array(
        (np.array(data, dtype), np.array(indices, index_dtype), np.array(indptr, index_dtype)), shape=X.shape
    )
    return messy, messy.toarray()


@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_messy_rows_are_read_as_scipy_reads_them_and_left_as_they_are(backend, index_dtype):
    sparse, X = _messy(index_dtype=index_dtype)
    _, y = _data()
    before = [a.copy() for a in (sparse.data, sparse.indices, sparse.indptr)]
    # Flags that are wrong, as after the arrays were changed by hand, must not be believed.
    sparse.has_sorted_indices = sparse.has_canonical_format = True
    model = MODELS["mlp"](backend=backend).fit(sparse, y)
    model.predict(sparse)
    assert _arrays(model) == _arrays(MODELS["mlp"](backend=backend).fit(X, y))
    for array, old in zip((sparse.data, sparse.indices, sparse.indptr), before, strict=True):
        np.testing.assert_array_equal(array, old)
        assert array.dtype == old.dtype


@pytest.mark.parametrize("damage", ["column", "negative column", "pointer", "falling pointers"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_damaged_rows_are_refused(backend, damage):
    X, y = _data(np.float32)
    model = LogisticRegression(max_iter=2, backend=backend).fit(X, y)
    sparse = scipy.sparse.csr_array(X)
    if "column" in damage:
        sparse.indices[5] = -1 if "negative" in damage else 10_000_000
    else:
        sparse.indptr[-1 if damage == "pointer" else 3] = 10_000_000
    for call in (lambda: LogisticRegression(backend=backend).fit(sparse, y), lambda: model.predict(sparse)):
        with pytest.raises(ValueError, match="damaged sparse matrix"):
            call()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    X, y = _data(np.float32)
    sparse = scipy.sparse.csr_array(X)
    model = LogisticRegression(max_iter=2).fit(sparse, y)
    sparse.data[7] = value
    for call in (lambda: LogisticRegression().fit(sparse, y), lambda: model.predict(sparse)):
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            call()


def test_values_too_large_are_refused():
    X, y = _data(np.float64)
    X[X > 0] *= 1e300
    with pytest.raises(ValueError, match="too large for dtype"):
        LogisticRegression(backend="numba").fit(scipy.sparse.csr_array(X), y)


def test_rows_stay_compressed_whatever_their_density():
    X, y = _data(np.float32, share=0.9)
    sparse = scipy.sparse.csr_array(X)
    ours, dense = (MODELS["mlp"](backend="numba").fit(data, y) for data in (sparse, X))
    # Other kernels, another order of sums.
    for mine, theirs in zip(ours.coefs_, dense.coefs_, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    lines = explain(MODELS["mlp"](backend="numba"), sparse, y).program
    assert any("compressed float32. X is sparse, 90% of the values are nonzero" in line for line in lines)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_no_dense_copy_is_made(name, backend):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((12_000, 4_000), density=0.002, rng=rng, format="csr", dtype=np.float32)
    y = rng.integers(0, 3, X.shape[0])
    dense = X.shape[0] * X.shape[1] * 4
    model = MODELS[name](backend=backend, max_memory=dense // 8).set_params(max_iter=1, batch_size=200)
    tracemalloc.start()
    try:
        model.fit(X, y)
        model.predict_proba(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < dense / 4


def test_classes_may_be_missing_and_features_must_agree():
    X, y = _data()
    model = LogisticRegression(max_iter=2).fit(scipy.sparse.csr_array(X), y)
    with pytest.raises(ValueError, match="features"):
        model.predict(scipy.sparse.csr_array(X[:, :-1]))
    empty = scipy.sparse.csr_array((5, FEATURES), dtype=np.uint8)
    np.testing.assert_array_equal(model.predict(empty), model.predict(empty.toarray()))
