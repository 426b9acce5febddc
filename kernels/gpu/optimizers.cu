// Optimizer steps: one stream over weights, moments and gradient. R rows, Q columns.
//
// (step size, decoupled decay, L2) = hyper[cursor[1]] of this step: in memory, because a captured graph freezes
// by-value arguments. What is constant for a run (momentum, betas) comes by value; 1 - beta is rounded once, on the
// host.

struct Hyper {
  float step, decay, l2;
};
__device__ __forceinline__ Hyper hyper_of(const float* hyper, const i64* cursor, int ld_hyper) {
  const float* row = hyper + cursor[1] * ld_hyper;
  return Hyper{row[0], row[1], row[2]};
}

extern "C" __global__ void sgd_kernel(float* w, const float* dw, const float* hyper, const i64* cursor, int R, int Q,
                                      int ld_w, int ld_dw, int ld_hyper) {
  const Hyper h = hyper_of(hyper, cursor, ld_hyper);
  const bool aligned_rows = aligned(w, ld_w) && aligned(dw, ld_dw);
  for_each_quad(R, Q, [&](int r, int c, int n) {
    const bool whole = aligned_rows && n == QUAD;
    float* wp = w + (i64)r * ld_w + c;
    Quad value = load(wp, n, whole);
    const Quad g = load(dw + (i64)r * ld_dw + c, n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) value.at[k] -= h.step * (g.at[k] + h.l2 * value.at[k]);
    store(wp, value, n, whole);
  });
}

template <bool AHEAD>  // Nesterov: the weights take the velocity of the next step's beginning
__device__ __forceinline__ void momentum_step(float* w, float* velocity, const float* dw, const float* hyper,
                                              const i64* cursor, float momentum, int R, int Q, int ld_w,
                                              int ld_velocity, int ld_dw, int ld_hyper) {
  const Hyper h = hyper_of(hyper, cursor, ld_hyper);
  const bool aligned_rows = aligned(w, ld_w) && aligned(velocity, ld_velocity) && aligned(dw, ld_dw);
  for_each_quad(R, Q, [&](int r, int c, int n) {
    const bool whole = aligned_rows && n == QUAD;
    float *wp = w + (i64)r * ld_w + c, *vp = velocity + (i64)r * ld_velocity + c;
    Quad value = load(wp, n, whole), speed = load(vp, n, whole);
    const Quad g = load(dw + (i64)r * ld_dw + c, n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      const float push = h.step * (g.at[k] + h.l2 * value.at[k]);
      speed.at[k] = momentum * speed.at[k] - push;
      value.at[k] += AHEAD ? momentum * speed.at[k] - push : speed.at[k];
    }
    store(vp, speed, n, whole);
    store(wp, value, n, whole);
  });
}
extern "C" __global__ void momentum_kernel(float* w, float* velocity, const float* dw, const float* hyper,
                                           const i64* cursor, float momentum, int R, int Q, int ld_w, int ld_velocity,
                                           int ld_dw, int ld_hyper) {
  momentum_step<false>(w, velocity, dw, hyper, cursor, momentum, R, Q, ld_w, ld_velocity, ld_dw, ld_hyper);
}
extern "C" __global__ void nesterov_kernel(float* w, float* velocity, const float* dw, const float* hyper,
                                           const i64* cursor, float momentum, int R, int Q, int ld_w, int ld_velocity,
                                           int ld_dw, int ld_hyper) {
  momentum_step<true>(w, velocity, dw, hyper, cursor, momentum, R, Q, ld_w, ld_velocity, ld_dw, ld_hyper);
}

extern "C" __global__ void adam_kernel(float* w, float* m, float* v, const float* dw, const float* hyper,
                                       const i64* cursor, float beta_1, float rest_1, float beta_2, float rest_2,
                                       float epsilon, int R, int Q, int ld_w, int ld_m, int ld_v, int ld_dw,
                                       int ld_hyper) {
  const Hyper h = hyper_of(hyper, cursor, ld_hyper);
  const bool aligned_rows = aligned(w, ld_w) && aligned(m, ld_m) && aligned(v, ld_v) && aligned(dw, ld_dw);
  for_each_quad(R, Q, [&](int r, int c, int n) {
    const bool whole = aligned_rows && n == QUAD;
    float *wp = w + (i64)r * ld_w + c, *mp = m + (i64)r * ld_m + c, *vp = v + (i64)r * ld_v + c;
    Quad value = load(wp, n, whole), first = load(mp, n, whole), second = load(vp, n, whole);
    const Quad gradient = load(dw + (i64)r * ld_dw + c, n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      const float g = gradient.at[k] + h.l2 * value.at[k];
      first.at[k] = beta_1 * first.at[k] + rest_1 * g;
      second.at[k] = beta_2 * second.at[k] + rest_2 * g * g;
      value.at[k] -= h.decay * value.at[k] + h.step * first.at[k] / (sqrtf(second.at[k]) + epsilon);
    }
    store(mp, first, n, whole);
    store(vp, second, n, whole);
    store(wp, value, n, whole);
  });
}
