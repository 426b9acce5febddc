// What the host would otherwise download all of: probabilities to labels, to a loss and a number of hits; labels to
// classes; rows to their range. No ops of a program.

constexpr int MOST_CLASSES = 4096;  // labels 0 .. 4095 are told apart on the device

__device__ __forceinline__ bool finite(float v) { return fabsf(v) < __int_as_float(0x7f800000); }

// The label that outputs p[C] stand for: the first largest; of a single one 0 (yes, above the threshold: 0.5 of
// probabilities, 0 of logits) or 1 (no).
__device__ __forceinline__ int label_of(const float* p, int C, float threshold) {
  if (C == 1) return p[0] > threshold ? 0 : 1;
  int best = 0;
  for (int c = 1; c < C; ++c)
    if (p[c] > p[best]) best = c;
  return best;
}
__device__ __forceinline__ bool all_finite(const float* p, int C) {
  for (int c = 0; c < C; ++c)
    if (!finite(p[c])) return false;
  return true;
}

// -1 for a row that holds something that is no finite number.
extern "C" __global__ void predict_labels_kernel(int* labels, const float* p, float threshold, int B, int C,
                                                int ld_p) {
  const int stride = gridDim.x * blockDim.x;
  for (int r = blockIdx.x * blockDim.x + threadIdx.x; r < B; r += stride) {
    const float* row = p + (i64)r * ld_p;
    labels[r] = all_finite(row, C) ? label_of(row, C, threshold) : -1;
  }
}

// Logarithm of a probability, bounded as in scikit-learn: what was rounded to 0 costs -log(eps), not infinity.
__device__ __forceinline__ double bounded_log(float p) { return log((double)fmaxf(p, 1.1920929e-07f)); }

// totals += weights, weighted cross-entropies, weighted hits, and the number of rows that are no finite numbers. One
// block, so that the order of the sums is fixed. A label of none of the outputs: of one output the negative class; of
// several a class that the model does not know, which is a miss.
extern "C" __global__ void __launch_bounds__(256)
    judge_kernel(double* totals, const float* p, const int* labels, const float* sample_weight, float threshold,
                 int one_vs_rest, int B, int C, int ld_p) {
  double weight = 0, loss = 0, hits = 0, bad = 0;
  for (int r = threadIdx.x; r < B; r += THREADS) {
    const float* row = p + (i64)r * ld_p;
    const int label = labels[r];
    const double w = sample_weight ? sample_weight[r] : 1.0f;
    double cost = 0;
    if (one_vs_rest)
      for (int c = 0; c < C; ++c) cost -= bounded_log(c == label ? row[c] : 1.0f - row[c]);
    else
      cost = -bounded_log(0 <= label && label < C ? row[label] : 0.0f);
    weight += w;
    loss += w * cost;
    hits += label_of(row, C, threshold) == label ? w : 0.0;
    bad += all_finite(row, C) ? 0 : 1;
  }
  weight = over_block<false>(weight);
  loss = over_block<false>(loss);
  hits = over_block<false>(hits);
  bad = over_block<false>(bad);
  if (threadIdx.x) return;
  totals[0] += weight;
  totals[1] += loss;
  totals[2] += hits;
  totals[3] += bad;
}

// Of each block's share of x[n]: parts[block] = minus the smallest value, the largest, the number of those that are not
// finite. A block reads a piece of its own, so that the result does not depend on the order of blocks.
template <class T>
__device__ __forceinline__ void survey(double* parts, const T* x, i64 n) {
  const double none = -1.7976931348623157e308;
  double least = none, largest = none, bad = 0;
  const i64 share = (n + gridDim.x - 1) / gridDim.x, first = blockIdx.x * share;
  const i64 end = first + share < n ? first + share : n;
  for (i64 i = first + threadIdx.x; i < end; i += THREADS) {
    const float v = (float)x[i];
    if (!finite(v)) {
      bad += 1;
      continue;
    }
    if (-v > least) least = -v;
    if (v > largest) largest = v;
  }
  least = over_block<true>(least);
  largest = over_block<true>(largest);
  bad = over_block<false>(bad);
  if (threadIdx.x) return;
  parts[3 * blockIdx.x] = least;
  parts[3 * blockIdx.x + 1] = largest;
  parts[3 * blockIdx.x + 2] = bad;
}
extern "C" __global__ void __launch_bounds__(256) survey_uint8_kernel(double* parts, const u8* x, i64 n) {
  survey(parts, x, n);
}
extern "C" __global__ void __launch_bounds__(256) survey_float32_kernel(double* parts, const float* x, i64 n) {
  survey(parts, x, n);
}

// present[y] = 1 for every label y[n] from 0 to MOST_CLASSES - 1, present[MOST_CLASSES] = 1 if there is another one.
template <class T>
__device__ __forceinline__ void find_classes(int* present, const T* y, i64 n) {
  const i64 stride = gridDim.x * blockDim.x;
  for (i64 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
    atomicMax(&present[0 <= y[i] && y[i] < MOST_CLASSES ? (int)y[i] : MOST_CLASSES], 1);
}
extern "C" __global__ void find_classes_uint8_kernel(int* present, const u8* y, i64 n) { find_classes(present, y, n); }
extern "C" __global__ void find_classes_int32_kernel(int* present, const int* y, i64 n) { find_classes(present, y, n); }
extern "C" __global__ void find_classes_int64_kernel(int* present, const i64* y, i64 n) { find_classes(present, y, n); }

// labels = output_of[y]; -2 for a label out of range.
template <class T>
__device__ __forceinline__ void encode_labels(int* labels, const T* y, const int* output_of, i64 n) {
  const i64 stride = gridDim.x * blockDim.x;
  for (i64 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
    labels[i] = 0 <= y[i] && y[i] < MOST_CLASSES ? output_of[y[i]] : -2;
}
extern "C" __global__ void encode_labels_uint8_kernel(int* labels, const u8* y, const int* output_of, i64 n) {
  encode_labels(labels, y, output_of, n);
}
extern "C" __global__ void encode_labels_int32_kernel(int* labels, const int* y, const int* output_of, i64 n) {
  encode_labels(labels, y, output_of, n);
}
extern "C" __global__ void encode_labels_int64_kernel(int* labels, const i64* y, const int* output_of, i64 n) {
  encode_labels(labels, y, output_of, n);
}
