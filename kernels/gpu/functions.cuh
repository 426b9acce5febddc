// Activations of one element and their derivatives. Comparisons are written so that NaN stays NaN (fmaxf would lose it).
//
// `..._slope(d, kept)` is d times the derivative; kept is the activation's output, of gelu its input.

__device__ __forceinline__ float relu_of(float v) { return v < 0.0f ? 0.0f : v; }
__device__ __forceinline__ float relu_slope(float d, float y) { return y > 0.0f ? d : 0.0f; }

__device__ __forceinline__ float leaky_relu_of(float v) { return v > 0.0f ? v : 0.01f * v; }
__device__ __forceinline__ float leaky_relu_slope(float d, float y) { return y > 0.0f ? d : 0.01f * d; }

__device__ __forceinline__ float elu_of(float v) { return v > 0.0f ? v : expm1f(v); }
__device__ __forceinline__ float elu_slope(float d, float y) { return y > 0.0f ? d : d * (y + 1.0f); }

__device__ __forceinline__ float sigmoid_of(float v) {
  const float small = expf(-fabsf(v));  // never above 1: expf(-v) itself overflows for v < -88
  return v >= 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
}
__device__ __forceinline__ float sigmoid_slope(float d, float y) { return d * y * (1.0f - y); }

__device__ __forceinline__ float tanh_slope(float d, float y) { return d * (1.0f - y * y); }

// Phi(v) = erfc(-v / sqrt 2) / 2, which does not cancel for v << 0 as (1 + erf(v / sqrt 2)) / 2 would.
__device__ __forceinline__ float normal_distribution(float v) { return erfcf(-v / 1.41421356f) * 0.5f; }
__device__ __forceinline__ float gelu_of(float v) { return v * normal_distribution(v); }
__device__ __forceinline__ float gelu_slope(float d, float x) {
  const float density = expf(-0.5f * x * x) * 0.398942280f;  // 1 / sqrt(2 pi)
  return d * (normal_distribution(x) + x * density);
}
