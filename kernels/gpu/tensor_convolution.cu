// Convolutions as in convolution.cu, on tensor cores: factors in TF32 or bf16, sums in float32, see tensor_tile.cuh.

extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_medium_tf32_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<TensorMedium<Tf32>>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_small_tf32_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<TensorSmall<Tf32>>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dx_medium_tf32_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<TensorMedium<Tf32>>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dx_small_tf32_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<TensorSmall<Tf32>>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dw_medium_tf32_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<TensorMedium<Tf32>>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dw_small_tf32_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<TensorSmall<Tf32>>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_medium_bf16_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<TensorMedium<Bf16>>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_small_bf16_kernel(float* y, const float* x, const float* w, const float* b, int images, int O, int K, int width,
                        int channels, int kernel_width, int stride, int out_width, int pixels, int ld_y, int ld_x,
                        int ld_w, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  convolve<TensorSmall<Bf16>>(y, x, w, b, images, O, K, window, ld_y, ld_x, ld_w, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dx_medium_bf16_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<TensorMedium<Bf16>>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dx_small_bf16_kernel(float* dx, const float* dy, const float* wt, int images, int channels, int O, int K,
                           int kernel_width, int stride, int width, int pixels, int out_height, int out_width,
                           int ld_dx, int ld_dy, int ld_wt) {
  const Sent sent{dy, ld_dy, O, kernel_width, stride, width, pixels, out_height, out_width};
  convolve_back<TensorSmall<Bf16>>(dx, wt, sent, images, channels, K, ld_dx, ld_dy, ld_wt);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dw_medium_bf16_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<TensorMedium<Bf16>>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv2d_dw_small_bf16_kernel(float* dw, const float* x, const float* dy, int images, int O, int K, int share, int width,
                           int channels, int kernel_width, int stride, int out_width, int pixels, int ld_dw, int ld_x,
                           int ld_dy, int flags) {
  const Window window{width, channels, kernel_width, stride, out_width, pixels};
  filter_gradient<TensorSmall<Bf16>>(dw, x, dy, images, O, K, share, window, ld_dw, ld_x, ld_dy, flags);
}
