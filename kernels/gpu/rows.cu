// Reading the batch and moving rows: gather, scatter, add, advance the cursor. B rows, I or C columns.
//
// cursor[0] is the first position in `order` of the current batch, cursor[1] the step's number within the epoch. It
// lies in memory and is moved by a kernel of its own, because a captured graph freezes by-value arguments.

template <class Pixel>
__device__ __forceinline__ void gather(float* x, const Pixel* source, const i64* order, const i64* cursor, float scale,
                                       int rows, int columns, int ld_x, int ld_source) {
  const bool whole_rows = aligned(x, ld_x),
             whole_words = (((size_t)source | ld_source * sizeof(Pixel)) % (QUAD * sizeof(Pixel))) == 0;
  const i64* batch = order + cursor[0];
  for_each_quad(rows, columns, [&](int r, int c, int n) {
    const Pixel* p = source + batch[r] * ld_source + c;
    Pixel pixels[QUAD] = {};
    if (whole_words && n == QUAD) {
      struct alignas(QUAD * sizeof(Pixel)) Word {
        Pixel at[QUAD];
      };
      const Word word = *reinterpret_cast<const Word*>(p);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) pixels[k] = word.at[k];
    } else {
#pragma unroll
      for (int k = 0; k < QUAD; ++k)
        if (k < n) pixels[k] = p[k];
    }
    Quad q;
#pragma unroll
    for (int k = 0; k < QUAD; ++k) q.at[k] = (float)pixels[k] * scale;
    store(x + (i64)r * ld_x + c, q, n, whole_rows && n == QUAD);
  });
}

extern "C" __global__ void gather_rows_uint8_kernel(float* x, const u8* source, const i64* order, const i64* cursor,
                                                    float scale, int B, int I, int ld_x, int ld_source) {
  gather(x, source, order, cursor, scale, B, I, ld_x, ld_source);
}
extern "C" __global__ void gather_rows_float32_kernel(float* x, const float* source, const i64* order,
                                                      const i64* cursor, float scale, int B, int I, int ld_x,
                                                      int ld_source) {
  gather(x, source, order, cursor, scale, B, I, ld_x, ld_source);
}

extern "C" __global__ void scatter_rows_kernel(float* target, const float* p, const i64* cursor, int B, int C,
                                               int ld_target, int ld_p) {
  target += cursor[0] * ld_target;
  const bool whole = aligned(target, ld_target) && aligned(p, ld_p);
  for_each_quad(B, C, [&](int r, int c, int n) {
    store(target + (i64)r * ld_target + c, load(p + (i64)r * ld_p + c, n, whole && n == QUAD), n, whole && n == QUAD);
  });
}

extern "C" __global__ void add_kernel(float* total, const float* part, int R, int Q, int ld_total, int ld_part) {
  const bool whole = aligned(total, ld_total) && aligned(part, ld_part);
  for_each_quad(R, Q, [&](int r, int c, int n) {
    float* to = total + (i64)r * ld_total + c;
    Quad sum = load(to, n, whole && n == QUAD);
    const Quad more = load(part + (i64)r * ld_part + c, n, whole && n == QUAD);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] += more.at[k];
    store(to, sum, n, whole && n == QUAD);
  });
}

// One thread.
extern "C" __global__ void advance_kernel(i64* cursor, int rows) {
  cursor[0] += rows;
  cursor[1] += 1;
}
