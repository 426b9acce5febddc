// Products of matrices as in matmul.cu, on tensor cores: factors in TF32 or bf16, sums in float32, see tensor_tile.cuh.
// Results, biases and masks are float32. Two large blocks share a multiprocessor, but for TF32 along K: at 128 registers it
// spills on Hopper.

extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_nn_large_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Tf32>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_nt_large_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Tf32>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_tn_large_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Tf32>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nn_medium_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Tf32>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nt_medium_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Tf32>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_tn_medium_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Tf32>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nn_small_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Tf32>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nt_small_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Tf32>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_tn_small_tf32_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Tf32>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nn_large_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Bf16>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_nt_large_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Bf16>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_tn_large_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorLarge<Bf16>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nn_medium_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Bf16>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nt_medium_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Bf16>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_tn_medium_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                               int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorMedium<Bf16>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nn_small_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Bf16>, Along, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_nt_small_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Bf16>, Along, Along>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    gemm_tn_small_bf16_kernel(float* c, const float* a, const float* b, const float* bias, const float* kept, int M,
                              int N, int K, int share, int ld_c, int ld_a, int ld_b, int ld_kept, int flags) {
  product<TensorSmall<Bf16>, Across, Across>(c, a, b, bias, kept, M, N, K, share, ld_c, ld_a, ld_b, ld_kept, flags);
}
