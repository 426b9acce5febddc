// Rung 1, naive. Idea: one thread for each element of c. Neighbouring threads take neighbouring columns, so rows of b
// are read in whole lines; but every multiplication reads two numbers from memory, and nothing is kept. Predicted:
// bound by the level-1 cache, some 5 % of the peak.
extern "C" __global__ void sgemm(float* c, const float* a, const float* b, int M, int N, int K) {
  const int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= M || column >= N) return;
  float sum = 0.0f;
  for (int k = 0; k < K; ++k) sum += a[(size_t)row * K + k] * b[(size_t)k * N + column];
  c[(size_t)row * N + column] = sum;
}
