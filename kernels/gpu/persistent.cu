// An epoch of a small network of dense layers in one launch: no launch, no graph and no host between two steps.
//
// Block b owns COLUMNS units of the first layer for the whole epoch: their weights and moments stay in its shared memory,
// beside the pixels of this batch and of the next. The layers behind, the "head", are small: their parameters stay in the
// level-2 cache, where each row has one block that updates it. A step has three phases, and the blocks meet twice:
//
//   units      z = x W of the own units, all rows of the batch          -> activations of the first layer
//   (meet; meanwhile the next batch is fetched)
//   rows       the rows b, b + blocks, ... through the head: forward, loss, backward   -> their h and dz of each layer
//   (meet)
//   updates    dz of the own units, from the old weights of the second layer; gradient and update of the own units, of the
//              second layer's rows that they feed, and of the rows b, b + blocks, ... of the later layers
//
// Nothing else needs to wait: what `updates` reads was complete at the second meeting and is written again only after
// the next first one, and the next `units` reads only what the block itself has updated.
//
// Every sum has an order that depends on the network alone: the same bits on any number of blocks, on every run.
//
// What is not the first layer's is compiled once for all kernels of this file, as functions that are called: inlined
// everywhere it would take a minute to compile.

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int ROWS = 4;    // of the batch that a warp multiplies at once: a weight is read once for them
constexpr int HEAD_FLOATS = 40;  // what `Head` takes of shared memory
constexpr int PARTS = 16;  // into which a sum of the head is cut at most: that many threads share one output
enum { IDENTITY, RELU, LEAKY_RELU, ELU, SIGMOID, TANH, GELU };  // in the order of persistent.py
enum { SGD, MOMENTUM, NESTEROV, ADAM };
enum { SOFTMAX, ONE_VS_REST };

// What is to be done, and on which layers, as persistent.py writes it down: 8 bytes a field, the layers behind the job.
struct Job {
  const void* source;
  const int* labels;
  const float* sample_weight;
  const i64* order;
  const float *scale, *hyper_weights, *hyper_biases;  // of each step: 1, 3 and 3 values
  float* losses;
  u8* hits;
  i64* cursor;    // becomes the position and the step behind the epoch's last
  u32* arrivals;  // 0
  i64 rows, batch, features, layers, optimizer, loss;
};
// Matrices have rows of whole quads, their padding is 0.
struct Layer {
  float *w, *w_first, *w_second;  // and the moments that the optimizer keeps
  float *b, *b_first, *b_second;
  float *h, *dz;  // (batch, units), rows padded to quads: outputs, and the gradient of the sums; for other blocks to read
  i64 inputs, units, ld_w, activation, has_bias;
  __device__ __forceinline__ int width() const { return ((int)units + QUAD - 1) / QUAD * QUAD; }
};

struct Constants {
  float pixel_scale, beta_1, rest_1, beta_2, rest_2, epsilon, label_smoothing;  // beta_1: momentum; rest: 1 minus it
};
struct Hyper {
  float step, decay, l2;
};

// What is read here was written by another block in this launch: never from this multiprocessor's own cache.
__device__ __forceinline__ float fresh(const float* p) { return __ldcg(p); }
__device__ __forceinline__ Quad fresh_quad(const float* p) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(p));
  return Quad{{v.x, v.y, v.z, v.w}};
}

// The blocks' meetings. A counter that only grows: meeting n is over when it has reached n times the number of blocks.
// One thread arrives for its block, after a barrier: its fence also releases what the others have written. All blocks
// must be resident at once, which only a cooperative launch guarantees.
__device__ __forceinline__ void add_release(u32* p, u32 v) {
#ifdef __CUSIM__
  cusim_add_release(p, v);
#else
  asm volatile("fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}
__device__ __forceinline__ u32 load_acquire(const u32* p) {
#ifdef __CUSIM__
  return cusim_load_acquire(p);
#else
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
#endif
}
struct Meetings {
  u32* arrivals;
  u32 awaited;
  __device__ __forceinline__ void arrive() {
    __syncthreads();
    if (threadIdx.x == 0) add_release(arrivals, 1);
    awaited += gridDim.x;
  }
  __device__ __forceinline__ void wait() const {
    if (threadIdx.x == 0)
      while ((int)(load_acquire(arrivals) - awaited) < 0) {  // the difference: the counter may overflow
#ifdef __CUSIM__
        cusim_poll();
#endif
      }
    __syncthreads();
  }
};

__device__ __noinline__ float activated(int kind, float z) {
  switch (kind) {
    case RELU: return relu_of(z);
    case LEAKY_RELU: return leaky_relu_of(z);
    case ELU: return elu_of(z);
    case SIGMOID: return sigmoid_of(z);
    case TANH: return tanhf(z);
    case GELU: return gelu_of(z);
    default: return z;
  }
}
__device__ __noinline__ float slope(int kind, float d, float z, float h) {
  switch (kind) {
    case RELU: return relu_slope(d, h);
    case LEAKY_RELU: return leaky_relu_slope(d, h);
    case ELU: return elu_slope(d, h);
    case SIGMOID: return sigmoid_slope(d, h);
    case TANH: return tanh_slope(d, h);
    case GELU: return gelu_slope(d, z);
    default: return d;
  }
}

// The optimizers of optimizers.cu on four neighbouring parameters w with their gradient g and their moments, all on 16
// bytes. Padding stays 0, because its gradient is 0.
__device__ __noinline__ void update(int optimizer, const Constants& rule, const Hyper& hyper, Quad g, float* w,
                                    float* first, float* second) {
  Quad value = load(w, QUAD, true), m, v;
  if (optimizer != SGD) m = load(first, QUAD, true);
  if (optimizer == ADAM) v = load(second, QUAD, true);
#pragma unroll
  for (int k = 0; k < QUAD; ++k) {
    const float old = value.at[k], gradient = g.at[k] + hyper.l2 * old;
    if (optimizer == ADAM) {
      m.at[k] = rule.beta_1 * m.at[k] + rule.rest_1 * gradient;
      v.at[k] = rule.beta_2 * v.at[k] + rule.rest_2 * gradient * gradient;
      value.at[k] = old - (hyper.decay * old + hyper.step * m.at[k] / (sqrtf(v.at[k]) + rule.epsilon));
    } else if (optimizer == SGD) {
      value.at[k] = old - hyper.step * gradient;
    } else {
      const float push = hyper.step * gradient;
      m.at[k] = rule.beta_1 * m.at[k] - push;
      value.at[k] = old + (optimizer == NESTEROV ? rule.beta_1 * m.at[k] - push : m.at[k]);
    }
  }
  store(w, value, QUAD, true);
  if (optimizer != SGD) store(first, m, QUAD, true);
  if (optimizer == ADAM) store(second, v, QUAD, true);
}

// A warp's loss of one row of logits z (C of them), as in losses.cu.
struct Sample {
  int label;
  float weight;
};
// The first of the largest.
__device__ __forceinline__ int largest(const float* z, int C, float& m) {
  const int lane = threadIdx.x % 32;
  m = -__int_as_float(0x7f800000);  // -inf
  for (int c = lane; c < C; c += 32) m = fmaxf(m, z[c]);
  m = max_of_lanes(m, 32);
  int found = 0x7fffffff;
  for (int c = lane; c < C; c += 32)
    if (z[c] == m && c < found) found = c;
  for (int o = 16; o; o /= 2) {
    const int other = __shfl_xor_sync(ALL_LANES, found, o);
    found = other < found ? other : found;
  }
  return found;
}
__device__ __noinline__ float softmax_loss(float* dz, const float* z, int C, Sample sample, float smoothing,
                                           bool& hit) {
  const int lane = threadIdx.x % 32;
  float m, total = 0.0f;
  hit = largest(z, C, m) == sample.label;
  for (int c = lane; c < C; c += 32) total += expf(z[c] - m);
  total = sum_of_lanes(total, 32);
  const float off = smoothing / C, on = 1.0f - smoothing + off, log_total = logf(total);
  float loss = 0.0f;
  for (int c = lane; c < C; c += 32) {
    const float target = c == sample.label ? on : off, shifted = z[c] - m;
    if (target != 0.0f) loss -= target * (shifted - log_total);  // 0 log 0 is 0
    dz[c] = sample.weight * (expf(shifted) / total - target);
  }
  return sum_of_lanes(loss, 32);
}
__device__ __noinline__ float one_vs_rest_loss(float* dz, const float* z, int C, Sample sample, bool& hit) {
  const int lane = threadIdx.x % 32;
  float m;
  hit = largest(z, C, m) == sample.label;
  if (C == 1) hit = (z[0] > 0.0f) == (sample.label == 0);  // one output: the negative class names none
  float loss = 0.0f;
  for (int c = lane; c < C; c += 32) {
    const float v = z[c], target = c == sample.label ? 1.0f : 0.0f, small = expf(-fabsf(v));
    const float probability = v >= 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
    loss += fmaxf(v, 0.0f) - v * target + log1pf(small);
    dz[c] = sample.weight * (probability - target);
  }
  return sum_of_lanes(loss, 32);
}

// The layers behind the first one, and what of the first one is needed for them. One for each block, in shared memory.
struct Head {
  const Layer* layers;  // in shared memory, too
  int n_layers, batch, optimizer, loss;
  Constants constants;
  int first_unit, n_units;     // of the first layer, that this block owns
  float *z, *h, *dz;           // of the own units: [n_units][batch]
  float *row, *partial;        // `rows`: z, h and dz of each layer for one row; parts of its sums
  float *delta, *row_weights;  // `updates`: dz of the second layer [batch][width], and its rows that the own units feed

  // z = h W + b for all units of a layer. A thread sums a share of a quad of units; the shares are added in their order.
  __device__ __forceinline__ void forward_layer(const Layer& layer, float* z, float* h, const float* input) const {
    const int quads = layer.width() / QUAD, groups = quads * PARTS <= THREADS ? PARTS : THREADS / quads;
    const int part = threadIdx.x / quads, quad = threadIdx.x % quads;
    if (part < groups) {
      Quad sum{};
#pragma unroll 8
      for (int k = part; k < (int)layer.inputs; k += groups) {
        const Quad weights = fresh_quad(layer.w + k * layer.ld_w + quad * QUAD);
#pragma unroll
        for (int q = 0; q < QUAD; ++q) sum.at[q] += input[k] * weights.at[q];
      }
      store(partial + (part * quads + quad) * QUAD, sum, QUAD, true);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < (int)layer.units; j += THREADS) {
      float sum = 0.0f;
      for (int p = 0; p < groups; ++p) sum += partial[p * quads * QUAD + j];
      z[j] = sum + fresh(layer.b + j);
      h[j] = activated((int)layer.activation, z[j]);
    }
    __syncthreads();
  }

  // The gradient of the sums of the layer before (`before`: its z and h), from this layer's.
  __device__ __forceinline__ void backward_layer(const Layer& layer, int activation, float* before_dz,
                                                 const float* before_z, const float* before_h, const float* dz) const {
    for (int k = threadIdx.x; k < (int)layer.inputs; k += THREADS) {
      float sum = 0.0f;
#pragma unroll 4
      for (int j = 0; j < layer.width(); j += QUAD) {
        const Quad weights = fresh_quad(layer.w + k * layer.ld_w + j), d = load(dz + j, QUAD, true);
#pragma unroll
        for (int q = 0; q < QUAD; ++q) sum += d.at[q] * weights.at[q];
      }
      before_dz[k] = slope(activation, sum, before_z[k], before_h[k]);
    }
    __syncthreads();
  }

  // Where a layer's z of the current row stands; h and dz follow it.
  __device__ __forceinline__ float* head_of(int l) const {
    float* p = row;
    for (int i = 0; i < l; ++i) p += 3 * layers[i].width();
    return p;
  }

  __device__ __forceinline__ void publish(float* to, const float* from, int width) const {
    for (int j = threadIdx.x; j < width; j += THREADS) to[j] = from[j];
  }

  // One row through the head: forward, loss, backward.
  __device__ __noinline__ void through_head(int r, Sample sample, float* to_loss, u8* to_hit) const {
    const int last = n_layers - 1;
    for (int j = threadIdx.x; j < (int)layers[0].units; j += THREADS) {
      const float h = fresh(layers[0].h + (i64)r * layers[0].width() + j);
      row[j] = row[layers[0].width() + j] = h;  // of one layer these are the logits
    }
    for (int l = 0; l <= last; ++l)  // what pads a row is multiplied, by weights that are 0
      for (int j = (int)layers[l].units + threadIdx.x; j < layers[l].width(); j += THREADS)
        head_of(l)[layers[l].width() + j] = head_of(l)[2 * layers[l].width() + j] = 0.0f;
    __syncthreads();
    for (int l = 1; l <= last; ++l) {
      float* z = head_of(l);
      forward_layer(layers[l], z, z + layers[l].width(), head_of(l - 1) + layers[l - 1].width());
      if (l < last) publish(layers[l].h + (i64)r * layers[l].width(), z + layers[l].width(), layers[l].width());
    }
    float* logits = head_of(last);
    float* dz = logits + 2 * layers[last].width();
    if (threadIdx.x < 32) {
      bool hit;
      const int C = (int)layers[last].units;
      const float value = loss == SOFTMAX ? softmax_loss(dz, logits, C, sample, constants.label_smoothing, hit)
                                          : one_vs_rest_loss(dz, logits, C, sample, hit);
      if (threadIdx.x == 0) {
        *to_loss = value;
        *to_hit = hit;
      }
    }
    __syncthreads();
    publish(layers[last].dz + (i64)r * layers[last].width(), dz, layers[last].width());
    for (int l = last; l > 1; --l) {
      const int width = layers[l].width(), before = layers[l - 1].width();
      float* z = head_of(l - 1);
      backward_layer(layers[l], (int)layers[l - 1].activation, z + 2 * before, z, z + before, head_of(l) + 2 * width);
      publish(layers[l - 1].dz + (i64)r * before, z + 2 * before, before);
    }
    __syncthreads();  // the next row takes the same memory
  }

  // dz of the own units: from the second layer's, or, of one layer, as the rows have left it.
  __device__ __noinline__ void backward_units(int rows) const {
    if (n_layers == 1) {
      const int width = layers[0].width();
      for (int i = threadIdx.x; i < rows * n_units; i += THREADS) {
        const int r = i / n_units, c = i % n_units;
        dz[c * batch + r] = fresh(layers[0].dz + (i64)r * width + first_unit + c);
      }
      __syncthreads();
      return;
    }
    const Layer& next = layers[1];
    const int width = next.width(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 4
    for (int i = threadIdx.x * QUAD; i < rows * width; i += THREADS * QUAD)
      store(delta + i, fresh_quad(next.dz + i), QUAD, true);
    for (int i = threadIdx.x * QUAD; i < n_units * width; i += THREADS * QUAD)
      store(row_weights + i, fresh_quad(next.w + (first_unit + i / width) * next.ld_w + i % width), QUAD, true);
    __syncthreads();
    for (int r = warp; r < rows; r += WARPS)
      for (int c = 0; c < n_units; ++c) {
        float sum = 0.0f;
        for (int j = lane; j < (int)next.units; j += 32)
          sum += delta[r * width + j] * row_weights[c * width + j];
        sum = sum_of_lanes(sum, 32);
        const int at = c * batch + r;
        if (lane == 0) dz[at] = slope((int)layers[0].activation, sum, z[at], h[at]);
      }
    __syncthreads();
  }

  // The parameters of the head that this block owns.
  __device__ __noinline__ void update_head(int rows, const Hyper& weights, const Hyper& biases) const {
    for (int l = 1; l < n_layers; ++l) {
      const Layer& layer = layers[l];
      const int width = layer.width(), quads = width / QUAD, before = layers[l - 1].width();
      const int step = l == 1 ? 1 : gridDim.x, begin = l == 1 ? first_unit : blockIdx.x,
                end = l == 1 ? first_unit + n_units : (int)layer.inputs, owned = (end - begin + step - 1) / step;
      for (int i = threadIdx.x; i < owned * quads; i += THREADS) {
        const int k = begin + i / quads * step, j = i % quads * QUAD;
        Quad sum{};
#pragma unroll 8
        for (int r = 0; r < rows; ++r) {
          const float input = l == 1 ? h[(k - first_unit) * batch + r] : fresh(layers[l - 1].h + r * before + k);
          const Quad d = l == 1 ? load(delta + r * width + j, QUAD, true) : fresh_quad(layer.dz + r * width + j);
#pragma unroll
          for (int q = 0; q < QUAD; ++q) sum.at[q] += input * d.at[q];
        }
        const i64 at = k * layer.ld_w + j;
        update(optimizer, constants, weights, sum, layer.w + at, layer.w_first + at, layer.w_second + at);
      }
      if (layer.has_bias && (int)blockIdx.x == l % (int)gridDim.x)
        for (int j = threadIdx.x * QUAD; j < width; j += THREADS * QUAD) {
          Quad sum{};
#pragma unroll 8
          for (int r = 0; r < rows; ++r) {
            const Quad d = fresh_quad(layer.dz + r * width + j);
#pragma unroll
            for (int q = 0; q < QUAD; ++q) sum.at[q] += d.at[q];
          }
          update(optimizer, constants, biases, sum, layer.b + j, layer.b_first + j, layer.b_second + j);
        }
    }
  }
};
static_assert(sizeof(Head) <= HEAD_FLOATS * sizeof(float), "see HEAD_FLOATS");

// Pixels: bytes are multiplied as whole numbers and the scale is put on the finished sum; a product of two floats might
// overflow before it is scaled.
__device__ __forceinline__ Quad pixels(const u8* p, float) {
  const uchar4 v = *reinterpret_cast<const uchar4*>(p);
  return Quad{{(float)v.x, (float)v.y, (float)v.z, (float)v.w}};
}
__device__ __forceinline__ Quad pixels(const float* p, float scale) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  return Quad{{v.x * scale, v.y * scale, v.z * scale, v.w * scale}};
}
__device__ __forceinline__ float scale_of_sums(const u8*, float scale) { return scale; }
__device__ __forceinline__ float scale_of_sums(const float*, float) { return 1.0f; }

// Copies the rows of a batch into shared memory, in words of 16 bytes where they allow it. What lies behind a row is 0.
template <class Pixel>
__device__ __noinline__ void fetch(Pixel* to, const Pixel* source, const i64* order, int rows, int features, int ld) {
  constexpr int EACH = 16 / sizeof(Pixel);
  if (features % EACH == 0 && ((size_t)source & 15) == 0) {
    const int words = ld / EACH;
#pragma unroll 4
    for (int i = threadIdx.x; i < rows * words; i += THREADS) {
      const Pixel* from = source + order[i / words] * features + i % words * EACH;
      reinterpret_cast<uint4*>(to)[i] = *reinterpret_cast<const uint4*>(from);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * ld; i += THREADS) {
      const int k = i % ld;
      to[i] = k < features ? source[order[i / ld] * features + k] : (Pixel)0;
    }
  }
}

// The first layer's units of this block: COLUMNS of them, those beyond the layer's last are 0.
template <class Pixel, int COLUMNS>
struct Units {
  static_assert(COLUMNS <= QUAD, "biases are one quad");
  Pixel* batches[2];
  float* moments[3];  // the weights themselves and their moments: [COLUMNS][ld_k]
  float* biases[3];   // likewise: one quad each
  int ld_x, ld_k, features, n_moments;

  __device__ __forceinline__ void forward(const Head& head, const Pixel* x, int rows) const {
    const Layer& layer = head.layers[0];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, width = layer.width();
    const float scale = head.constants.pixel_scale, sums = scale_of_sums(x, scale);
    for (int r0 = warp * ROWS; r0 < rows; r0 += WARPS * ROWS) {
      float sum[ROWS][COLUMNS] = {};
      for (int k = lane * QUAD; k < ld_k; k += 32 * QUAD) {
        Quad weights[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) weights[c] = load(moments[0] + c * ld_k + k, QUAD, true);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const int r = r0 + i < rows ? r0 + i : rows - 1;
          const Quad p = pixels(x + r * ld_x + k, scale);
#pragma unroll
          for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
            for (int q = 0; q < QUAD; ++q) sum[i][c] += p.at[q] * weights[c].at[q];
        }
      }
      float mine = 0.0f;
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          const float total = sum_of_lanes(sum[i][c], 32);
          if (lane == i * COLUMNS + c) mine = total;
        }
      const int r = r0 + lane / COLUMNS, c = lane % COLUMNS;
      if (lane < ROWS * COLUMNS && r < rows && c < head.n_units) {
        const float z = mine * sums + biases[0][c], h = activated((int)layer.activation, z);
        head.z[c * head.batch + r] = z;
        head.h[c * head.batch + r] = h;
        layer.h[r * width + head.first_unit + c] = h;
      }
    }
  }

  __device__ __forceinline__ void update_all(const Head& head, const Pixel* x, int rows, const Hyper& of_weights,
                                             const Hyper& of_biases) const {
    const float scale = head.constants.pixel_scale, sums = scale_of_sums(x, scale);
    for (int k = threadIdx.x * QUAD; k < ld_k; k += THREADS * QUAD) {
      Quad sum[COLUMNS] = {};
#pragma unroll 4
      for (int r = 0; r < rows; ++r) {
        const Quad p = pixels(x + r * ld_x + k, scale);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          const float d = head.dz[c * head.batch + r];
#pragma unroll
          for (int q = 0; q < QUAD; ++q) sum[c].at[q] += p.at[q] * d;
        }
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
        for (int q = 0; q < QUAD; ++q) sum[c].at[q] *= sums;
        const int at = c * ld_k + k;
        update(head.optimizer, head.constants, of_weights, sum[c], moments[0] + at, moments[1] + at, moments[2] + at);
      }
    }
    if (threadIdx.x == THREADS - 1 && head.layers[0].has_bias) {  // the last warp has the fewest weights
      Quad sum{};
      for (int c = 0; c < COLUMNS; ++c)
        for (int r = 0; r < rows; ++r) sum.at[c] += head.dz[c * head.batch + r];
      update(head.optimizer, head.constants, of_biases, sum, biases[0], biases[1], biases[2]);
    }
  }

  // Between the layer's own matrix and shared memory.
  template <bool BACK>
  __device__ __forceinline__ void move(const Head& head) const {
    const Layer& layer = head.layers[0];
#pragma unroll 1  // once an epoch
    for (int m = 0; m <= n_moments; ++m) {
      float* const w = m == 0 ? layer.w : m == 1 ? layer.w_first : layer.w_second;
      float* const b = m == 0 ? layer.b : m == 1 ? layer.b_first : layer.b_second;
#pragma unroll 1
      for (int i = threadIdx.x; i < COLUMNS * ld_k; i += THREADS) {
        const int k = i / COLUMNS, c = i % COLUMNS;
        const bool there = k < features && c < head.n_units;
        float* at = w + k * layer.ld_w + head.first_unit + c;
        if (BACK && there) *at = moments[m][c * ld_k + k];
        if (!BACK) moments[m][c * ld_k + k] = there ? *at : 0.0f;
      }
      const int c = threadIdx.x;
      if (BACK && c < head.n_units) b[head.first_unit + c] = biases[m][c];
      if (!BACK && c < QUAD) biases[m][c] = c < head.n_units ? b[head.first_unit + c] : 0.0f;
    }
  }
};

template <class Pixel, int COLUMNS>
__device__ __forceinline__ void run_epoch(const i64* table, const float* constants) {
  extern __shared__ __align__(16) float memory[];
  const Job job = *reinterpret_cast<const Job*>(table);
  const int n_layers = (int)job.layers, batch = (int)job.batch;

  // What lies where in the shared memory; persistent.py computes its size likewise.
  float* p = memory;
  const auto take = [&](int floats) {
    float* taken = p;
    p += (floats + QUAD - 1) / QUAD * QUAD;
    return taken;
  };
  constexpr int EACH = 16 / sizeof(Pixel), WORDS = sizeof(Layer) / sizeof(i64);
  Head& head = *reinterpret_cast<Head*>(take(HEAD_FLOATS));
  i64* layers = reinterpret_cast<i64*>(take(2 * WORDS * n_layers));
  for (int i = threadIdx.x; i < WORDS * n_layers; i += THREADS) layers[i] = table[sizeof(Job) / sizeof(i64) + i];
  Units<Pixel, COLUMNS> units;
  units.features = (int)job.features;
  units.ld_k = (units.features + QUAD - 1) / QUAD * QUAD;
  units.ld_x = (units.features + EACH - 1) / EACH * EACH;
  units.n_moments = job.optimizer == ADAM ? 2 : job.optimizer == SGD ? 0 : 1;
  const int batch_floats = batch * units.ld_x * (int)sizeof(Pixel) / (int)sizeof(float);
  for (auto& rows : units.batches) rows = reinterpret_cast<Pixel*>(take(batch_floats));
  for (int m = 0; m < 3; ++m) {
    units.moments[m] = m <= units.n_moments ? take(COLUMNS * units.ld_k) : units.moments[0];
    units.biases[m] = take(QUAD);
  }
  __syncthreads();
  // A grid that was cut has units without a block: nothing is done, and the host finds the cursor where it was.
  if ((i64)gridDim.x * COLUMNS < reinterpret_cast<const Layer*>(layers)->units) return;
  if (threadIdx.x == 0) {
    head.layers = reinterpret_cast<const Layer*>(layers);
    head.n_layers = n_layers;
    head.batch = batch;
    head.optimizer = (int)job.optimizer;
    head.loss = (int)job.loss;
    head.constants = *reinterpret_cast<const Constants*>(constants);
    head.first_unit = blockIdx.x * COLUMNS;
    const int left = (int)head.layers[0].units - head.first_unit;
    head.n_units = left < COLUMNS ? left : COLUMNS;
    head.z = take(COLUMNS * batch);
    head.h = take(COLUMNS * batch);
    head.dz = take(COLUMNS * batch);
    head.row = head.delta = p;  // of `rows` and of `updates`, never at once
    head.partial = head.head_of(n_layers);
    head.row_weights = n_layers > 1 ? p + batch * head.layers[1].width() : p;
    for (int i = 0; i < COLUMNS * batch; ++i) head.dz[i] = 0.0f;  // of units beyond the last it stays so
  }
  __syncthreads();

  units.template move<false>(head);
  const Pixel* source = static_cast<const Pixel*>(job.source);
  const i64 steps = (job.rows + batch - 1) / batch;
  const auto fetch_batch = [&](i64 step) {
    const i64 first = step * batch, left = job.rows - first;
    const int rows = left < batch ? (int)left : batch;
    fetch(units.batches[step % 2], source, job.order + first, rows, units.features, units.ld_x);
    return rows;
  };
  const auto sample_at = [&](i64 position) {
    const i64 row = job.order[position];
    return Sample{job.labels[row], job.sample_weight[row] * job.scale[position / batch]};
  };

  Meetings meetings{job.arrivals, 0};
  int rows = fetch_batch(0), next_rows = 0;
  __syncthreads();
  for (i64 step = 0; step < steps; ++step, rows = next_rows) {
    const Pixel* x = units.batches[step % 2];
    units.forward(head, x, rows);
    meetings.arrive();
    // What needs no other block is read while they are waited for.
    if (step + 1 < steps) next_rows = fetch_batch(step + 1);
    int r = blockIdx.x;
    i64 position = step * batch + r;
    Sample sample{};
    if (r < rows) sample = sample_at(position);
    meetings.wait();
    while (r < rows) {
      head.through_head(r, sample, job.losses + position, job.hits + position);
      r += gridDim.x;
      position += gridDim.x;
      if (r < rows) sample = sample_at(position);
    }
    meetings.arrive();
    const float *w = job.hyper_weights + 3 * step, *b = job.hyper_biases + 3 * step;
    const Hyper of_weights{w[0], w[1], w[2]}, of_biases{b[0], b[1], b[2]};
    meetings.wait();
    head.backward_units(rows);
    units.update_all(head, x, rows, of_weights, of_biases);
    head.update_head(rows, of_weights, of_biases);
    __syncthreads();
  }
  units.template move<true>(head);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    job.cursor[0] = job.rows;
    job.cursor[1] = steps;
  }
}

extern "C" __global__ void __launch_bounds__(256, 1) persistent_uint8_2_kernel(const i64* job, const float* constants) {
  run_epoch<u8, 2>(job, constants);
}
extern "C" __global__ void __launch_bounds__(256, 1) persistent_uint8_4_kernel(const i64* job, const float* constants) {
  run_epoch<u8, 4>(job, constants);
}
extern "C" __global__ void __launch_bounds__(256, 1) persistent_float32_2_kernel(const i64* job, const float* constants) {
  run_epoch<float, 2>(job, constants);
}
extern "C" __global__ void __launch_bounds__(256, 1) persistent_float32_4_kernel(const i64* job, const float* constants) {
  run_epoch<float, 4>(job, constants);
}
