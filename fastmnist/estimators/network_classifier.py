"""What the classifiers share whose model is a network: its executor, the training data bound to it, inference."""

from __future__ import annotations

import operator
import threading
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from fastmnist import backends
from fastmnist.backends.device_rows import DeviceClasses, DeviceIndices, DeviceLabels, DeviceRows
from fastmnist.backends.rows import Matrix, StoredRows, largest_magnitude
from fastmnist.backends.windows import WindowedExecutor, bind_rows, outputs_of
from fastmnist.estimators.base import MAX_THREADS, Classifier, DivergedError
from fastmnist.estimators.device_input import on_device, on_host, require_gpu, take_labels, to_host
from fastmnist.estimators.inputs import PREDICT_COPY_BYTES, arithmetic_dtype, as_executor_input
from fastmnist.estimators.single_row import PreparedRow
from fastmnist.memory import default_memory
from fastmnist.network.spec import Spec
from fastmnist.training.validation import Validation
from fastmnist.warning import warn_user

if TYPE_CHECKING:
    from fastmnist.backends.base import BoundExecutor, Executor
    from fastmnist.backends.gpu_memory import MemoryPlan
    from fastmnist.training.history import EpochRecord

FULL_BATCH_BLOCK = 4096  # rows of a full-batch gradient that a GPU has in work at most


class NetworkClassifier(Classifier):
    """A classifier whose model is a `Spec` and its parameters.

    Subclasses have the parameters of `Classifier`, `n_threads` and `max_memory`, and implement `_spec` and `_parameters`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Classifier._parameter_constraints,
        "warm_start": ["boolean"],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_threads": [None, Interval(Integral, 1, MAX_THREADS, closed="both")],
        "max_memory": [None, Interval(Integral, 1, None, closed="left")],
    }

    _auto_batch_size: ClassVar[int] = 200  # what batch_size="auto" means: scikit-learn's
    _judges_probabilities: ClassVar[bool] = True  # `predict` compares probabilities; else logits

    precision: str = "float32"  # a parameter of networks
    n_threads: int | None
    max_memory: int | None
    batch_size: str | int
    solver: str

    def _spec(self) -> Spec:
        """The network of the fitted model, or of the one that is about to be."""
        raise NotImplementedError

    def _parameters(self) -> list[np.ndarray]:
        """The fitted parameters `[W0, b0, ...]`."""
        raise NotImplementedError

    def _require_sound(self) -> None:
        """See `Classifier`."""
        arrays = self._parameters()
        shapes = tuple(array.shape for array in arrays)
        expected = self._spec().parameter_shapes
        dtypes = {array.dtype.name for array in arrays}
        if shapes != expected or len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
            raise ValueError(f"weights of shapes {shapes} and types {sorted(dtypes)}, where the network has {expected}")

    # --- labels, validation data ------------------------------------------------------------------------------------------------

    @property
    def _n_outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _labels(self, indices: np.ndarray | DeviceIndices) -> Any:
        """Output that is 1 for each sample; of two classes the second is the positive one, output 0 (DESIGN.md, Vocabulary)."""
        if isinstance(indices, DeviceIndices):
            return indices.labels.encoded(self._output_of_class())
        return (1 - indices if self._n_outputs == 1 else indices).astype(np.int32)

    def _output_of_class(self) -> dict[int, int]:
        """Of each class, an integer."""
        n = len(self.classes_)
        return {
            int(label): 1 - k if self._n_outputs == 1 else k for k, label in zip(range(n), self.classes_, strict=True)
        }

    def _memory_limit(self) -> int:
        """`max_memory` as a number of bytes."""
        return default_memory() if self.max_memory is None else int(self.max_memory)

    def _validation(
        self, validation_data: tuple[ArrayLike, ArrayLike] | None, dtype: np.dtype, max_memory: int
    ) -> Validation | None:
        """The held-out data that `fit` was given.

        Raises
        ------
        ValueError
            It is no pair (X, y), or does not fit the training data.
        """
        if validation_data is None:
            return None
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
            raise ValueError(f"validation_data must be a pair (X, y); got {type(validation_data).__name__}.")
        X, y, _ = self._validate_training_data(*validation_data, None, reset=False)
        labels = self._labels(self._class_indices(y, "validation_data[1]"))
        return Validation(as_executor_input(X, dtype, max_memory), labels, None, self._pixel_scale_for(X))

    def _effective_batch_size(self, n_samples: int) -> int:
        """`batch_size` as a number that is not larger than the data."""
        if self.batch_size == "auto":
            return min(self._auto_batch_size, n_samples)
        if self.batch_size > n_samples:  # type: ignore[operator]
            warn_user(
                f"batch_size={self.batch_size} is larger than the number of training samples, {n_samples}; it is clipped to that.",
                UserWarning,
            )
        return min(int(self.batch_size), n_samples)

    # --- backend ----------------------------------------------------------------------------------------------------------------

    def _open_executor(self, spec: Spec, X: Matrix, *, epochs: int, steps: int) -> Executor:
        """Choose the backend for so many passes over X and build its executor; sets `backend_` and `backend_reason_`."""
        samples = float(epochs) * X.shape[0]
        # float32 is what every backend can do; NumPy, once it is chosen, does what X asks for.
        choice = backends.select(
            "cupy" if isinstance(X, DeviceRows) else self.backend,
            n_samples=X.shape[0],
            n_features=X.shape[1],
            flops=samples * spec.flops_per_sample,
            steps=steps,
            values=samples * X.shape[1],
            dtype=np.float32,
            numpy_flops=samples * self._numpy_flops_per_sample(spec),
            precision=self.precision,
            memory=lambda: self._memory_plan(spec, X),
        )
        executor = backends.build(
            choice.backend,
            spec,
            n_threads=self.n_threads,
            dtype=arithmetic_dtype(choice.backend, X),
            precision=self.precision,
        )
        self.backend_, self.backend_reason_ = choice.backend, choice.reason
        if isinstance(X, DeviceRows) and self.backend == "auto":
            self.backend_reason_ = "auto: X lies on the GPU."
        self._keep_executor(executor)
        return executor

    def _numpy_flops_per_sample(self, spec: Spec) -> float:
        """What else NumPy alone takes time for, see `backends.select`."""
        return 0.0

    def _memory_plan(self, spec: Spec, X: Matrix | DeviceRows) -> MemoryPlan:
        """What a fit would take of a GPU."""
        from fastmnist.backends.gpu_memory import plan_memory

        full_batch = self.solver in ("lbfgs", "gd")
        n = X.shape[0]
        size = (
            FULL_BATCH_BLOCK
            if full_batch
            else self._auto_batch_size
            if self.batch_size == "auto"
            else int(self.batch_size)
        )
        dtype = "uint8" if X.dtype == np.uint8 else "float32"
        return plan_memory(
            spec,
            min(n, 1) if scipy.sparse.issparse(X) else n,  # sparse rows come in windows
            dtype,
            min(size, n),
            full_batch=full_batch,
            search=self.solver == "lbfgs",
            resident=isinstance(X, DeviceRows),
            augmented=self._augmented_bytes(n * X.shape[1] * np.dtype(dtype).itemsize),
        )

    def _augmented_bytes(self, nbytes: int) -> int:
        """Of a GPU, to change so many bytes of images at random."""
        return 0

    def _bind(
        self,
        executor: Executor,
        X: Matrix,
        labels: np.ndarray,
        weights: np.ndarray | None,
        scale: float,
        max_memory: int,
        full_batch: bool = False,
    ) -> tuple[BoundExecutor, np.ndarray | StoredRows]:
        """Attach the training data; returns what to train with, and X as it was bound.

        `backend_reason_` then also says in which form the rows are kept, or that they have to be read bit by bit.
        """
        data, taken = self._executor_input(executor, X, max_memory)
        bound_weights = None if weights is None else weights.astype(np.float32)
        bound = bind_rows(
            executor,
            data,
            labels,
            bound_weights,
            pixel_scale=scale,
            max_memory=max_memory - taken,
            full_batch=full_batch,
        )
        reason = bound.reason if isinstance(bound, WindowedExecutor) else executor.rows_reason
        if reason:
            self.backend_reason_ = f"{self.backend_reason_} {reason}"
        return bound, data

    @staticmethod
    def _executor_input(executor: Executor, X: Matrix | DeviceRows, max_memory: int) -> tuple[Any, int]:
        """X as the executor takes it, and how many bytes were copied for that."""
        if isinstance(X, DeviceRows):
            return X, 0
        data = as_executor_input(X, executor.dtype, max_memory)
        taken = 0 if isinstance(data, StoredRows) or np.may_share_memory(data, X) else data.nbytes
        return data, taken

    def _keep_executor(self, executor: Executor) -> None:
        self._lock = threading.Lock()  # first: another thread may look for an executor right now
        self._prepared_rows: dict[tuple[np.dtype, bool], PreparedRow] = {}
        self._executor = executor
        self._remember_network(executor)

    def _release_data(self, executor: Executor, X: np.ndarray | StoredRows, labels: np.ndarray) -> None:
        """Let go of the training data: an estimator must not keep them alive."""
        row = X[:1].dense() if isinstance(X, (StoredRows, DeviceRows)) else X[:1].copy()
        executor.bind(row, labels[:1].copy(), None, pixel_scale=self.pixel_scale_)

    def _current_executor(self) -> Executor:
        """The executor of the last fit; after unpickling, or a change of `backend` or of the network, a new one."""
        executor: Executor | None = getattr(self, "_executor", None)
        # Predicting one row takes some microseconds: what the network follows from is compared by identity first.
        names, checked, values = getattr(self, "_executor_checked", ((), None, []))
        unchanged = checked is executor and all(map(operator.is_, self._values(names), values))
        if executor is not None and unchanged:
            return executor
        backend = self.backend_ if self.backend == "auto" else self.backend
        asked = backend, self.precision
        if (
            executor is None
            or (executor.backend, executor.precision) != asked
            or not _same_network(executor.spec, self._spec())
        ):
            self._keep_executor(executor := self._rebuild_executor(backend))
        else:
            self._remember_network(executor)
        return executor

    def _remember_network(self, executor: Executor) -> None:
        names = (*self._get_param_names(), "n_features_in_")
        self._executor_checked = names, executor, self._values(names)

    def _values(self, names: tuple[str, ...]) -> list[Any]:
        return [getattr(self, name) for name in names]

    def _rebuild_executor(self, backend: str) -> Executor:
        """An executor for fitted parameters; where the backend of the fit is missing (a loaded model), whatever this machine has."""
        dtype = self._parameters()[0].dtype
        if backend != "numpy" and dtype == np.float64:
            dtype = np.dtype(np.float32)  # fitted in float64 by NumPy, now asked of compiled kernels
        try:
            return backends.build(
                backend, self._spec(), n_threads=self.n_threads, dtype=dtype, precision=self.precision
            )
        except backends.BackendUnavailable:
            if backend != self.backend_:
                raise
            choice = backends.select("auto", n_samples=1, n_features=self.n_features_in_, flops=0, steps=1)
            return backends.build(choice.backend, self._spec(), n_threads=self.n_threads, dtype=dtype)

    # --- inference --------------------------------------------------------------------------------------------------------------

    def _outputs_of_row(self, X: ArrayLike, *, link: bool = True) -> np.ndarray | None:
        """`_outputs` of one row like one that was predicted before, with all of its validation; None: X has to go the long way."""
        if type(X) is not np.ndarray:
            return None
        prepared = getattr(self, "_prepared_rows", {}).get((X.dtype, link))
        return None if prepared is None else prepared.outputs(self, X)

    def _outputs(self, X: Matrix | DeviceRows, scale: float, *, link: bool = True) -> np.ndarray:
        """Outputs of the network, after the loss's link or without it, (n, n_outputs), for validated X."""
        executor, parameters, data = self._inference_operands(X)
        with self._lock:  # an executor has one workspace
            outputs = outputs_of(executor, parameters, data, pixel_scale=scale, link=link)
        if not np.isfinite(outputs).all():
            raise self._no_finite_outputs(executor, X)
        if len(outputs) == 1 and isinstance(X, np.ndarray):
            self._prepare_row(X, link)
        return outputs

    def _prepare_row(self, X: np.ndarray, link: bool) -> None:
        """Have the next row like X answered by `_outputs_of_row`."""
        prepared = self._prepared_rows.get((X.dtype, link))
        if prepared is None or not prepared.speaks_for(self):
            prepared = PreparedRow(self)
            if prepared.prepare(self, X, link=link):
                self._prepared_rows[X.dtype, link] = prepared

    def _fitted_arrays(self) -> list[np.ndarray]:
        """The arrays that `_parameters` are made of."""
        raise NotImplementedError

    def _row_shapes(self) -> set[tuple[int, ...]]:
        """Of X with one row."""
        return {(1, self.n_features_in_)}

    def _predicted_labels(self, X: Matrix | DeviceRows, scale: float) -> np.ndarray | None:
        """Index in `classes_` of each prediction, where only they leave the device; None where there is no device."""
        executor, parameters, data = self._inference_operands(X)
        if not hasattr(executor, "predicted_labels") or isinstance(data, StoredRows):
            return None
        with self._lock:
            labels = executor.predicted_labels(parameters, data, pixel_scale=scale)
        if len(labels) and labels.min() < 0:
            raise self._no_finite_outputs(executor, X)
        return 1 - labels if self._n_outputs == 1 else labels

    def _inference_operands(self, X: Matrix | DeviceRows) -> tuple[Executor, list[np.ndarray], Any]:
        """The executor, the parameters, and X as it takes it."""
        executor = self._current_executor()
        parameters = self._parameters()
        shapes = tuple(p.shape for p in parameters)
        if shapes != executor.spec.parameter_shapes:  # compiled code relies on them
            raise ValueError(
                f"The fitted layers have the shapes {shapes[::2]}, but the parameters of this estimator now ask for "
                f"{executor.spec.parameter_shapes[::2]}. Call fit again, or set the parameters back with set_params."
            )
        if isinstance(X, DeviceRows):
            if executor.backend != "cupy":
                require_gpu(executor.backend, X)
            return executor, parameters, X
        return executor, parameters, as_executor_input(X, executor.dtype, PREDICT_COPY_BYTES)

    @staticmethod
    def _no_finite_outputs(executor: Executor, X: Matrix | DeviceRows) -> ValueError:
        return ValueError(
            f"The outputs of the network are no finite numbers: input X has values up to {largest_magnitude(X):g}, for which "
            f"{executor.dtype} is too small. Scale X as the training data were (sklearn.preprocessing.StandardScaler)."
        )

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean accuracy; on a GPU only the sums of weights and hits reach the host.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        X, y = on_host(X), on_host(y)
        check_is_fitted(self)
        if not (self._judges_on_device() and (on_device(y) or np.ndim(y) == 1)) or scipy.sparse.issparse(X):
            return super().score(X, to_host(y), sample_weight)
        rows, scale = self._validate_new_data(X)
        executor, parameters, data = self._inference_operands(rows)
        labels = take_labels(y) if on_device(y) else np.asarray(y)
        check_consistent_length(rows, labels)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(to_host(sample_weight, "sample_weight"), rows, dtype=np.float32)
        with self._lock:
            judgement = executor.judge(  # type: ignore[attr-defined]
                parameters, data, self._labels_to_judge(labels), weight, pixel_scale=scale, link=False
            )
        if not judgement.finite:
            raise self._no_finite_outputs(executor, rows)
        return judgement.hits / judgement.weight

    def _judges_on_device(self) -> bool:
        return hasattr(self._current_executor(), "judge")

    def _labels_to_judge(self, y: np.ndarray | DeviceClasses) -> np.ndarray | DeviceLabels:
        """Labels, -1 for classes that the model does not know: they are misses."""
        if isinstance(y, DeviceClasses) and self.classes_.dtype.kind in "iu":
            return y.encoded(self._output_of_class())
        y = np.asarray(y)
        indices = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        return np.where(self.classes_[indices] == y, self._labels(indices), -1).astype(np.int32)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicted class labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Of the type of `classes_`.
        """
        scores = self._outputs_of_row(X, link=self._judges_probabilities)
        if scores is None:
            rows, scale = self._validate_new_data(X)
            predicted = self._predicted_labels(rows, scale)
            if predicted is not None:
                return self.classes_[predicted]
            scores = self._scores(rows, scale)
        if scores.shape[1] > 1:
            return self.classes_[scores.argmax(axis=1)]
        return self.classes_[(scores[:, 0] > (0.5 if self._judges_probabilities else 0)).astype(int)]

    def _scores(self, X: Matrix | DeviceRows, scale: float) -> np.ndarray:
        """What `predict` compares, for validated X."""
        return self._outputs(X, scale)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probability estimates: the softmax of the logits; of two classes the sigmoid of the only one.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns as in `classes_`.
        """
        outputs = self._outputs_of_row(X)
        if outputs is None:
            outputs = self._outputs(*self._validate_new_data(X))
        return np.hstack([1 - outputs, outputs]) if self._n_outputs == 1 else outputs

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of probability estimates.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            `log(predict_proba(X))`; columns as in `classes_`.
        """
        return np.log(self.predict_proba(X))

    # --- what fit says ----------------------------------------------------------------------------------------------------------

    def _listen(self, record: EpochRecord) -> None:
        """Print and pass on an epoch."""
        if self.verbose:
            print(f"Iteration {record.epoch}, loss = {record.loss:.8f}")
            if record.val_accuracy is not None:
                print(f"Validation score: {record.val_accuracy:f}")
        listener = getattr(self, "_on_epoch", None)
        if listener is not None:
            listener(record)

    def _say(self, message: str) -> None:
        if self.verbose:
            print(message)

    def _set_interrupted(self, interrupted: bool) -> None:
        """Set `interrupted_`; warns as scikit-learn does."""
        self.interrupted_ = interrupted
        if interrupted:
            warn_user("Training interrupted by user.", UserWarning)

    def _require_finite(self, parameters: list[np.ndarray], diverged: bool, advice: str) -> None:
        """Refuse a model that has blown up."""
        if diverged or not all(np.isfinite(p).all() for p in parameters):
            raise DivergedError(
                "Solver produced non-finite parameter weights: the loss overflowed. The input data may contain large values and need to "
                f"be preprocessed (sklearn.preprocessing.StandardScaler){advice}."
            )


def _same_network(one: Spec, other: Spec) -> bool:
    """Whether both predict alike: how they are trained does not matter."""
    return (one.n_features, one.layers, one.loss) == (other.n_features, other.layers, other.loss)
