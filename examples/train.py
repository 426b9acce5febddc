"""Train a small network on part of MNIST and see how good it is."""

import warnings

from sklearn.exceptions import ConvergenceWarning

from fastmnist import MLPClassifier, load_mnist

warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs, on purpose
X, y = load_mnist("train", return_X_y=True)  # uint8 (60000, 784), int64 (60000,)
X_test, y_test = load_mnist("test", return_X_y=True)

classifier = MLPClassifier(hidden_layer_sizes=(64,), batch_size=32, max_iter=3, tol=0, random_state=0)
classifier.fit(X[:20_000], y[:20_000], validation_data=(X_test, y_test))

history = classifier.history_
for epoch in range(classifier.n_iter_):
    print(f"epoch {epoch + 1}: loss {history['loss'][epoch]:.4f}, test accuracy {history['val_accuracy'][epoch]:.2%}")
print(f"backend {classifier.backend_}, because: {classifier.backend_reason_}")
