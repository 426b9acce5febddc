// Kernels that are wrong on purpose, each with the mistake that its name tells, and their right twins.

extern "C" __global__ void reverse_without_barrier(float* y, const float* x, int n) {
  __shared__ float block[64];
  block[threadIdx.x] = x[threadIdx.x];
  if ((int)threadIdx.x < n) y[threadIdx.x] = block[63 - threadIdx.x];
}
extern "C" __global__ void reverse(float* y, const float* x, int n) {
  __shared__ float block[64];
  block[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if ((int)threadIdx.x < n) y[threadIdx.x] = block[63 - threadIdx.x];
}

extern "C" __global__ void barrier_for_some(float* y, int n) {
  if ((int)threadIdx.x < n) __syncthreads();
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void two_barriers_at_once(float* y) {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void half_a_warp_shuffles(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
extern "C" __global__ void shared_never_written(float* y) {
  __shared__ float block[64];
  if (threadIdx.x < 32) block[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = block[threadIdx.x];
}

extern "C" __global__ void sum_without_atomic(float* total, const float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) *total += x[i];
}
extern "C" __global__ void sum(float* total, const float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(total, x[i]);
}
extern "C" __global__ void shift_in_place(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i + 1 < n) x[i] = x[i + 1];
}
extern "C" __global__ void across_warps_with_warp_barrier(float* y) {
  __shared__ float block[64];
  block[threadIdx.x] = (float)threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = block[threadIdx.x ^ 32];
}
extern "C" __global__ void within_warp_with_warp_barrier(float* y) {
  __shared__ float block[64];
  block[threadIdx.x] = (float)threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = block[threadIdx.x ^ 1];
}
extern "C" __global__ void bytes_side_by_side(unsigned char* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = (unsigned char)i;
}

extern "C" __global__ void last_block_wins(float* y) { y[0] = (float)blockIdx.x; }

extern "C" __global__ void one_element_too_far(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) x[i] = 1.0f;
}
extern "C" __global__ void shared_too_far(float* y, int n) {
  __shared__ float block[32];
  for (int i = 0; i < n; ++i) block[i] = 1.0f;
  y[0] = block[0];
}
extern "C" __global__ void misaligned_vector(float* y, const float* x, int offset) {
  const float4 v = *reinterpret_cast<const float4*>(x + offset);
  y[0] = v.x;
}

extern "C" __global__ void dynamic_reverse(float* y, const float* x, int n) {
  extern __shared__ float block[];
  block[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = block[n - 1 - threadIdx.x];
}
