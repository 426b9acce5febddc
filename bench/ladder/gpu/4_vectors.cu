// Rung 4, vectors and warp tiles. Idea: shared memory is read in 16-byte words, a thread's rows and columns lie in
// quads so that the lanes of a warp read neighbouring words: no bank conflicts, a quarter of the instructions.
// Predicted: some 75 % of the peak; what is left is waiting for memory between two slices. The shipped kernel
// (kernels/gpu/matmul.cu) fetches the next slice into registers while one is multiplied, and needs one barrier a slice.
// Rows of a and b must be multiples of 4 long: the shipped kernel takes any.
constexpr int TILE = 128, DEPTH = 8, THREADS = 256;
extern "C" __global__ void __launch_bounds__(THREADS)
    sgemm(float* c, const float* a, const float* b, int M, int N, int K) {
  __shared__ __align__(16) float left[DEPTH][TILE + 4], right[DEPTH][TILE];
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
  const int my_row = warp / 2 * 32 + lane / 8 * 4, my_column = warp % 2 * 64 + lane % 8 * 4;  // and 16, 32 further on
  float sum[8][8] = {};
  for (int k0 = 0; k0 < K; k0 += DEPTH) {
    const int row = row0 + t / 2, k_left = k0 + t % 2 * 4, k_right = k0 + t / 32, column = column0 + t % 32 * 4;
    const float4 zero = make_float4(0, 0, 0, 0);
    const float4 va = row < M && k_left < K ? *reinterpret_cast<const float4*>(a + (size_t)row * K + k_left) : zero;
    const float4 vb =
        k_right < K && column < N ? *reinterpret_cast<const float4*>(b + (size_t)k_right * N + column) : zero;
    left[t % 2 * 4 + 0][t / 2] = va.x;
    left[t % 2 * 4 + 1][t / 2] = va.y;
    left[t % 2 * 4 + 2][t / 2] = va.z;
    left[t % 2 * 4 + 3][t / 2] = va.w;
    *reinterpret_cast<float4*>(&right[t / 32][t % 32 * 4]) = vb;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      const float4 a0 = *reinterpret_cast<const float4*>(&left[k][my_row]),
                   a1 = *reinterpret_cast<const float4*>(&left[k][my_row + 16]);
      const float4 b0 = *reinterpret_cast<const float4*>(&right[k][my_column]),
                   b1 = *reinterpret_cast<const float4*>(&right[k][my_column + 32]);
      const float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w},
                  y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int row = row0 + my_row + i / 4 * 16 + i % 4, column = column0 + my_column + j / 4 * 32 + j % 4;
      if (row < M && column < N) c[(size_t)row * N + column] = sum[i][j];
    }
}
