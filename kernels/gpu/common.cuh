// What all sources share. Joined in front of each of them (source.py): CuPy's cache is keyed by the source text alone,
// and headers would cost seconds of compiling.
//
// Matrices are row-major with a leading dimension `ld_...` in elements. A thread works on four neighbouring elements of
// a row at a time (a quad), with one 16-byte access where the row is aligned: that is what it takes to reach the
// memory's rate with few instructions. Nothing outside an operand is touched: the last quad of a row may be shorter.

typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr int QUAD = 4;

struct Quad {
  float at[QUAD];
};

// Whether every row of a matrix of floats starts on 16 bytes.
__device__ __forceinline__ bool aligned(const float* matrix, int ld) {
  return (((size_t)matrix | (size_t)ld * sizeof(float)) & 15) == 0;
}

// The n (<= 4) elements at p, the others 0; `whole`: all four are there, on 16 bytes.
__device__ __forceinline__ Quad load(const float* p, int n, bool whole) {
  if (whole) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    return Quad{{v.x, v.y, v.z, v.w}};
  }
  Quad q;
#pragma unroll
  for (int k = 0; k < QUAD; ++k) q.at[k] = k < n ? p[k] : 0.0f;
  return q;
}

__device__ __forceinline__ void store(float* p, const Quad& q, int n, bool whole) {
  if (whole) {
    *reinterpret_cast<float4*>(p) = make_float4(q.at[0], q.at[1], q.at[2], q.at[3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < QUAD; ++k)
    if (k < n) p[k] = q.at[k];
}

// Calls body(row, column, n) for every quad of a matrix, shared among all threads of the launch; neighbouring threads
// take neighbouring quads, so a warp reads whole lines.
template <class Body>
__device__ __forceinline__ void for_each_quad(int rows, int columns, Body body) {
  const u32 quads = (columns + QUAD - 1) / QUAD, n = rows * quads, stride = gridDim.x * blockDim.x;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int row = i / quads, column = i % quads * QUAD;
    body(row, column, columns - column < QUAD ? columns - column : QUAD);
  }
}

// Sums and maxima over groups of 2, 4, ..., 32 neighbouring lanes; all lanes of the warp take part and get the result.
__device__ __forceinline__ float sum_of_lanes(float v, int lanes) {
  for (int o = lanes / 2; o; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
  return v;
}
__device__ __forceinline__ float max_of_lanes(float v, int lanes) {
  for (int o = lanes / 2; o; o /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
  return v;
}
