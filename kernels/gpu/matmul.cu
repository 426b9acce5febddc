// Products of matrices: c[M,N] = a[M,K] b[K,N] in float32, with what follows it done before the result leaves the chip:
//
//   c = relu(a b + c_old + bias), zero where kept <= 0;   each part only where asked for
//
// Layouts. Either operand may be stored along K (neighbours in memory follow K) or across it:
//   nn: x[B,I] w[I,O]    a along K, b across     the forward pass
//   nt: dy[B,O] w[I,O]^T a along K, b along      the gradient of the input
//   tn: x[B,I]^T dy[B,O] a across, b across      the gradient of the weights
//
// A block computes a tile of c. Slices of a and b, DEPTH long in K, go from memory to registers, then to shared memory,
// both across K there: so all threads read what they multiply as 16-byte words. Two such stages: while one is
// multiplied, the next one is fetched. A warp computes 4 TM x 8 TN elements, a thread TM x TN: rows in quads 16 apart
// and columns in quads 32 apart, so a warp's reads of shared memory are broadcasts or contiguous: no bank conflicts.
//
// Sums have a fixed order: over K ascending; with WARPS_K > 1 each of these warps sums its share of every slice, and
// the shares are added in the order of the warps. No atomics: the same bits on every run.
//
// Which shape for which product is decided by matmul.py, which also reads the shapes' numbers below.

template <int WARPS_M, int WARPS_N, int WARPS_K, int THREAD_ROWS, int THREAD_COLUMNS, int SLICE>
struct Shape {
  static constexpr int WM = WARPS_M, WN = WARPS_N, WK = WARPS_K, TM = THREAD_ROWS, TN = THREAD_COLUMNS, DEPTH = SLICE;
  static constexpr int ROWS = 4 * TM * WM, COLUMNS = 8 * TN * WN, THREADS = 32 * WM * WN * WK;
  static constexpr int LD_A = ROWS + 4,
                       LD_B = COLUMNS + 4;             // padded: transposing stores then meet fewer bank conflicts
  static constexpr int STAGE = DEPTH * (LD_A + LD_B);  // floats
  static_assert(TM % QUAD == 0 && TN % QUAD == 0 && DEPTH % (QUAD * WK) == 0, "threads work in quads");
  static_assert(WK == 1 || WK * ROWS * COLUMNS <= 2 * STAGE, "the shares of a sum meet in the stages' memory");
  static_assert(2 * STAGE * sizeof(float) <= 48 << 10, "what every device grants without asking");
};
using Large = Shape<4, 2, 1, 8, 8, 8>;    // 128 x 128: 64 multiplications for each 16 floats read; needs many tiles
using Medium = Shape<4, 2, 1, 4, 4, 16>;  // 64 x 64
using Small = Shape<1, 1, 8, 4, 4, 64>;   // 16 x 32, eight warps share K: few rows, long sums (a batch, 784 pixels)

enum { ADD = 1, RELU = 2 };  // flags

// Moves an operand's slices: EXTENT rows (or columns) of c by DEPTH, a quad at a time.
template <bool ALONG_K, int EXTENT, int DEPTH, int LD, int THREADS>
struct Mover {
  static constexpr int EACH = EXTENT * DEPTH / QUAD / THREADS;
  static_assert(EACH * QUAD * THREADS == EXTENT * DEPTH, "every thread moves as many quads");
  Quad held[EACH];

  // Where the i-th quad of this thread lies within the slice. Along K four neighbouring threads read 64 bytes of one
  // row; across K a warp reads whole rows.
  static __device__ __forceinline__ void place(int i, int& e, int& k) {
    constexpr int GROUP = DEPTH / QUAD < 4 ? DEPTH / QUAD : 4;
    const int q = threadIdx.x + i * THREADS;
    if (ALONG_K) {
      e = q / GROUP % EXTENT;
      k = (q % GROUP + q / (GROUP * EXTENT) * GROUP) * QUAD;
    } else {
      e = q % (EXTENT / QUAD) * QUAD;
      k = q / (EXTENT / QUAD);
    }
  }
  __device__ __forceinline__ void fetch(const float* p, int ld, int first, int extent, int k0, int depth, bool whole) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      place(i, e, k);
      e += first;
      k += k0;
      const int left = ALONG_K ? (e < extent ? depth - k : 0) : (k < depth ? extent - e : 0);
      const float* from = p + (ALONG_K ? (i64)e * ld + k : (i64)k * ld + e);
      held[i] = load(from, left, whole && left >= QUAD);
    }
  }
  __device__ __forceinline__ void put(float* shared) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      place(i, e, k);
      if (ALONG_K) {
#pragma unroll
        for (int j = 0; j < QUAD; ++j) shared[(k + j) * LD + e] = held[i].at[j];
      } else {
        store(shared + k * LD + e, held[i], QUAD, true);
      }
    }
  }
};

// The result, and what is done to a quad of it before it is stored.
struct Result {
  float* c;
  const float *bias, *kept;
  int M, N, ld_c, ld_kept, flags;
  bool whole;  // rows of c and of kept start on 16 bytes

  __device__ __forceinline__ void finish(Quad q, int r, int col) const {
    if (r >= M || col >= N) return;
    const int n = N - col < QUAD ? N - col : QUAD;
    float* to = c + (i64)r * ld_c + col;
    if (flags & ADD) {
      const Quad old = load(to, n, whole && n == QUAD);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) q.at[k] += old.at[k];
    }
    if (bias) {
      const Quad more = load(bias + col, n, false);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) q.at[k] += more.at[k];
    }
    if (flags & RELU) {
#pragma unroll
      for (int k = 0; k < QUAD; ++k) q.at[k] = q.at[k] < 0.0f ? 0.0f : q.at[k];  // NaN stays NaN
    }
    if (kept) {
      const Quad gate = load(kept + (i64)r * ld_kept + col, n, whole && n == QUAD);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) q.at[k] = gate.at[k] > 0.0f ? q.at[k] : 0.0f;
    }
    store(to, q, n, whole && n == QUAD);
  }
};

template <class S, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void multiply(float* c, const float* a, const float* b, const float* bias, const float* kept,
                                         int M, int N, int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  extern __shared__ __align__(16) float stages[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_k = warp / (S::WM * S::WN), warp_m = warp / S::WN % S::WM, warp_n = warp % S::WN;
  const int row = warp_m * 4 * S::TM + lane / 8 * QUAD, column = warp_n * 8 * S::TN + lane % 8 * QUAD;
  const int first_row = blockIdx.y * S::ROWS, first_column = blockIdx.x * S::COLUMNS;
  const bool whole_a = aligned(a, ld_a), whole_b = aligned(b, ld_b);
  Mover<A_ALONG_K, S::ROWS, S::DEPTH, S::LD_A, S::THREADS> mover_a;
  Mover<B_ALONG_K, S::COLUMNS, S::DEPTH, S::LD_B, S::THREADS> mover_b;
  float sum[S::TM][S::TN] = {};

  const int slices = (K + S::DEPTH - 1) / S::DEPTH;
  const auto fetch = [&](int slice) {
    mover_a.fetch(a, ld_a, first_row, M, slice * S::DEPTH, K, whole_a);
    mover_b.fetch(b, ld_b, first_column, N, slice * S::DEPTH, K, whole_b);
  };
  const auto put = [&](int slice) {
    mover_a.put(stages + slice % 2 * S::STAGE);
    mover_b.put(stages + slice % 2 * S::STAGE + S::DEPTH * S::LD_A);
  };
  if (slices) {
    fetch(0);
    put(0);
    __syncthreads();
  }
  for (int slice = 0; slice < slices; ++slice) {
    const bool more = slice + 1 < slices;
    if (more) fetch(slice + 1);
    const float* stage_a = stages + slice % 2 * S::STAGE + warp_k * (S::DEPTH / S::WK) * S::LD_A;
    const float* stage_b = stages + slice % 2 * S::STAGE + S::DEPTH * S::LD_A + warp_k * (S::DEPTH / S::WK) * S::LD_B;
#pragma unroll
    for (int k = 0; k < S::DEPTH / S::WK; ++k) {
      float left[S::TM], right[S::TN];
#pragma unroll
      for (int i = 0; i < S::TM; i += QUAD) {
        const Quad q = load(stage_a + k * S::LD_A + row + 4 * i, QUAD, true);
#pragma unroll
        for (int j = 0; j < QUAD; ++j) left[i + j] = q.at[j];
      }
#pragma unroll
      for (int i = 0; i < S::TN; i += QUAD) {
        const Quad q = load(stage_b + k * S::LD_B + column + 8 * i, QUAD, true);
#pragma unroll
        for (int j = 0; j < QUAD; ++j) right[i + j] = q.at[j];
      }
#pragma unroll
      for (int i = 0; i < S::TM; ++i)
#pragma unroll
        for (int j = 0; j < S::TN; ++j) sum[i][j] += left[i] * right[j];
    }
    if (more) {
      put(slice + 1);  // into the stage that was read before the last barrier
      __syncthreads();
    }
  }

  const Result result{c, bias, kept, M, N, ld_c, ld_kept, flags, aligned(c, ld_c) && (!kept || aligned(kept, ld_kept))};
  if (S::WK == 1) {
#pragma unroll
    for (int i = 0; i < S::TM; ++i)
#pragma unroll
      for (int j = 0; j < S::TN; j += QUAD) {
        const Quad q{{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]}};
        result.finish(q, first_row + row + i / QUAD * 16 + i % QUAD, first_column + column + j * 8);
      }
    return;
  }
  __syncthreads();
  float* mine = stages + warp_k * S::ROWS * S::COLUMNS;
#pragma unroll
  for (int i = 0; i < S::TM; ++i)
#pragma unroll
    for (int j = 0; j < S::TN; j += QUAD) {
      const Quad q{{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]}};
      store(mine + (row + i / QUAD * 16 + i % QUAD) * S::COLUMNS + column + j * 8, q, QUAD, true);
    }
  __syncthreads();
  for (int e = threadIdx.x * QUAD; e < S::ROWS * S::COLUMNS; e += S::THREADS * QUAD) {
    Quad total = load(stages + e, QUAD, true);
    for (int share = 1; share < S::WK; ++share) {
      const Quad q = load(stages + share * S::ROWS * S::COLUMNS + e, QUAD, true);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) total.at[k] += q.at[k];
    }
    result.finish(total, first_row + e / S::COLUMNS, first_column + e % S::COLUMNS);
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nn_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Large, true, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nt_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Large, true, true>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_tn_large_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Large, false, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_nn_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Medium, true, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_nt_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Medium, true, true>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_tn_medium_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                          int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Medium, false, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_nn_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Small, true, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_nt_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Small, true, true>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256)
    gemm_tn_small_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M, int N,
                         int K, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  multiply<Small, false, false>(c, a, b, bias, kept, M, N, K, ld_c, ld_a, ld_b, ld_kept, flags);
}

// db = column sums of dy[B,O] (flags: ADD adds them). A block sums 32 columns: each of its eight warps every eighth
// row, then the eight sums in order.
extern "C" __global__ void __launch_bounds__(256)
    column_sums_kernel(float* db, const float* dy, int B, int O, int ld_dy, int flags) {
  __shared__ float shares[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float sum = 0.0f;
  if (column < O)
    for (int r = warp; r < B; r += 8) sum += dy[(i64)r * ld_dy + column];
  shares[warp][lane] = sum;
  __syncthreads();
  if (warp || column >= O) return;
  for (int w = 1; w < 8; ++w) sum += shares[w][lane];
  db[column] = flags & ADD ? db[column] + sum : sum;
}
