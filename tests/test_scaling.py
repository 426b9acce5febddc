"""The cost of training is linear in the rows: counted, not timed (`bench/bench_scaling.py` times it)."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fastmnist import MLPClassifier, load_mnist
from fastmnist.backends.compressed import row_pointers
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.kernels.cpu.isa import MACHINE
from fastmnist.network.layers import Dense
from fastmnist.network.spec import Spec


@pytest.fixture(scope="module")
def mnist():
    return load_mnist("train", return_X_y=True)


def test_a_step_is_the_same_for_any_number_of_rows(mnist):
    X, y = mnist
    seen = set()
    for n in (1_000, 10_000, 60_000):
        executor = CpuExecutor(Spec(784, (Dense(32, "relu"), Dense(10))), n_threads=2)
        executor.bind(X[:n], y[:n].astype(np.int32), pixel_scale=1 / 255)
        program = executor.program((32,))
        instructions = tuple(len(thread) for thread in program.tables[32].threads)
        seen.add((instructions, program.state.size, program.workspace.size))
    assert len(seen) == 1


def _peak(X, y):
    """Largest memory that a fit of one epoch takes beyond its data."""
    model = MLPClassifier((32,), max_iter=1, random_state=0, backend="numba")
    tracemalloc.start()
    try:
        model.fit(X, y)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_memory_beyond_the_data_is_linear_and_less_than_the_data(mnist):
    X, y = mnist
    _peak(X[:1000], y[:1000])  # everything is imported and compiled
    sizes = (10_000, 20_000, 40_000)
    peaks = [_peak(X[:n], y[:n]) for n in sizes]
    # Bytes are read where they lie, or compressed where the machine can't do that in time.
    compressed = [0 if MACHINE.packs_lanes else 3 * int(row_pointers(X[:n])[-1]) + 8 * (n + 1) for n in sizes]
    # Beside the compressed rows: labels, weights, order, recorded losses, some 100 bytes a row; and what does not depend on the rows.
    for n, peak, rows in zip(sizes, peaks, compressed, strict=True):
        assert rows < peak < rows + 100 * n + (4 << 20) < X[:n].nbytes + (4 << 20)
    slopes = [(b - a) / (m - n) for a, b, n, m in zip(peaks, peaks[1:], sizes, sizes[1:], strict=False)]
    assert slopes[1] == pytest.approx(slopes[0], rel=0.05)
