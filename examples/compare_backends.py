"""The same fit on every backend of this machine: do they agree, and which one is faster?"""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmnist import MLPClassifier, available_backends, load_mnist

warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs, on purpose
X, y = load_mnist("train", return_X_y=True)
X, y = X[:10_000], y[:10_000]

probabilities = []
for backend, (usable, remark) in available_backends().items():
    if not usable:
        print(f"{backend:6} not here: {remark}")
        continue
    classifier = MLPClassifier((64,), batch_size=32, max_iter=2, tol=0, random_state=0, backend=backend)
    classifier.fit(X[:100], y[:100])  # compiles what is not in the cache: the clock is for training
    start = time.perf_counter()
    classifier.fit(X, y)
    seconds = time.perf_counter() - start
    probabilities.append(classifier.predict_proba(X[:1000]))
    print(f"{backend:6} {seconds:6.2f} s, loss {classifier.loss_:.6f} ({remark})")

difference = max(np.abs(p - probabilities[0]).max() for p in probabilities)
print(f"largest difference between predicted probabilities: {difference:.1e}")
