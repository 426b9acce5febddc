// Rung 3, register tile. Idea: a thread computes 8 x 8 elements: 16 reads of shared memory serve 64 multiplications, an
// eighth of rung 2's for each. A block of 256 threads makes 128 x 128 elements.
// Predicted: scalar reads with bank conflicts still cost: some 50 % of the peak.
constexpr int TILE = 128, DEPTH = 8, EACH = 8, THREADS = 256;
extern "C" __global__ void __launch_bounds__(THREADS)
    sgemm(float* c, const float* a, const float* b, int M, int N, int K) {
  __shared__ float left[DEPTH][TILE], right[DEPTH][TILE];
  const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
  const int my_row = threadIdx.x / 16 * EACH, my_column = threadIdx.x % 16 * EACH;
  float sum[EACH][EACH] = {};
  for (int k0 = 0; k0 < K; k0 += DEPTH) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
      const int row = row0 + i / DEPTH, k_left = k0 + i % DEPTH, k_right = k0 + i / TILE, column = column0 + i % TILE;
      left[i % DEPTH][i / DEPTH] = row < M && k_left < K ? a[(size_t)row * K + k_left] : 0.0f;
      right[i / TILE][i % TILE] = k_right < K && column < N ? b[(size_t)k_right * N + column] : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < DEPTH; ++k)
#pragma unroll
      for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) sum[i][j] += left[k][my_row + i] * right[k][my_column + j];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i)
#pragma unroll
    for (int j = 0; j < EACH; ++j)
      if (row0 + my_row + i < M && column0 + my_column + j < N)
        c[(size_t)(row0 + my_row + i) * N + column0 + my_column + j] = sum[i][j];
}
