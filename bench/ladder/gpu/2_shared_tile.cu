// Rung 2, shared tile. Idea: a block of 32 x 32 threads fetches a 32 x 32 tile of a and of b once and multiplies from
// shared memory: each number is read from memory 32 times less often.
// Predicted: now two reads of shared memory bind each multiplication: some 12 % of the peak.
constexpr int TILE = 32;
extern "C" __global__ void sgemm(float* c, const float* a, const float* b, int M, int N, int K) {
  __shared__ float left[TILE][TILE], right[TILE][TILE];
  const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
  float sum = 0.0f;
  for (int k0 = 0; k0 < K; k0 += TILE) {
    const int k_left = k0 + threadIdx.x, k_right = k0 + threadIdx.y;
    left[threadIdx.y][threadIdx.x] = row < M && k_left < K ? a[(size_t)row * K + k_left] : 0.0f;
    right[threadIdx.y][threadIdx.x] = k_right < K && column < N ? b[(size_t)k_right * N + column] : 0.0f;
    __syncthreads();
    for (int k = 0; k < TILE; ++k) sum += left[threadIdx.y][k] * right[k][threadIdx.x];
    __syncthreads();
  }
  if (row < M && column < N) c[(size_t)row * N + column] = sum;
}
