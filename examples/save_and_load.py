"""Save a model, load it, and predict with another backend. The file holds arrays and JSON: loading it runs no code."""

import tempfile
from pathlib import Path

import numpy as np

from fastmnist import OneVsRestLogisticRegression, load_mnist, load_model

X, y = load_mnist("test", return_X_y=True)
classifier = OneVsRestLogisticRegression(max_iter=500).fit(X[:8000], y[:8000])

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.safetensors"
    classifier.save(path)
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    loaded = load_model(path).set_params(backend="numpy")

same = np.array_equal(loaded.predict(X[8000:]), classifier.predict(X[8000:]))
print(f"same predictions: {same}")
print(f"accuracy on rows it has not seen: {loaded.score(X[8000:], y[8000:]):.2%}")
