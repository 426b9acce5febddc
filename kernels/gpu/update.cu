// Gradient of weights and the optimizer's step in one kernel, in float32; see update.cuh.

extern "C" __global__ void __launch_bounds__(256, 3)
    update_medium_kernel(const float* x, const float* dy, float* w, float* first, float* second, const float* hyper,
                 const i64* cursor, int kind, float beta_1, float rest_1, float beta_2, float rest_2, float epsilon,
                 int M, int N, int K, int ld_x, int ld_dy, int ld_w, int ld_first, int ld_second, int ld_hyper) {
  update<Medium>(x, dy, Weights{w, first, second, ld_w, ld_first, ld_second}, kind,
                  Constants{beta_1, rest_1, beta_2, rest_2, epsilon}, hyper, cursor, M, N, K, ld_x, ld_dy, ld_hyper);
}
extern "C" __global__ void __launch_bounds__(256)
    update_small_kernel(const float* x, const float* dy, float* w, float* first, float* second, const float* hyper,
                 const i64* cursor, int kind, float beta_1, float rest_1, float beta_2, float rest_2, float epsilon,
                 int M, int N, int K, int ld_x, int ld_dy, int ld_w, int ld_first, int ld_second, int ld_hyper) {
  update<Small>(x, dy, Weights{w, first, second, ld_w, ld_first, ld_second}, kind,
                  Constants{beta_1, rest_1, beta_2, rest_2, epsilon}, hyper, cursor, M, N, K, ld_x, ld_dy, ld_hyper);
}
