// Optimizer steps: one stream over weights, moments and gradient. R rows, Q columns. What a step does stands in step.cuh;
// update.cu takes it where the gradient of the weights is made.

template <int KIND>
__device__ __forceinline__ void stream(const Weights& weights, const float* dw, const float* hyper, const i64* cursor,
                                       const Constants& constants, int R, int Q, int ld_dw, int ld_hyper) {
  const Hyper h = hyper_of(hyper, cursor, ld_hyper);
  const bool aligned_rows = aligned(weights) && aligned(dw, ld_dw);
  for_each_quad(R, Q, [&](int r, int c, int n) {
    const bool whole = aligned_rows && n == QUAD;
    take_step(KIND, weights, h, constants, load(dw + (i64)r * ld_dw + c, n, whole), r, c, n, whole);
  });
}

extern "C" __global__ void sgd_kernel(float* w, const float* dw, const float* hyper, const i64* cursor, int R, int Q,
                                      int ld_w, int ld_dw, int ld_hyper) {
  stream<SGD>(Weights{w, nullptr, nullptr, ld_w, 0, 0}, dw, hyper, cursor, Constants{}, R, Q, ld_dw, ld_hyper);
}
extern "C" __global__ void momentum_kernel(float* w, float* velocity, const float* dw, const float* hyper,
                                           const i64* cursor, float momentum, int R, int Q, int ld_w, int ld_velocity,
                                           int ld_dw, int ld_hyper) {
  stream<MOMENTUM>(Weights{w, velocity, nullptr, ld_w, ld_velocity, 0}, dw, hyper, cursor,
                   Constants{momentum, 0, 0, 0, 0}, R, Q, ld_dw, ld_hyper);
}
extern "C" __global__ void nesterov_kernel(float* w, float* velocity, const float* dw, const float* hyper,
                                           const i64* cursor, float momentum, int R, int Q, int ld_w, int ld_velocity,
                                           int ld_dw, int ld_hyper) {
  stream<NESTEROV>(Weights{w, velocity, nullptr, ld_w, ld_velocity, 0}, dw, hyper, cursor,
                   Constants{momentum, 0, 0, 0, 0}, R, Q, ld_dw, ld_hyper);
}
extern "C" __global__ void adam_kernel(float* w, float* m, float* v, const float* dw, const float* hyper,
                                       const i64* cursor, float beta_1, float rest_1, float beta_2, float rest_2,
                                       float epsilon, int R, int Q, int ld_w, int ld_m, int ld_v, int ld_dw,
                                       int ld_hyper) {
  stream<ADAM>(Weights{w, m, v, ld_w, ld_m, ld_v}, dw, hyper, cursor, Constants{beta_1, rest_1, beta_2, rest_2, epsilon},
               R, Q, ld_dw, ld_hyper);
}
