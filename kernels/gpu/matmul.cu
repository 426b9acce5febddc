// Products of matrices: c[M,N] = a[M,K] b[K,N] in float32, with what follows it done before the result leaves the chip:
//
//   c = relu(a b + c_old + bias), zero where kept <= 0;   each part only where asked for
//
// Layouts. Either operand may be stored along K (neighbours in memory follow K) or across it:
//   nn: x[B,I] w[I,O]    a along K, b across     the forward pass
//   nt: dy[B,O] w[I,O]^T a along K, b along      the gradient of the input
//   tn: x[B,I]^T dy[B,O] a across, b across      the gradient of the weights
//
// How a tile is computed stands in tile.cuh.

extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nn_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Large, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nt_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Large, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_tn_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Large, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    gemm_nn_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Medium, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 4)
    gemm_nt_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Medium, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 4)
    gemm_tn_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Medium, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_nn_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Small, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_nt_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Small, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_tn_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<Small, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

// c[M,N] = the sum of n matrices that stand one behind the other, in their order, with what follows a product.
extern "C" __global__ void add_shares_kernel(float* c, const float* shares, const float* bias, const float* kept, int n,
                                             int M, int N, int ld_c, int ld_kept, int flags) {
  const bool whole = aligned(c, ld_c) && (!kept || aligned(kept, ld_kept));
  const Result result{c, bias, kept, M, N, 1, ld_c, ld_kept, flags, whole};
  const bool whole_share = aligned(shares, N);
  for_each_quad(M, N, [&](int r, int col, int left) {
    const float* p = shares + (i64)r * N + col;
    Quad total = load(p, left, whole_share && left == QUAD);
    for (int share = 1; share < n; ++share) {
      p += (i64)M * N;
      const Quad q = load(p, left, whole_share && left == QUAD);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) total.at[k] += q.at[k];
    }
    result.finish(total, r, col);
  });
}
