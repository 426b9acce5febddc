// Losses: logits z (B rows of C classes) to loss, hit and gradient in one pass; and softmax.
//
// A row belongs to a group of 8, 16 or 32 lanes of a warp, so that ten classes do not leave two thirds of a warp idle.
// The lanes walk the row, and sum by shuffles in a fixed order. All lanes of a warp shuffle, also those of rows beyond
// the last.

constexpr int NO_CLASS = 0x7fffffff;

// The row of this group of lanes, and where its logits and what it belongs to are.
struct Row {
  int lanes, lane, r;
  bool valid;
  const float* z;
};
__device__ __forceinline__ Row my_row(const float* z, int B, int C, int ld_z) {
  Row row;
  row.lanes = C <= 8 ? 8 : C <= 16 ? 16 : 32;
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  row.r = thread / row.lanes;
  row.lane = thread % row.lanes;
  row.valid = row.r < B;
  row.z = z + (row.valid ? (i64)row.r * ld_z : 0);
  return row;
}

__device__ __forceinline__ float largest(const Row& row, int C) {
  float m = -__int_as_float(0x7f800000);  // -inf
  if (row.valid)
    for (int c = row.lane; c < C; c += row.lanes) m = fmaxf(m, row.z[c]);
  return max_of_lanes(m, row.lanes);
}

__device__ __forceinline__ float sum_of_exponentials(const Row& row, int C, float shift) {
  float s = 0.0f;
  if (row.valid)
    for (int c = row.lane; c < C; c += row.lanes) s += expf(row.z[c] - shift);
  return sum_of_lanes(s, row.lanes);
}

// The first class whose logit is m.
__device__ __forceinline__ int first_of(const Row& row, int C, float m) {
  int found = NO_CLASS;
  if (row.valid)
    for (int c = row.lane; c < C; c += row.lanes)
      if (row.z[c] == m && c < found) found = c;
  for (int o = row.lanes / 2; o; o /= 2) {
    const int other = __shfl_xor_sync(ALL_LANES, found, o);
    found = other < found ? other : found;
  }
  return found;
}

// Shifted by the row's maximum expf can't overflow, and one summand is 1.
extern "C" __global__ void softmax_kernel(float* p, const float* z, int B, int C, int ld_p, int ld_z) {
  const Row row = my_row(z, B, C, ld_z);
  const float m = largest(row, C), total = sum_of_exponentials(row, C, m);
  if (!row.valid) return;
  for (int c = row.lane; c < C; c += row.lanes) p[(i64)row.r * ld_p + c] = expf(row.z[c] - m) / total;
}

extern "C" __global__ void softmax_cross_entropy_kernel(float* dz, float* losses, u8* hits, const float* z,
                                                        const int* labels, const float* sample_weight, const i64* order,
                                                        const float* scale, const i64* cursor, float label_smoothing,
                                                        int B, int C, int ld_dz, int ld_z) {
  const Row row = my_row(z, B, C, ld_z);
  const float m = largest(row, C), total = sum_of_exponentials(row, C, m), log_total = logf(total);
  const int predicted = first_of(row, C, m);
  const i64 position = cursor[0] + (row.valid ? row.r : 0), sample = row.valid ? order[position] : 0;
  const int label = row.valid ? labels[sample] : 0;
  const float off = label_smoothing / C, on = 1.0f - label_smoothing + off;
  const float weight = row.valid ? sample_weight[sample] * scale[cursor[1]] : 0.0f;
  float loss = 0.0f;
  if (row.valid)
    for (int c = row.lane; c < C; c += row.lanes) {
      const float target = c == label ? on : off, shifted = row.z[c] - m;
      if (target != 0.0f) loss -= target * (shifted - log_total);  // 0 log 0 is 0
      dz[(i64)row.r * ld_dz + c] = weight * (expf(shifted) / total - target);
    }
  loss = sum_of_lanes(loss, row.lanes);
  if (row.valid && row.lane == 0) {
    losses[position] = loss;
    hits[position] = predicted == label;
  }
}

// One-vs-rest: each output's cross-entropy max(z, 0) - z t + log(1 + exp(-|z|)), t = (label == output): no logarithm of
// a rounded 0. BY_CLASS: losses has a row of C values for each sample, else their sum.
template <bool BY_CLASS>
__device__ __forceinline__ void one_vs_rest(float* dz, float* losses, u8* hits, const float* z, const int* labels,
                                            const float* sample_weight, const i64* order, const float* scale,
                                            const i64* cursor, int B, int C, int ld_dz, int ld_losses, int ld_z) {
  const Row row = my_row(z, B, C, ld_z);
  const int predicted = first_of(row, C, largest(row, C));
  const i64 position = cursor[0] + (row.valid ? row.r : 0), sample = row.valid ? order[position] : 0;
  const int label = row.valid ? labels[sample] : 0;
  const float weight = row.valid ? sample_weight[sample] * scale[cursor[1]] : 0.0f;
  float sum = 0.0f;
  if (row.valid)
    for (int c = row.lane; c < C; c += row.lanes) {
      const float v = row.z[c], target = c == label ? 1.0f : 0.0f, small = expf(-fabsf(v));
      const float probability = v >= 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
      const float loss = fmaxf(v, 0.0f) - v * target + log1pf(small);
      if (BY_CLASS) losses[position * ld_losses + c] = loss;
      sum += loss;
      dz[(i64)row.r * ld_dz + c] = weight * (probability - target);
    }
  sum = sum_of_lanes(sum, row.lanes);
  if (row.valid && row.lane == 0) {
    if (!BY_CLASS) losses[position] = sum;
    hits[position] = C == 1 ? (row.z[0] > 0.0f) == (label == 0) : predicted == label;
  }
}

extern "C" __global__ void binary_cross_entropy_kernel(float* dz, float* losses, u8* hits, const float* z,
                                                       const int* labels, const float* sample_weight, const i64* order,
                                                       const float* scale, const i64* cursor, int B, int C, int ld_dz,
                                                       int ld_z) {
  one_vs_rest<false>(dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, ld_dz, 1, ld_z);
}
extern "C" __global__ void binary_cross_entropy_by_class_kernel(float* dz, float* losses, u8* hits, const float* z,
                                                                const int* labels, const float* sample_weight,
                                                                const i64* order, const float* scale, const i64* cursor,
                                                                int B, int C, int ld_dz, int ld_losses, int ld_z) {
  one_vs_rest<true>(dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, ld_dz, ld_losses, ld_z);
}
