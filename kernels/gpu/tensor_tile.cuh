// The tile of tile.cuh on tensor cores: the same operands, results and order of sums, but factors are rounded, to TF32 (10
// bits behind the leading one) or bf16 (7), on their way to shared memory, and a warp multiplies 16 x 8 elements of c at
// a time with one instruction. Operands and results stay float32 in memory, products are exact, sums float32.
// Needs compute capability 8.0; sources that use it have no kernels for older devices (source.py knows them).
//
// Shared memory holds words of 32 bits: one TF32 value, or two bf16 values that follow each other along K. The hardware's
// layout then is one for both (PTX manual, "Matrix fragments for mma.m16n8k8" and "mma.m16n8k16"). Of eight words along K a thread
// with lane = 4 g + t needs words t and t + 4 of rows g and g + 8 of a, and of column g of b; c gives it columns 2 t and
// 2 t + 1 of rows g and g + 8. A sum does not mind if a and b number their terms alike in another way: here word 2 t
// stands for t and 2 t + 1 for t + 4, so that both are neighbours.
//
// An operand along K keeps its rows along K there, LD words apart; one across K its rows across. Either way it is stored
// as 8 or 16 bytes a time, and 32 lanes read from 32 banks.

#ifdef __CUSIM__
__device__ __forceinline__ u32 tf32_word(float x) { return cusim_tf32(x); }
__device__ __forceinline__ u32 bf16_word(float low, float high) {
  return (u32)cusim_bf16(high) << 16 | cusim_bf16(low);
}
__device__ __forceinline__ void add_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  cusim_mma_m16n8k8_tf32(c, a, b);
}
__device__ __forceinline__ void add_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  cusim_mma_m16n8k16_bf16(c, a, b);
}
#else
__device__ __forceinline__ u32 tf32_word(float x) {
  u32 word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
  return word;
}
__device__ __forceinline__ u32 bf16_word(float low, float high) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ __forceinline__ void add_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void add_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// A precision: how many values a word packs, and c += a b of 16 x 8 elements, eight words long.
struct Tf32 {
  static constexpr int PACK = 1;
  static __device__ __forceinline__ void add(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    add_tf32(c, a, b);
  }
};
struct Bf16 {
  static constexpr int PACK = 2;
  static __device__ __forceinline__ void add(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    add_bf16(c, a, b);
  }
};
constexpr int STEP = 8;  // words of such a product

// Distance of rows along K, and the room of an operand, along or across K, in words.
__device__ constexpr int along_ld(int words) { return words == STEP ? STEP : words + STEP; }
__device__ constexpr int slab_words(int extent, int words) {
  return extent * along_ld(words) > words * (extent + QUAD) ? extent * along_ld(words) : words * (extent + QUAD);
}

// How EXTENT rows (or columns) of an operand by DEPTH lie in shared memory, and how a thread moves its share of them there.
template <class P, class Operand, int EXTENT, int DEPTH, int THREADS>
struct Slab {
  static constexpr int WORDS = DEPTH / P::PACK, PACK = P::PACK;
  static constexpr int LD = Operand::ALONG_K ? along_ld(WORDS) : EXTENT + QUAD;
  static constexpr int EACH = EXTENT * DEPTH / QUAD / THREADS;
  static_assert(LD % 32 == 8 || LD % 32 == 24 || !Operand::ALONG_K, "8 g + 2 t: every lane another bank");
  static_assert(LD % 16 == 4 || Operand::ALONG_K, "4 * 2 t + g: every lane another bank");
  static_assert(EACH * QUAD * THREADS == EXTENT * DEPTH, "every thread moves as many quads");
  static_assert(EACH % PACK == 0 || Operand::ALONG_K, "a thread holds what is packed into one word");
  Quad held[EACH];
  typename Operand::Place places[EACH];

  // Where the i-th quad of this thread lies within the slice; see Mover in tile.cuh.
  static __device__ __forceinline__ void locate(int i, int& e, int& k) {
    constexpr int GROUP = DEPTH / QUAD < 4 ? DEPTH / QUAD : 4;
    if (Operand::ALONG_K) {
      const int q = threadIdx.x + i * THREADS;
      e = q / GROUP % EXTENT;
      k = (q % GROUP + q / (GROUP * EXTENT) * GROUP) * QUAD;
    } else {
      const int q = threadIdx.x + i / PACK * THREADS;
      e = q % (EXTENT / QUAD) * QUAD;
      k = q / (EXTENT / QUAD) * PACK + i % PACK;
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
  __device__ __forceinline__ void put(u32* shared) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      int e, k;
      locate(i, e, k);
      const Quad& q = held[i];
      if (PACK == 1) {
        u32* to = shared + (Operand::ALONG_K ? e * LD + k : k * LD + e);
        *reinterpret_cast<uint4*>(to) =
            make_uint4(tf32_word(q.at[0]), tf32_word(q.at[1]), tf32_word(q.at[2]), tf32_word(q.at[3]));
      } else if (Operand::ALONG_K) {
        *reinterpret_cast<uint2*>(shared + e * LD + k / PACK) =
            make_uint2(bf16_word(q.at[0], q.at[1]), bf16_word(q.at[2], q.at[3]));
      } else if (i % PACK == 0) {
        const Quad& next = held[i + PACK - 1];  // the following term
        *reinterpret_cast<uint4*>(shared + k / PACK * LD + e) =
            make_uint4(bf16_word(q.at[0], next.at[0]), bf16_word(q.at[1], next.at[1]),
                       bf16_word(q.at[2], next.at[2]), bf16_word(q.at[3], next.at[3]));
      }
    }
  }
  // Words `word` and `word` + 1 of row (or column) e.
  static __device__ __forceinline__ uint2 pair(const u32* shared, int e, int word) {
    if (Operand::ALONG_K) return *reinterpret_cast<const uint2*>(shared + e * LD + word);
    return make_uint2(shared[word * LD + e], shared[(word + 1) * LD + e]);
  }
};

// A warp computes 16 TM x 8 TN elements; WARPS_K of them share every slice, DEPTH terms long.
template <class PRECISION, int WARPS_M, int WARPS_N, int WARPS_K, int TILES_M, int TILES_N, int SLICE>
struct TensorShape {
  using P = PRECISION;
  static constexpr int WM = WARPS_M, WN = WARPS_N, WK = WARPS_K, TM = TILES_M, TN = TILES_N, DEPTH = SLICE;
  static constexpr int ROWS = 16 * TM * WM, COLUMNS = 8 * TN * WN, THREADS = 32 * WM * WN * WK;
  static constexpr int WORDS = DEPTH / P::PACK, STEPS = WORDS / STEP / WK;  // words of a slice, products of a warp in it
  static constexpr int SIZE_A = slab_words(ROWS, WORDS), STAGE = SIZE_A + slab_words(COLUMNS, WORDS);
  static_assert(STEPS * STEP * WK * P::PACK == DEPTH, "a warp takes whole steps");
  static_assert(WK == 1 || WK * ROWS * COLUMNS <= 2 * STAGE, "the shares of a sum meet in the stages' memory");
  static_assert(2 * STAGE * sizeof(u32) <= 48 << 10, "what every device grants without asking");

  template <class A, class B, class R>
  static __device__ __forceinline__ void product(const A& a, B& b, R result, int K, int share) {
    extern __shared__ __align__(16) float stages[];
    u32* words = reinterpret_cast<u32*>(stages);
    using Left = Slab<P, A, ROWS, DEPTH, THREADS>;
    using Right = Slab<P, B, COLUMNS, DEPTH, THREADS>;
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int warp_k = warp / (WM * WN), row = warp / WN % WM * 16 * TM, column = warp % WN * 8 * TN;
    const int first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
    const int begin = blockIdx.z * share, end = K - begin < share ? K : begin + share;
    Left left;
    Right right;
    left.begin(a, first_row);
    right.begin(b, first_column);
    float sum[TM][TN][4] = {};

    const int slices = (end - begin + DEPTH - 1) / DEPTH;
    const auto fetch = [&](int slice) {
      left.fetch(a, first_row, begin + slice * DEPTH);
      right.fetch(b, first_column, begin + slice * DEPTH);
    };
    const auto put = [&](int slice) {
      left.put(words + slice % 2 * STAGE);
      right.put(words + slice % 2 * STAGE + SIZE_A);
    };
    if (slices) {
      fetch(0);
      put(0);
      __syncthreads();
    }
    for (int slice = 0; slice < slices; ++slice) {
      const bool more = slice + 1 < slices;
      if (more) fetch(slice + 1);
      const u32 *stage_a = words + slice % 2 * STAGE, *stage_b = stage_a + SIZE_A;
#pragma unroll
      for (int step = 0; step < STEPS; ++step) {
        const int word = (warp_k * STEPS + step) * STEP + 2 * t;
        u32 factors[TN][2];
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          const uint2 pair = Right::pair(stage_b, column + 8 * j + group, word);
          factors[j][0] = pair.x;
          factors[j][1] = pair.y;
        }
#pragma unroll
        for (int i = 0; i < TM; ++i) {
          const uint2 upper = Left::pair(stage_a, row + 16 * i + group, word);
          const uint2 lower = Left::pair(stage_a, row + 16 * i + group + 8, word);
          const u32 fragment[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
          for (int j = 0; j < TN; ++j) P::add(sum[i][j], fragment, factors[j]);
        }
      }
      if (more) {
        put(slice + 1);  // into the stage that was read before the last barrier
        __syncthreads();
      }
    }

    result = result.share(blockIdx.z);
    if (WK > 1) __syncthreads();
    float* mine = stages + warp_k * ROWS * COLUMNS;
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        // Neighbours hold halves of two quads; they swap, so that each has one: an even t that of row g, an odd one of g + 8.
        const float* s = sum[i][j];
        const bool odd = t % 2;
        const float x = __shfl_xor_sync(ALL_LANES, odd ? s[0] : s[2], 1);
        const float y = __shfl_xor_sync(ALL_LANES, odd ? s[1] : s[3], 1);
        const Quad q = odd ? Quad{{x, y, s[2], s[3]}} : Quad{{s[0], s[1], x, y}};
        const int r = row + 16 * i + group + odd * 8, c = column + 8 * j + t / 2 * QUAD;
        if (WK == 1) result.finish(q, first_row + r, first_column + c);
        else store(mine + r * COLUMNS + c, q, QUAD, true);
      }
    if (WK > 1) add_warps<TensorShape>(stages, result, first_row, first_column);
  }
};
template <class P> using TensorLarge = TensorShape<P, 2, 4, 1, 4, 4, 16>;   // 128 x 128
template <class P> using TensorMedium = TensorShape<P, 2, 2, 1, 2, 4, 32>;  // 64 x 64
template <class P> using TensorSmall = TensorShape<P, 1, 1, 4, 1, 4, 64>;   // 16 x 32, four warps share K
