// One step of an optimizer on four neighbouring weights, given their gradient.
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

enum { SGD = 0, MOMENTUM = 1, NESTEROV = 2, ADAM = 3 };  // kinds, as in update.py

struct Constants {
  float beta_1, rest_1, beta_2, rest_2, epsilon;  // of momentum only the first
};

// Weights and what the optimizer keeps of each: velocities, or first and second moments; null where it has none.
struct Weights {
  float *w, *first, *second;
  int ld_w, ld_first, ld_second;
};
__device__ __forceinline__ bool aligned(const Weights& a) {
  return aligned(a.w, a.ld_w) && (!a.first || aligned(a.first, a.ld_first)) &&
         (!a.second || aligned(a.second, a.ld_second));
}

// The n elements from (r, c) on take a step; `whole`: all four are there, on 16 bytes. What is rounded once is written out
// (fmaf): a compiler's choice could differ from kernel to kernel, and a fused step must have the bits of a single one.
__device__ __forceinline__ void take_step(int kind, const Weights& weights, const Hyper& h, const Constants& k,
                                          const Quad& gradient, int r, int c, int n, bool whole) {
  float *wp = weights.w + (i64)r * weights.ld_w + c, *fp = nullptr, *sp = nullptr;
  Quad value = load(wp, n, whole), first{}, second{};
  if (kind != SGD) first = load(fp = weights.first + (i64)r * weights.ld_first + c, n, whole);
  if (kind == ADAM) second = load(sp = weights.second + (i64)r * weights.ld_second + c, n, whole);
#pragma unroll
  for (int i = 0; i < QUAD; ++i) {
    const float g = fmaf(h.l2, value.at[i], gradient.at[i]);
    if (kind == SGD) {
      value.at[i] = fmaf(-h.step, g, value.at[i]);
    } else if (kind == ADAM) {
      first.at[i] = fmaf(k.rest_1, g, k.beta_1 * first.at[i]);
      second.at[i] = fmaf(k.rest_2 * g, g, k.beta_2 * second.at[i]);
      const float change = h.step * first.at[i] / (sqrtf(second.at[i]) + k.epsilon);
      value.at[i] -= fmaf(h.decay, value.at[i], change);
    } else {
      const float push = h.step * g;
      first.at[i] = fmaf(k.beta_1, first.at[i], -push);
      // Nesterov: the weights take the velocity of the next step's beginning.
      value.at[i] += kind == NESTEROV ? fmaf(k.beta_1, first.at[i], -push) : first.at[i];
    }
  }
  if (kind == ADAM) store(sp, second, n, whole);
  if (kind != SGD) store(fp, first, n, whole);
  store(wp, value, n, whole);
}
