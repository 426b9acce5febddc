// The tile of a product c[M,N] = a[M,K] b[K,N] in float32, for any operands and any place of the result: matmul.cu multiplies
// matrices with it, convolution.cu images with filters (the implicit matrix product: no window is copied to memory).
//
// A block computes a tile of c. Slices of a and b, DEPTH long in K, go from memory to registers, then to shared memory,
// both across K there: so all threads read what they multiply as 16-byte words. Two such stages: while one is
// multiplied, the next one is fetched. A warp computes 4 TM x 8 TN elements, a thread TM x TN: rows in quads 16 apart
// and columns in quads 32 apart, so a warp's reads of shared memory are broadcasts or contiguous: no bank conflicts.
//
// Sums have a fixed order: over K ascending; with WARPS_K > 1 each of these warps sums its share of every slice, and
// the shares are added in the order of the warps. blockIdx.z cuts K into longer shares, each with a result of its own,
// which add_shares_kernel adds in their order. No atomics: the same bits on every run.
//
// Which shape for which product is decided by tiles.py, which also reads the shapes' numbers below. tensor_tile.cuh has
// shapes of the same kind for tensor cores: what is written for a shape S calls S::product and serves both.

template <class S, class A, class B, class R>
__device__ __forceinline__ void multiply(const A& a, B& b, R result, int K, int share);

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

  template <class A, class B, class R>
  static __device__ __forceinline__ void product(const A& a, B& b, const R& result, int K, int share) {
    multiply<Shape>(a, b, result, K, share);
  }
};
using Large = Shape<4, 2, 1, 8, 8, 8>;    // 128 x 128: 64 multiplications for each 16 floats read; needs many tiles
using Medium = Shape<4, 2, 1, 4, 4, 16>;  // 64 x 64
using Tall = Shape<4, 1, 1, 8, 4, 16>;    // 128 x 32: many pixels, few filters
using Small = Shape<1, 1, 8, 4, 4, 64>;   // 16 x 32, eight warps share K: few rows, long sums (a batch, 784 pixels)

enum { ADD = 1, RELU = 2 };  // flags

// An operand says where its elements lie. ALONG_K: neighbours in memory follow K, a quad is four terms of one row (or
// column) e of c; else a quad is four neighbouring e of one term k. `Place` is what of an address does not depend on k:
// it is worked out once. Outside of the operand elements are 0.
struct Along {
  static constexpr bool ALONG_K = true;
  const float* p;
  int ld, extent, depth;
  bool whole;
  using Place = const float*;
  __device__ __forceinline__ Place place(int e) const { return e < extent ? p + (i64)e * ld : nullptr; }
  __device__ __forceinline__ Quad quad(Place row, int, int k) const {
    const int left = row ? depth - k : 0;
    return left > 0 ? load(row + k, left, whole && left >= QUAD) : Quad{};
  }
};
struct Across {
  static constexpr bool ALONG_K = false;
  const float* p;
  int ld, extent, depth;
  bool whole;
  using Place = const float*;
  __device__ __forceinline__ Place place(int e) const { return p + e; }
  __device__ __forceinline__ Quad quad(Place column, int e, int k) const {
    const int left = k < depth ? extent - e : 0;
    return load(column + (i64)k * ld, left, whole && left >= QUAD);
  }
};

// Moves an operand's slices: EXTENT rows (or columns) of c by DEPTH, a quad at a time.
template <class Operand, int EXTENT, int DEPTH, int LD, int THREADS>
struct Mover {
  static constexpr int EACH = EXTENT * DEPTH / QUAD / THREADS;
  static_assert(EACH * QUAD * THREADS == EXTENT * DEPTH, "every thread moves as many quads");
  Quad held[EACH];
  typename Operand::Place places[EACH];

  // Where the i-th quad of this thread lies within the slice. Along K four neighbouring threads read 64 bytes of one
  // row; across K a warp reads whole rows.
  static __device__ __forceinline__ void locate(int i, int& e, int& k) {
    constexpr int GROUP = DEPTH / QUAD < 4 ? DEPTH / QUAD : 4;
    const int q = threadIdx.x + i * THREADS;
    if (Operand::ALONG_K) {
      e = q / GROUP % EXTENT;
      k = (q % GROUP + q / (GROUP * EXTENT) * GROUP) * QUAD;
    } else {
      e = q % (EXTENT / QUAD) * QUAD;
      k = q / (EXTENT / QUAD);
    }
  }
  __device__ __forceinline__ void begin(const Operand& operand, int first) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      locate(i, e, k);
      places[i] = operand.place(first + e);
    }
  }
  template <class Any>  // an operand may note what it has read
  __device__ __forceinline__ void fetch(Any& operand, int first, int k0) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      locate(i, e, k);
      held[i] = operand.quad(places[i], first + e, k0 + k);
    }
  }
  __device__ __forceinline__ void put(float* shared) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      locate(i, e, k);
      if (Operand::ALONG_K) {
#pragma unroll
        for (int j = 0; j < QUAD; ++j) shared[(k + j) * LD + e] = held[i].at[j];
      } else {
        store(shared + k * LD + e, held[i], QUAD, true);
      }
    }
  }
};

// The result, and what is done to a quad of it before it is stored. Its rows are `pixels` to an image: pixel r % pixels
// of image r / pixels, the images ld_c apart; of a matrix each row is an image of one pixel.
struct Result {
  float* c;
  const float *bias, *kept;
  int M, N, pixels, ld_c, ld_kept, flags;
  bool whole;  // rows of c and of kept start on 16 bytes

  // The z-th of several results, one behind the other.
  __device__ __forceinline__ Result share(int z) const {
    Result one = *this;
    one.c += (i64)z * M * ld_c;
    return one;
  }
  __device__ __forceinline__ void finish(Quad q, int r, int col) const {
    if (r >= M || col >= N) return;
    const int n = N - col < QUAD ? N - col : QUAD;
    float* to = c + (i64)(r / pixels) * ld_c + r % pixels * N + col;
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

// The shares of a tile's sums, one behind the other in shared memory, are added in their order.
template <class S, class R>
__device__ __forceinline__ void add_warps(const float* shares, const R& result, int first_row, int first_column) {
  __syncthreads();
  for (int e = threadIdx.x * QUAD; e < S::ROWS * S::COLUMNS; e += S::THREADS * QUAD) {
    Quad total = load(shares + e, QUAD, true);
    for (int share = 1; share < S::WK; ++share) {
      const Quad q = load(shares + share * S::ROWS * S::COLUMNS + e, QUAD, true);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) total.at[k] += q.at[k];
    }
    result.finish(total, first_row + e / S::COLUMNS, first_column + e % S::COLUMNS);
  }
}

// Block z sums the terms [z share, (z + 1) share) of K into the z-th of as many results, one behind the other. With more
// than one a share is a multiple of DEPTH: a slice belongs to one of them.
template <class S, class A, class B, class R>
__device__ __forceinline__ void multiply(const A& a, B& b, R result, int K, int share) {
  extern __shared__ __align__(16) float stages[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_k = warp / (S::WM * S::WN), warp_m = warp / S::WN % S::WM, warp_n = warp % S::WN;
  const int row = warp_m * 4 * S::TM + lane / 8 * QUAD, column = warp_n * 8 * S::TN + lane % 8 * QUAD;
  const int first_row = blockIdx.y * S::ROWS, first_column = blockIdx.x * S::COLUMNS;
  const int begin = blockIdx.z * share, end = K - begin < share ? K : begin + share;
  Mover<A, S::ROWS, S::DEPTH, S::LD_A, S::THREADS> mover_a;
  Mover<B, S::COLUMNS, S::DEPTH, S::LD_B, S::THREADS> mover_b;
  mover_a.begin(a, first_row);
  mover_b.begin(b, first_column);
  float sum[S::TM][S::TN] = {};

  const int slices = (end - begin + S::DEPTH - 1) / S::DEPTH;
  const auto fetch = [&](int slice) {
    mover_a.fetch(a, first_row, begin + slice * S::DEPTH);
    mover_b.fetch(b, first_column, begin + slice * S::DEPTH);
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

  result = result.share(blockIdx.z);
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
  add_warps<S>(stages, result, first_row, first_column);
}

// c[M,N] = a[M,K] b[K,N] of two matrices.
template <class S, class A, class B>
__device__ __forceinline__ void product(float* c, const float* a, const float* b, const float* bias, const float* kept,
                                        int M, int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept,
                                        int flags) {
  const bool whole = aligned(c, ld_c) && (!kept || aligned(kept, ld_kept));
  B right{b, ld_b, N, K, aligned(b, ld_b)};
  S::product(A{a, ld_a, M, K, aligned(a, ld_a)}, right, Result{c, bias, kept, M, N, 1, ld_c, ld_kept, flags, whole}, K,
             share);
}
