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

// --- cooperative launches: block b writes y[b], and reads what its neighbour has written
__device__ void arrive(unsigned* arrivals) {
  __syncthreads();
  if (threadIdx.x == 0) cusim_add_release(arrivals, 1);
}
__device__ void wait(const unsigned* arrivals, unsigned awaited) {
  if (threadIdx.x == 0)
    while (cusim_load_acquire(arrivals) < awaited) cusim_poll();
  __syncthreads();
}
__device__ int mine() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ int neighbours() { return (mine() + blockDim.x) % (gridDim.x * blockDim.x); }

extern "C" __global__ void relay(float* z, float* y, unsigned* arrivals) {
  extern __shared__ float kept[];
  __shared__ float also_kept[1024];
  kept[threadIdx.x] = also_kept[threadIdx.x] = (float)mine();
  y[mine()] = (float)mine();
  arrive(arrivals);
  wait(arrivals, gridDim.x);
  z[mine()] = y[neighbours()] + kept[threadIdx.x] - also_kept[threadIdx.x];
  arrive(arrivals);
  wait(arrivals, 2 * gridDim.x);
  y[mine()] = -1.0f;  // everybody has read it
}
extern "C" __global__ void relay_without_meeting(float* z, float* y, unsigned*) {
  y[mine()] = (float)mine();
  z[mine()] = y[neighbours()];
}
extern "C" __global__ void relay_that_reads_before_it_waits(float* z, float* y, unsigned* arrivals) {
  y[mine()] = (float)mine();
  arrive(arrivals);
  z[mine()] = y[neighbours()];
  wait(arrivals, gridDim.x);
}
extern "C" __global__ void relay_without_second_meeting(float* z, float* y, unsigned* arrivals) {
  y[mine()] = (float)mine();
  arrive(arrivals);
  wait(arrivals, gridDim.x);
  z[mine()] = y[neighbours()];
  y[mine()] = -1.0f;  // the neighbour may not have read it yet
}
extern "C" __global__ void relay_that_arrives_before_all_have_written(float* z, float* y, unsigned* arrivals) {
  if (threadIdx.x == 0) cusim_add_release(arrivals, 1);
  y[mine()] = (float)mine();
  wait(arrivals, gridDim.x);
  z[mine()] = y[neighbours()];
}
extern "C" __global__ void relay_with_plain_counter(float* z, float* y, unsigned* arrivals) {
  y[mine()] = (float)mine();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(arrivals, 1u);  // counts, but releases nothing
  wait(arrivals, gridDim.x);
  z[mine()] = y[neighbours()];
}
extern "C" __global__ void waits_for_one_too_many(float* z, float* y, unsigned* arrivals) {
  arrive(arrivals);
  wait(arrivals, gridDim.x + 1);
  z[mine()] = y[mine()];
}
extern "C" __global__ void waits_for_blocks_that_have_left(float* z, float* y, unsigned* arrivals) {
  if (blockIdx.x % 2) return;
  arrive(arrivals);
  wait(arrivals, gridDim.x);
  z[mine()] = y[mine()];
}
