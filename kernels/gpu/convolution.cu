// Convolution of images with filters in float32, forward and both gradients, and what moves images and filters: pad, crop,
// transpose. Where operands lie stands in windows.cuh, how a tile is computed in tile.cuh.

extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_tall_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<Tall>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_medium_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<Medium>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_small_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<Small>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dx_tall_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<Tall>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_dx_medium_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<Medium>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_dx_small_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<Small>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_dw_medium_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<Medium>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_dw_small_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<Small>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}

// wt[O,K] = w[K,O] by tiles of 32 x 32: both sides are read and written in whole lines.
extern "C" __global__ void __launch_bounds__(256)
    transpose_kernel(float* wt, const float* w, int O, int K, int ld_wt, int ld_w) {
  __shared__ float tile[32][33];
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32, o0 = blockIdx.x * 32, k0 = blockIdx.y * 32;
  for (int r = first; r < 32; r += 8)
    if (k0 + r < K && o0 + lane < O) tile[r][lane] = w[(i64)(k0 + r) * ld_w + o0 + lane];
  __syncthreads();
  for (int r = first; r < 32; r += 8)
    if (o0 + r < O && k0 + lane < K) wt[(i64)(o0 + r) * ld_wt + k0 + lane] = tile[lane][r];
}

// A row of the inner image are `run` values (pixels times channels), of the outer one `wide`; the inner image begins
// `above` rows below and `left` values behind the outer one's beginning.
extern "C" __global__ void pad_kernel(float* y, const float* x, int B, int Y, int run, int rows, int wide, int above,
                                      int left, int ld_y, int ld_x) {
  const bool whole = aligned(y, ld_y);
  for_each_quad(B, Y, [&](int image, int c, int n) {
    Quad q{};
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      const int row = (c + k) / wide - above, column = (c + k) % wide - left;
      if (k < n && row >= 0 && row < rows && column >= 0 && column < run)
        q.at[k] = x[(i64)image * ld_x + row * run + column];
    }
    store(y + (i64)image * ld_y + c, q, n, whole && n == QUAD);
  });
}
extern "C" __global__ void crop_kernel(float* x, const float* y, int B, int X, int run, int wide, int above, int left,
                                       int ld_x, int ld_y) {
  const bool whole = aligned(x, ld_x);
  for_each_quad(B, X, [&](int image, int c, int n) {
    Quad q{};
#pragma unroll
    for (int k = 0; k < QUAD; ++k)
      if (k < n) q.at[k] = y[(i64)image * ld_y + ((c + k) / run + above) * wide + left + (c + k) % run];
    store(x + (i64)image * ld_x + c, q, n, whole && n == QUAD);
  });
}
