// Activations, their derivatives, and dropout: B rows of O columns. y may be x, and dx may be dy: each element is read
// before it is written, by the same thread. What is done to one element stands in functions.cuh.

template <class F>
__device__ __forceinline__ void map(float* y, const float* x, int rows, int columns, int ld_y, int ld_x, F f) {
  const bool whole = aligned(y, ld_y) && aligned(x, ld_x);
  for_each_quad(rows, columns, [&](int r, int c, int n) {
    Quad q = load(x + (i64)r * ld_x + c, n, whole && n == QUAD);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) q.at[k] = f(q.at[k]);
    store(y + (i64)r * ld_y + c, q, n, whole && n == QUAD);
  });
}

// dx = f(dy, kept), kept being what the forward pass left for the derivative.
template <class F>
__device__ __forceinline__ void map_backward(float* dx, const float* dy, const float* kept, int rows, int columns,
                                             int ld_dx, int ld_dy, int ld_kept, F f) {
  const bool whole = aligned(dx, ld_dx) && aligned(dy, ld_dy) && aligned(kept, ld_kept);
  for_each_quad(rows, columns, [&](int r, int c, int n) {
    Quad q = load(dy + (i64)r * ld_dy + c, n, whole && n == QUAD);
    const Quad k = load(kept + (i64)r * ld_kept + c, n, whole && n == QUAD);
#pragma unroll
    for (int j = 0; j < QUAD; ++j) q.at[j] = f(q.at[j], k.at[j]);
    store(dx + (i64)r * ld_dx + c, q, n, whole && n == QUAD);
  });
}

extern "C" __global__ void relu_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, relu_of);
}
extern "C" __global__ void relu_backward_kernel(float* dx, const float* dy, const float* y, int B, int O, int ld_dx,
                                                int ld_dy, int ld_y) {
  map_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y, relu_slope);
}

extern "C" __global__ void leaky_relu_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, leaky_relu_of);
}
extern "C" __global__ void leaky_relu_backward_kernel(float* dx, const float* dy, const float* y, int B, int O,
                                                      int ld_dx, int ld_dy, int ld_y) {
  map_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y, leaky_relu_slope);
}

extern "C" __global__ void elu_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, elu_of);
}
extern "C" __global__ void elu_backward_kernel(float* dx, const float* dy, const float* y, int B, int O, int ld_dx,
                                               int ld_dy, int ld_y) {
  map_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y, elu_slope);
}

extern "C" __global__ void sigmoid_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, sigmoid_of);
}
extern "C" __global__ void sigmoid_backward_kernel(float* dx, const float* dy, const float* y, int B, int O, int ld_dx,
                                                   int ld_dy, int ld_y) {
  map_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y, sigmoid_slope);
}

extern "C" __global__ void tanh_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, [](float v) { return tanhf(v); });
}
extern "C" __global__ void tanh_backward_kernel(float* dx, const float* dy, const float* y, int B, int O, int ld_dx,
                                                int ld_dy, int ld_y) {
  map_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y, tanh_slope);
}

extern "C" __global__ void gelu_kernel(float* y, const float* x, int B, int O, int ld_y, int ld_x) {
  map(y, x, B, O, ld_y, ld_x, gelu_of);
}
extern "C" __global__ void gelu_backward_kernel(float* dx, const float* dy, const float* x, int B, int O, int ld_dx,
                                                int ld_dy, int ld_x) {
  map_backward(dx, dy, x, B, O, ld_dx, ld_dy, ld_x, gelu_slope);
}

// A thread makes the four columns of the epoch that share a counter: of these, some may lie outside of the block.
// `threshold` = ceil(rate 2^32): a word below it drops its element; keep = 1 / (1 - rate).
extern "C" __global__ void dropout_kernel(float* y, float* mask, const float* x, const u32* key, const i64* cursor,
                                          u64 threshold, float keep, int layer, int row_offset, int column_offset,
                                          int B, int O, int ld_y, int ld_mask, int ld_x) {
  const int first = column_offset / QUAD, groups = (column_offset + O - 1) / QUAD - first + 1;
  const u32 n = B * groups, stride = gridDim.x * blockDim.x;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int r = i / groups, group = first + i % groups;
    u32 words[QUAD];
    philox(group, (u32)cursor[0] + row_offset + r, layer, 0, key[0], key[1], words);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      const int c = group * QUAD + k - column_offset;
      if (c < 0 || c >= O) continue;
      const float m = words[k] < threshold ? 0.0f : keep;
      mask[(i64)r * ld_mask + c] = m;
      y[(i64)r * ld_y + c] = x[(i64)r * ld_x + c] * m;
    }
  }
}
extern "C" __global__ void dropout_backward_kernel(float* dx, const float* dy, const float* mask, int B, int O,
                                                   int ld_dx, int ld_dy, int ld_mask) {
  map_backward(dx, dy, mask, B, O, ld_dx, ld_dy, ld_mask, [](float d, float m) { return d * m; });
}
