// The gradient of weights, x[K,M]^T dy[K,N], as a product whose result is no matrix: what a tile has summed goes into the
// optimizer's step of its weights at once. The gradient never reaches memory.

struct Update {
  Weights weights;
  int kind, M, N;
  Constants constants;
  Hyper hyper;
  bool whole;  // rows of the weights and of what is kept of them start on 16 bytes

  __device__ __forceinline__ Update share(int) const { return *this; }  // a sum that is cut has no step
  __device__ __forceinline__ void finish(const Quad& gradient, int r, int c) const {
    if (r >= M || c >= N) return;
    const int n = N - c < QUAD ? N - c : QUAD;
    take_step(kind, weights, hyper, constants, gradient, r, c, n, whole && n == QUAD);
  }
};

template <class S>
__device__ __forceinline__ void update(const float* x, const float* dy, const Weights& weights, int kind,
                                       const Constants& constants, const float* hyper, const i64* cursor, int M, int N,
                                       int K, int ld_x, int ld_dy, int ld_hyper) {
  Across right{dy, ld_dy, N, K, aligned(dy, ld_dy)};
  const Update result{weights, kind, M, N, constants, hyper_of(hyper, cursor, ld_hyper), aligned(weights)};
  S::product(Across{x, ld_x, M, K, aligned(x, ld_x)}, right, result, K, K);
}
