"""Train on your own table: a CSV file with one row a sample and a column that holds the label, whatever its type.

Here the file is made from scikit-learn's small digits first, with words as labels. The command line reads such files too:
`fastmnist train softmax --data digits.csv`.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmnist import LogisticRegression

WORDS = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.csv"
    digits = load_digits()
    header = ",".join([*(f"pixel{i}" for i in range(64)), "label"])
    rows = np.column_stack([digits.data.astype(int).astype(str), WORDS[digits.target]])
    np.savetxt(path, rows, fmt="%s", delimiter=",", header=header, comments="")

    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    y = table["label"]
    X = np.column_stack([table[name] for name in table.dtype.names if name != "label"]).astype(np.float32)

X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y)
classifier = LogisticRegression(C=1.0).fit(X_train, y_train)
print(f"{len(X_train)} rows to learn from, classes: {', '.join(classifier.classes_)}")
print(f"test accuracy {classifier.score(X_test, y_test):.2%}")
