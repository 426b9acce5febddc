// Pooling of images: the largest and the mean value of windows, and their gradients. Images as in convolution.cu.
//
// A thread makes four neighbouring channels of one pixel. A gradient is gathered: each pixel of dx adds what the windows
// that hold it send, in the order of the windows; nothing is written twice, no atomics.

struct Pool {
  int width, channels, pool_height, pool_width, stride, out_height, out_width;
};

// Calls body(image, pixel, channel, n) for four (or, the last of a pixel, n) channels of every pixel of B images.
template <class Body>
__device__ __forceinline__ void for_each_pixel(int B, int pixels, int channels, Body body) {
  const u32 quads = (channels + QUAD - 1) / QUAD, n = B * pixels * quads, stride = gridDim.x * blockDim.x;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int channel = i % quads * QUAD, pixel = i / quads;
    body(pixel / pixels, pixel % pixels, channel, channels - channel < QUAD ? channels - channel : QUAD);
  }
}

extern "C" __global__ void max_pool_kernel(float* y, u8* argmax, const float* x, int B, int width, int channels,
                                           int pool_height, int pool_width, int stride, int out_height, int out_width,
                                           int ld_y, int ld_argmax, int ld_x) {
  const bool quads = channels % QUAD == 0, whole_y = quads && aligned(y, ld_y), whole_x = quads && aligned(x, ld_x);
  for_each_pixel(B, out_height * out_width, channels, [&](int image, int pixel, int c, int n) {
    const int oy = pixel / out_width, ox = pixel % out_width;
    const float* corner = x + (i64)image * ld_x + (oy * width + ox) * stride * channels + c;
    Quad best = load(corner, n, whole_x);
    int at[QUAD] = {};
    for (int i = 0; i < pool_height; ++i)
      for (int j = 0; j < pool_width; ++j) {
        const Quad q = load(corner + (i * width + j) * channels, n, whole_x);
#pragma unroll
        for (int k = 0; k < QUAD; ++k) {
          // A NaN is larger than nothing, but stays.
          if (q.at[k] > best.at[k]) at[k] = i * pool_width + j;
          if (q.at[k] > best.at[k] || q.at[k] != q.at[k]) best.at[k] = q.at[k];
        }
      }
    const int to = pixel * channels + c;
    store(y + (i64)image * ld_y + to, best, n, whole_y);
#pragma unroll
    for (int k = 0; k < QUAD; ++k)
      if (k < n) argmax[(i64)image * ld_argmax + to + k] = (u8)at[k];
  });
}

// Calls body(number of the output pixel, number of the input pixel within its window) for the windows that hold (iy, ix).
template <class Body>
__device__ __forceinline__ void for_each_window(const Pool& p, int iy, int ix, Body body) {
  const int y0 = iy < p.pool_height ? 0 : (iy - p.pool_height) / p.stride + 1, y1 = iy / p.stride;
  const int x0 = ix < p.pool_width ? 0 : (ix - p.pool_width) / p.stride + 1, x1 = ix / p.stride;
  for (int oy = y0; oy <= y1 && oy < p.out_height; ++oy)
    for (int ox = x0; ox <= x1 && ox < p.out_width; ++ox)
      body(oy * p.out_width + ox, (iy - oy * p.stride) * p.pool_width + ix - ox * p.stride);
}

extern "C" __global__ void max_pool_dx_kernel(float* dx, const float* dy, const u8* argmax, int B, int height,
                                              int width, int channels, int pool_height, int pool_width, int stride,
                                              int out_height, int out_width, int ld_dx, int ld_dy, int ld_argmax) {
  const Pool pool{width, channels, pool_height, pool_width, stride, out_height, out_width};
  const bool quads = channels % QUAD == 0, whole = quads && aligned(dx, ld_dx), whole_y = quads && aligned(dy, ld_dy);
  for_each_pixel(B, height * width, channels, [&](int image, int pixel, int c, int n) {
    Quad sum{};
    for_each_window(pool, pixel / width, pixel % width, [&](int out, int place) {
      const Quad q = load(dy + (i64)image * ld_dy + out * channels + c, n, whole_y);
      const u8* chosen = argmax + (i64)image * ld_argmax + out * channels + c;
#pragma unroll
      for (int k = 0; k < QUAD; ++k)
        if (k < n && chosen[k] == place) sum.at[k] += q.at[k];
    });
    store(dx + (i64)image * ld_dx + pixel * channels + c, sum, n, whole);
  });
}

extern "C" __global__ void avg_pool_kernel(float* y, const float* x, int B, int width, int channels, int pool_height,
                                           int pool_width, int stride, int out_height, int out_width, int ld_y,
                                           int ld_x) {
  const bool quads = channels % QUAD == 0, whole_y = quads && aligned(y, ld_y), whole_x = quads && aligned(x, ld_x);
  const float share = 1.0f / (pool_height * pool_width);
  for_each_pixel(B, out_height * out_width, channels, [&](int image, int pixel, int c, int n) {
    const int oy = pixel / out_width, ox = pixel % out_width;
    const float* corner = x + (i64)image * ld_x + (oy * width + ox) * stride * channels + c;
    Quad sum{};
    for (int i = 0; i < pool_height; ++i)
      for (int j = 0; j < pool_width; ++j) {
        const Quad q = load(corner + (i * width + j) * channels, n, whole_x);
#pragma unroll
        for (int k = 0; k < QUAD; ++k) sum.at[k] += q.at[k];
      }
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] *= share;
    store(y + (i64)image * ld_y + pixel * channels + c, sum, n, whole_y);
  });
}

extern "C" __global__ void avg_pool_dx_kernel(float* dx, const float* dy, int B, int height, int width, int channels,
                                              int pool_height, int pool_width, int stride, int out_height,
                                              int out_width, int ld_dx, int ld_dy) {
  const Pool pool{width, channels, pool_height, pool_width, stride, out_height, out_width};
  const bool quads = channels % QUAD == 0, whole = quads && aligned(dx, ld_dx), whole_y = quads && aligned(dy, ld_dy);
  const float share = 1.0f / (pool_height * pool_width);
  for_each_pixel(B, height * width, channels, [&](int image, int pixel, int c, int n) {
    Quad sum{};
    for_each_window(pool, pixel / width, pixel % width, [&](int out, int) {
      const Quad q = load(dy + (i64)image * ld_dy + out * channels + c, n, whole_y);
#pragma unroll
      for (int k = 0; k < QUAD; ++k) sum.at[k] += q.at[k] * share;
    });
    store(dx + (i64)image * ld_dx + pixel * channels + c, sum, n, whole);
  });
}
