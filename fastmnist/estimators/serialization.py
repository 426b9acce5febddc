"""Saved models: the arrays as safetensors, everything else as JSON in its metadata. Loading a file runs no code from it.

The metadata has `format` ("fastmnist-model"), `format_version`, `fastmnist_version`, and `model`: a JSON object with
the name of the class, its parameters and its fitted attributes. JSON's own types stand for themselves; everything
else is an object with one key that names its type:

==============  ==========================================================================
`tensor`        name of an array in the file
`strings`       an array of strings, with dtype and shape
`objects`       an array of objects, with shape
`scalar`        a NumPy scalar, with dtype
`number`        "nan", "inf" or "-inf", which JSON lacks
`tuple`         its items
`dict`          its pairs of key and value
`random_state`  the state of a `numpy.random.RandomState`
`schedule`      a class of `fastmnist.network.schedules`, with its fields
`layer`         a class of `fastmnist.network.layers`, with its fields
`augment`       the fields of a `fastmnist.Augment`
==============  ==========================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.numpy

from fastmnist.estimators.base import Classifier
from fastmnist.estimators.cnn import CNNClassifier
from fastmnist.estimators.forest import RandomForestClassifier
from fastmnist.estimators.logistic import LogisticRegression, OneVsRestLogisticRegression
from fastmnist.estimators.mlp import MLPClassifier
from fastmnist.files import explained, write_atomically
from fastmnist.network import layers, schedules
from fastmnist.network.augmentation import Augment
from fastmnist.version import __version__
from fastmnist.warning import warn_user

FORMAT = "fastmnist-model"
FORMAT_VERSION = 1
# Endings that promise another format, whose reader would fail on what is written.
_OTHER_FORMATS = {
    ".pkl",
    ".pickle",
    ".joblib",
    ".json",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
    ".pt",
    ".pth",
    ".onnx",
}

_CLASSES: dict[str, type[Classifier]] = {
    cls.__name__: cls
    for cls in (
        LogisticRegression,
        OneVsRestLogisticRegression,
        MLPClassifier,
        CNNClassifier,
        RandomForestClassifier,
    )
}
_SCHEDULES: dict[str, type[schedules.Schedule]] = {
    cls.__name__: cls
    for cls in vars(schedules).values()
    if isinstance(cls, type) and issubclass(cls, schedules.Schedule)
}
_LAYERS: dict[str, type[layers.Layer]] = {cls.__name__: cls for cls in get_args(layers.Layer)}
_TENSOR_DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)


class ModelFileError(ValueError):
    """A file that is no model, or one that this version cannot read."""


def save_model(estimator: Classifier, path: str | PathLike[str]) -> None:
    """Write a fitted estimator to a file.

    The file appears under its name only when it is complete and on the disk: whatever happens before, an older file
    of that name stays as it was.

    Parameters
    ----------
    estimator : LogisticRegression, OneVsRestLogisticRegression, MLPClassifier, CNNClassifier or RandomForestClassifier
    path : path
        Whatever it ends in, the file is safetensors; an ending that promises another format costs a warning.

    Raises
    ------
    TypeError
        Another class, or a value of a type that can't be saved.
    OSError
        The file can't be written.
    """
    if _CLASSES.get(type(estimator).__name__) is not type(estimator):
        known = ", ".join(_CLASSES)
        raise TypeError(f"save_model takes a fitted {known}; got {type(estimator).__name__}. Pickle other classes.")
    tensors: dict[str, np.ndarray] = {}
    parameters = estimator.get_params(deep=False)
    fitted = {name: value for name, value in vars(estimator).items() if _is_fitted_name(name)}
    model = {
        "class": type(estimator).__name__,
        "parameters": {name: _encode(value, name, tensors) for name, value in parameters.items()},
        "fitted": {name: _encode(value, name, tensors) for name, value in fitted.items()},
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "fastmnist_version": __version__,
        "model": json.dumps(model, allow_nan=False),
    }
    write_atomically(path, safetensors.numpy.save(tensors, metadata))
    suffix = Path(path).suffix
    if suffix.lower() in _OTHER_FORMATS:
        warn_user(
            f"{path} is a safetensors file, which fastmnist.load_model reads, whatever its name says; programs that expect {suffix} can't. "
            "Call it .safetensors.",
            UserWarning,
        )


def load_model(path: str | PathLike[str]) -> Classifier:
    """Read an estimator from a file.

    It predicts what it predicted when it was saved, to the last bit, on the same backend; where that backend is
    missing, on another one.

    Parameters
    ----------
    path : path

    Returns
    -------
    LogisticRegression, OneVsRestLogisticRegression, MLPClassifier, CNNClassifier or RandomForestClassifier

    Raises
    ------
    FileNotFoundError, OSError
        The file can't be read.
    ModelFileError
        It is no model, damaged, or made by a version that this one does not know.
    """
    path = Path(path)
    with explained(path, "read"), path.open("rb"):
        pass
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{path}: damaged, truncated or not a model file ({error}). Save the model again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path}: a safetensors file, but not a model saved by fastmnist. Is it the right file?")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ModelFileError(
            f"{path}: saved in format version {metadata.get('format_version')} by fastmnist {metadata.get('fastmnist_version')}; "
            f"this is fastmnist {__version__}, which reads version {FORMAT_VERSION}. Run: pip install --upgrade fastmnist"
        )
    try:
        return _restore(json.loads(metadata["model"]), tensors)
    except _Unknown as error:
        saved_by = metadata.get("fastmnist_version")
        raise ModelFileError(
            f"{path}: {error}, saved by fastmnist {saved_by}; this is {__version__}. Run: pip install --upgrade fastmnist"
        ) from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: its description is damaged ({type(error).__name__}: {error}). Save the model again."
        ) from error


class _Unknown(Exception):
    """Something that only another version can have written."""


def _is_fitted_name(name: str) -> bool:
    """scikit-learn's convention; what begins with an underscore lives only as long as the process."""
    return name.endswith("_") and not name.startswith("_")


def _restore(model: dict[str, Any], tensors: dict[str, np.ndarray]) -> Classifier:
    cls = _CLASSES.get(model["class"])
    if cls is None:
        raise _Unknown(f"unknown class {model['class']!r} (known: {', '.join(_CLASSES)})")
    parameters = {name: _decode(value, tensors) for name, value in model["parameters"].items()}
    unknown = set(parameters) - set(cls._get_param_names())
    if unknown:
        raise _Unknown(f"{cls.__name__} has no parameter {', '.join(sorted(unknown))}")
    estimator = cls(**parameters)
    for name, value in model["fitted"].items():
        if not _is_fitted_name(name):
            raise ValueError(f"{name!r} is no name of a fitted attribute")
        setattr(estimator, name, _decode(value, tensors))
    estimator._require_sound()
    return estimator


# --- values -----------------------------------------------------------------------------------------------------------


def _encode(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """JSON for a value; arrays go to `tensors`, under names derived from `name`."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"number": str(value)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, name, tensors)
    if isinstance(value, np.generic) and (value.dtype.name in _TENSOR_DTYPES or value.dtype.kind == "U"):
        return {"scalar": _encode(value.item(), name, tensors), "dtype": value.dtype.str}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        pairs = enumerate(value.items())
        return {
            "dict": [[_encode(k, f"{name}.key{i}", tensors), _encode(v, f"{name}.{i}", tensors)] for i, (k, v) in pairs]
        }
    if isinstance(value, np.random.RandomState):
        return {"random_state": _encode(value.get_state(legacy=True), name, tensors)}
    if isinstance(value, schedules.Schedule) and _SCHEDULES.get(type(value).__name__) is type(value):
        return {
            "schedule": type(value).__name__,
            "fields": {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in fields(value)},
        }
    if _LAYERS.get(type(value).__name__) is type(value):
        return {
            "layer": type(value).__name__,
            "fields": {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in fields(value)},
        }
    if type(value) is Augment:
        return {
            "augment": {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in fields(value)}
        }
    raise TypeError(
        f"{name} is a {type(value).__name__}, which can't be saved; numbers, strings, arrays, and lists, tuples and dicts of them can. "
        "Change it with set_params before saving."
    )


def _encode_array(array: np.ndarray, name: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype == object:
        return {
            "objects": [_encode(item, f"{name}.{i}", tensors) for i, item in enumerate(array.ravel())],
            "shape": shape,
        }
    if array.dtype.kind == "U":
        return {"strings": array.ravel().tolist(), "dtype": array.dtype.newbyteorder("=").str, "shape": shape}
    by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype.name in _TENSOR_DTYPES:
        tensors[name] = array
        return {"tensor": name} | ({"order": "F"} if by_columns else {})
    raise TypeError(
        f"{name} is an array of {array.dtype}, which can't be saved. Fit with labels and data of another type."
    )


def _decode(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), None)
    if kind is None:
        raise ValueError("a value without a type")
    if kind not in _DECODERS:
        raise _Unknown(f"unknown type of value {kind!r}")
    return _DECODERS[kind](value, tensors)


def _decode_random_state(value: dict[str, Any], tensors: dict[str, np.ndarray]) -> np.random.RandomState:
    random_state = np.random.RandomState()
    random_state.set_state(_decode(value["random_state"], tensors))
    return random_state


def _decode_schedule(value: dict[str, Any], tensors: dict[str, np.ndarray]) -> schedules.Schedule:
    if value["schedule"] not in _SCHEDULES:
        raise _Unknown(f"unknown schedule {value['schedule']!r}")
    return _SCHEDULES[value["schedule"]](**{name: _decode(item, tensors) for name, item in value["fields"].items()})


def _decode_layer(value: dict[str, Any], tensors: dict[str, np.ndarray]) -> layers.Layer:
    if value["layer"] not in _LAYERS:
        raise _Unknown(f"unknown layer {value['layer']!r}")
    return _LAYERS[value["layer"]](**{name: _decode(item, tensors) for name, item in value["fields"].items()})


def _decode_augment(value: dict[str, Any], tensors: dict[str, np.ndarray]) -> Augment:
    return Augment(**{name: _decode(item, tensors) for name, item in value["augment"].items()})


def _decode_objects(value: dict[str, Any], tensors: dict[str, np.ndarray]) -> np.ndarray:
    array = np.empty(len(value["objects"]), object)
    array[:] = [_decode(item, tensors) for item in value["objects"]]
    return array.reshape(value["shape"])


def _plain_dtype(text: str, kinds: str) -> np.dtype:
    dtype = np.dtype(text)
    if dtype.kind not in kinds:
        raise ValueError(f"dtype {text!r} has no place here")
    return dtype


_DECODERS: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], Any]] = {
    "tensor": lambda value, tensors: np.asarray(tensors[value["tensor"]], order=value.get("order", "C")),
    "strings": lambda value, tensors: np.array(value["strings"], _plain_dtype(value["dtype"], "U")).reshape(
        value["shape"]
    ),
    "objects": _decode_objects,
    "scalar": lambda value, tensors: _plain_dtype(value["dtype"], "biufU").type(_decode(value["scalar"], tensors)),
    "number": lambda value, tensors: float(value["number"]),
    "tuple": lambda value, tensors: tuple(_decode(value["tuple"], tensors)),
    "dict": lambda value, tensors: {_decode(k, tensors): _decode(v, tensors) for k, v in value["dict"]},
    "random_state": _decode_random_state,
    "schedule": _decode_schedule,
    "layer": _decode_layer,
    "augment": _decode_augment,
}
