"""One op, two implementations on one thread each: first compare the results, then the times."""

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from fastmnist import call_kernel
from fastmnist.kernels.contract import CONTRACT

rng = np.random.default_rng(0)
x, w, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((256, 784), (784, 128), (128,)))
flops = CONTRACT["linear_relu"].flops({"B": 256, "I": 784, "O": 128})

exact = call_kernel("linear_relu", *(a.astype(np.float64) for a in (x, w, b)), backend="numpy")
for backend in ("numpy", "numba"):
    error = np.abs(call_kernel("linear_relu", x, w, b, backend=backend) - exact).max()  # compiles, too
    assert error < 1e-3, f"{backend} is wrong by {error}: its time would mean nothing"
    seconds = []
    for _ in range(30):
        with threadpool_limits(1):  # NumPy's BLAS has threads of its own
            start = time.perf_counter()
            call_kernel("linear_relu", x, w, b, backend=backend)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"{backend:6} {median * 1e6:8.0f} us, {flops / median / 1e9:6.1f} GFLOP/s, largest error {error:.1e}")
print("Each call is checked and allocates its output; inside a fit neither happens.")
