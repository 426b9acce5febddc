// Sums and maxima over the threads of a block, in a fixed order: the threads by halves.

constexpr int THREADS = 256;

// The sum, or with MAX the largest, over the threads of a block; every thread gets it. NaN stays.
template <bool MAX>
__device__ __forceinline__ double over_block(double v) {
  __shared__ double parts[THREADS];
  __syncthreads();  // of the sum before
  parts[threadIdx.x] = v;
  for (int half = THREADS / 2; half; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) {
      const double a = parts[threadIdx.x], b = parts[threadIdx.x + half];
      parts[threadIdx.x] = !MAX ? a + b : b > a || b != b ? b : a;
    }
  }
  __syncthreads();
  return parts[0];
}
