// L-BFGS with all vectors on the device (Nocedal & Wright 2006, algorithms 7.4 and 7.5): the points of a line search, what
// the host must know of each, and the next direction by the two-loop recursion.
//
// A vector are n doubles: the parameters one behind the other. Problems that share nothing (one-vs-rest) are searched
// side by side: element i belongs to problem i % C. A block works for one problem, so sums have a fixed order: a
// thread's elements ascending, then the threads by halves.

constexpr int MOST_PAIRS = 32;  // remembered at most

__device__ __forceinline__ double dot(const double* a, const double* b, int n, int C) {
  double sum = 0;
  for (int i = blockIdx.x + threadIdx.x * C; i < n; i += THREADS * C) sum += a[i] * b[i];
  return over_block<false>(sum);
}

// One parameter w[R,Q], elements [at, at + R Q) of the vectors: trial = x + step direction, and, unless w is null, w = trial
// in float32.
extern "C" __global__ void lbfgs_trial_kernel(float* w, double* trial, const double* x, const double* direction,
                                              const double* steps, int at, int C, int R, int Q, int ld_w) {
  for_each_quad(R, Q, [&](int r, int c, int n) {
    for (int k = 0; k < n; ++k) {
      const int i = at + r * Q + c + k;
      trial[i] = x[i] + steps[i % C] * direction[i];
      if (w) w[(i64)r * ld_w + c + k] = (float)trial[i];
    }
  });
}

// The same parameter's gradient dw, with that of its penalty l2 / 2 |w|^2, whose terms are kept for their sum.
extern "C" __global__ void lbfgs_gradient_kernel(double* gradient, double* penalty, const float* dw,
                                                 const double* trial, double l2, int at, int R, int Q, int ld_dw) {
  for_each_quad(R, Q, [&](int r, int c, int n) {
    for (int k = 0; k < n; ++k) {
      const int i = at + r * Q + c + k;
      gradient[i] = dw[(i64)r * ld_dw + c + k] + l2 * trial[i];
      penalty[i] = 0.5 * l2 * trial[i] * trial[i];
    }
  });
}

// A linear change of variables, out[m,C] = T in[m,C]: T[m] is diagonal (DIAGONAL), or T[m,m] is upper triangular (FULL), or
// it is the transpose of such a one (TRANSPOSED). A thread makes an element, its sum ascending.
enum { DIAGONAL = 0, FULL = 1, TRANSPOSED = 2 };
extern "C" __global__ void lbfgs_transform_kernel(double* out, const double* T, const double* in, int form, int m,
                                                  int C) {
  const int stride = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < m * C; i += stride) {
    const int r = i / C, c = i % C;
    double sum = 0;
    if (form == DIAGONAL) sum = T[r] * in[i];
    if (form == FULL)
      for (int k = r; k < m; ++k) sum += T[(i64)r * m + k] * in[k * C + c];
    if (form == TRANSPOSED)
      for (int k = 0; k <= r; ++k) sum += T[(i64)k * m + r] * in[k * C + c];
    out[i] = sum;
  }
}

// Of each problem: facts[0] = weighted sum of the losses, facts[1] = penalty, facts[2] = gradient . direction, facts[3] =
// largest component of `steep` (the gradient with respect to the parameters, where the search has other variables), each a
// row of C. losses[M,L] belong to all problems in turn, or to the only one.
extern "C" __global__ void __launch_bounds__(256)
    lbfgs_facts_kernel(double* facts, const float* losses, const float* sample_weight, const double* penalty,
                       const double* gradient, const double* direction, const double* steep, int M, int L, int n,
                       int C) {
  double loss = 0, sum = 0, largest = 0;
  for (int e = blockIdx.x + threadIdx.x * C; e < M * L; e += THREADS * C)
    loss += (double)losses[e] * sample_weight[e / L];
  for (int i = blockIdx.x + threadIdx.x * C; i < n; i += THREADS * C) {
    const double size = fabs(steep[i]);
    sum += penalty[i];
    if (size > largest || size != size) largest = size;
  }
  const double slope = dot(gradient, direction, n, C);
  loss = over_block<false>(loss);
  sum = over_block<false>(sum);
  largest = over_block<true>(largest);
  if (threadIdx.x) return;
  facts[blockIdx.x] = loss;
  facts[C + blockIdx.x] = sum;
  facts[2 * C + blockIdx.x] = slope;
  facts[3 * C + blockIdx.x] = largest;
}

// What a problem is told to do: nothing, to take the trial as its new point, or to forget its pairs.
enum { WAIT = 0, ACCEPT = 1, FORGET = 2 };

// The pair (s, y) of an accepted step is remembered unless its curvature is not positive; then the next direction, and in
// facts[2] its slope. pairs[c] counts problem c's; the newest is in slot (pairs - 1) % memory.
extern "C" __global__ void __launch_bounds__(256)
    lbfgs_direction_kernel(double* x, double* gradient, double* direction, double* s, double* y, double* curvature,
                           i64* pairs, double* facts, const double* trial, const double* new_gradient,
                           const int* orders, int memory, int n, int C) {
  __shared__ double weights[MOST_PAIRS];
  const int problem = blockIdx.x, order = orders[problem];
  if (order == WAIT) return;
  const int first = problem + threadIdx.x * C, step = THREADS * C;
  i64 count = order == FORGET ? 0 : pairs[problem];
  if (order == ACCEPT) {
    const i64 slot = count % memory * n;
    for (int i = first; i < n; i += step) {
      s[slot + i] = trial[i] - x[i];
      y[slot + i] = new_gradient[i] - gradient[i];
    }
    const double sy = dot(s + slot, y + slot, n, C), down = -dot(s + slot, gradient, n, C);
    for (int i = first; i < n; i += step) {
      x[i] = trial[i];
      gradient[i] = new_gradient[i];
    }
    if (sy > 2.220446049250313e-16 * down) {  // as in L-BFGS-B (Zhu et al. 1997)
      if (threadIdx.x == 0) curvature[count % memory * C + problem] = sy;
      ++count;
    }
  }
  for (int i = first; i < n; i += step) direction[i] = -gradient[i];
  __syncthreads();  // of curvature
  const i64 oldest = count < memory ? 0 : count - memory;
  for (i64 k = count - 1; k >= oldest; --k) {
    const i64 slot = k % memory;
    const double weight = dot(s + slot * n, direction, n, C) / curvature[slot * C + problem];
    if (threadIdx.x == 0) weights[slot] = weight;
    for (int i = first; i < n; i += step) direction[i] -= weight * y[slot * n + i];
  }
  if (count) {
    const i64 slot = (count - 1) % memory;
    const double scale = curvature[slot * C + problem] / dot(y + slot * n, y + slot * n, n, C);
    for (int i = first; i < n; i += step) direction[i] *= scale;
  }
  for (i64 k = oldest; k < count; ++k) {
    const i64 slot = k % memory;
    const double weight = weights[slot] - dot(y + slot * n, direction, n, C) / curvature[slot * C + problem];
    for (int i = first; i < n; i += step) direction[i] += weight * s[slot * n + i];
  }
  const double slope = dot(gradient, direction, n, C);
  if (threadIdx.x) return;
  pairs[problem] = count;
  facts[2 * C + problem] = slope;
}
