// What is done channel by channel: sums over pixels (or over rows: a row of a matrix is an image of one pixel), and batch
// normalisation. B images of `pixels` pixels of O channels, images ld_... apart.
//
// A thread keeps four neighbouring channels and walks over pixels. `lanes` threads (a power of two) stand side by side
// over the channels, so a warp reads whole lines however few channels there are; blockIdx.x counts groups of channels,
// blockIdx.y shares of `share` pixels.
//
// Sums have a fixed order: a thread's pixels ascending, then the threads by halves, then the shares in their order (by
// add_shares_kernel or merge_shares_kernel). Moments take two passes over a share, mean first: one pass would cancel
// where the mean is large beside the deviation.

enum { ADD = 1 };  // flags, as in tile.cuh

constexpr int THREADS = 256;

struct Walk {
  int channel, n;       // the thread's channels, and how many of the four there are
  int first, end, step; // its pixels, counted through all images
  int lanes, row, rows; // the place of its row of threads among them

  __device__ __forceinline__ Walk(int B, int pixels, int O, int lanes_, int share) {
    lanes = lanes_;
    rows = THREADS / lanes;
    row = threadIdx.x / lanes;
    channel = (blockIdx.x * lanes + threadIdx.x % lanes) * QUAD;
    n = O - channel < QUAD ? O - channel : QUAD;
    first = blockIdx.y * share + row;
    end = (B * pixels - (int)blockIdx.y * share < share ? B * pixels : ((int)blockIdx.y + 1) * share);
    step = rows;
    if (n <= 0) end = 0;
  }
  // Calls body(image, offset of the channels within it); no division within the loop.
  template <class Body>
  __device__ __forceinline__ void each(int pixels, int O, Body body) const {
    if (first >= end) return;
    int image = first / pixels, pixel = first % pixels;
    const int images = step / pixels, more = step % pixels;
    for (int r = first; r < end; r += step) {
      body((i64)image, pixel * O + channel);
      image += images;
      pixel += more;
      if (pixel >= pixels) {
        pixel -= pixels;
        ++image;
      }
    }
  }
  // The sum of q over the rows of threads; every thread gets it.
  __device__ __forceinline__ Quad sum(Quad q) const {
    __shared__ Quad parts[THREADS];
    __syncthreads();  // of the sum before
    parts[threadIdx.x] = q;
    for (int half = rows / 2; half; half /= 2) {
      __syncthreads();
      if (row < half) {
        const Quad other = parts[threadIdx.x + half * lanes];
#pragma unroll
        for (int k = 0; k < QUAD; ++k) parts[threadIdx.x].at[k] += other.at[k];
      }
    }
    __syncthreads();
    return parts[threadIdx.x % lanes];
  }
};

// out[share, o] = sum over a share of the pixels of dy[pixel, o].
extern "C" __global__ void __launch_bounds__(256) channel_sums_kernel(float* out, const float* dy, int B, int pixels,
                                                                      int O, int lanes, int share, int ld_dy,
                                                                      int flags) {
  const Walk walk(B, pixels, O, lanes, share);
  const bool whole = O % QUAD == 0 && aligned(dy, ld_dy);
  Quad sum{};
  walk.each(pixels, O, [&](i64 image, int at) {
    const Quad q = load(dy + image * ld_dy + at, walk.n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] += q.at[k];
  });
  sum = walk.sum(sum);
  if (walk.row || walk.n <= 0) return;
  float* to = out + (i64)blockIdx.y * O + walk.channel;
  if (flags & ADD) {
    const Quad old = load(to, walk.n, false);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] += old.at[k];
  }
  store(to, sum, walk.n, false);
}

// The optimizer's step on biases b[O] with the sums over all pixels of dy[pixel, o] as their gradient.
extern "C" __global__ void __launch_bounds__(256)
    update_bias_kernel(const float* dy, float* b, float* first, float* second, const float* hyper, const i64* cursor,
                       int kind, float beta_1, float rest_1, float beta_2, float rest_2, float epsilon, int B, int O,
                       int lanes, int ld_dy, int ld_hyper) {
  const Walk walk(B, 1, O, lanes, B);
  const bool whole = O % QUAD == 0 && aligned(dy, ld_dy);
  Quad sum{};
  walk.each(1, O, [&](i64 image, int at) {
    const Quad q = load(dy + image * ld_dy + at, walk.n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] += q.at[k];
  });
  sum = walk.sum(sum);
  if (walk.row || walk.n <= 0) return;
  take_step(kind, Weights{b, first, second, 0, 0, 0}, hyper_of(hyper, cursor, ld_hyper),
            Constants{beta_1, rest_1, beta_2, rest_2, epsilon}, sum, 0, walk.channel, walk.n, false);
}

// moments[2 share, o] = the mean over a share of the pixels, moments[2 share + 1, o] = the sum of squared deviations.
extern "C" __global__ void __launch_bounds__(256) batch_moments_kernel(float* moments, const float* x, int B,
                                                                       int pixels, int O, int lanes, int share,
                                                                       int ld_moments, int ld_x) {
  const Walk walk(B, pixels, O, lanes, share);
  const bool whole = O % QUAD == 0 && aligned(x, ld_x);
  Quad sum{};
  walk.each(pixels, O, [&](i64 image, int at) {
    const Quad q = load(x + image * ld_x + at, walk.n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) sum.at[k] += q.at[k];
  });
  Quad mean = walk.sum(sum);
  const float count = walk.end - (int)blockIdx.y * share;
#pragma unroll
  for (int k = 0; k < QUAD; ++k) mean.at[k] /= count;
  Quad squares{};
  walk.each(pixels, O, [&](i64 image, int at) {
    const Quad q = load(x + image * ld_x + at, walk.n, whole);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) squares.at[k] += (q.at[k] - mean.at[k]) * (q.at[k] - mean.at[k]);
  });
  squares = walk.sum(squares);
  if (walk.row || walk.n <= 0) return;
  float* to = moments + (i64)blockIdx.y * 2 * ld_moments + walk.channel;
  store(to, mean, walk.n, false);
  store(to + ld_moments, squares, walk.n, false);
}

// Moments of n_total + n_part pixels from those of both (Chan, Golub & LeVeque 1983).
__device__ __forceinline__ void merge(float& mean, float& squares, float part_mean, float part_squares, float share,
                                      float n_total) {
  const float distance = part_mean - mean;
  squares = squares + part_squares + distance * distance * (share * n_total);
  mean += distance * share;
}

// A thread merges the moments of all shares of one channel, in their order; the last share may be shorter.
extern "C" __global__ void merge_shares_kernel(float* moments, const float* parts, int n, int share, int count, int O,
                                               int ld_moments) {
  const int o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= O) return;
  float mean = parts[o], squares = parts[O + o];
  for (int i = 1; i < n; ++i) {
    const float *part = parts + (i64)2 * i * O + o, done = (float)i * share;
    const float more = i + 1 < n ? share : count - i * share;
    merge(mean, squares, part[0], part[O], more / (done + more), done);
  }
  moments[o] = mean;
  moments[ld_moments + o] = squares;
}
extern "C" __global__ void merge_moments_kernel(float* total, const float* part, float share, float n_total, int O,
                                                int ld_total, int ld_part) {
  const int o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o < O) merge(total[o], total[ld_total + o], part[o], part[ld_part + o], share, n_total);
}

// step = 1 - momentum; divisor = max(n - 1, 1): the unbiased variance.
extern "C" __global__ void moving_moments_kernel(float* mean, float* variance, const float* moments, float step,
                                                 float divisor, int O, int ld_moments) {
  const int o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= O) return;
  mean[o] += step * (moments[o] - mean[o]);
  variance[o] += step * (moments[ld_moments + o] / divisor - variance[o]);
}

__device__ __forceinline__ Quad inverse_deviation(const float* squares, int n_channels, float n, float epsilon) {
  Quad q = load(squares, n_channels, false);
#pragma unroll
  for (int k = 0; k < QUAD; ++k) q.at[k] = 1.0f / sqrtf(q.at[k] / n + epsilon);
  return q;
}

// y = (x - mean) scale + beta.
__device__ __forceinline__ void normalise(const Walk& walk, float* y, const float* x, const Quad& mean,
                                          const Quad& scale, const Quad& beta, int pixels, int O, int ld_y, int ld_x) {
  const bool whole_y = O % QUAD == 0 && aligned(y, ld_y), whole_x = O % QUAD == 0 && aligned(x, ld_x);
  walk.each(pixels, O, [&](i64 image, int at) {
    Quad q = load(x + image * ld_x + at, walk.n, whole_x);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) q.at[k] = (q.at[k] - mean.at[k]) * scale.at[k] + beta.at[k];
    store(y + image * ld_y + at, q, walk.n, whole_y);
  });
}
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_kernel(float* y, const float* x, const float* moments, const float* gamma, const float* beta, float n,
                      float epsilon, int B, int pixels, int O, int lanes, int share, int ld_y, int ld_x,
                      int ld_moments) {
  const Walk walk(B, pixels, O, lanes, share);
  if (walk.n <= 0) return;
  Quad scale = inverse_deviation(moments + ld_moments + walk.channel, walk.n, n, epsilon);
  const Quad by = load(gamma + walk.channel, walk.n, false);
#pragma unroll
  for (int k = 0; k < QUAD; ++k) scale.at[k] *= by.at[k];
  normalise(walk, y, x, load(moments + walk.channel, walk.n, false), scale, load(beta + walk.channel, walk.n, false),
            pixels, O, ld_y, ld_x);
}
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_inference_kernel(float* y, const float* x, const float* gamma, const float* beta, const float* mean,
                                const float* variance, float epsilon, int B, int pixels, int O, int lanes, int share,
                                int ld_y, int ld_x) {
  const Walk walk(B, pixels, O, lanes, share);
  if (walk.n <= 0) return;
  Quad scale = load(gamma + walk.channel, walk.n, false);
  const Quad spread = load(variance + walk.channel, walk.n, false);
#pragma unroll
  for (int k = 0; k < QUAD; ++k) scale.at[k] /= sqrtf(spread.at[k] + epsilon);
  normalise(walk, y, x, load(mean + walk.channel, walk.n, false), scale, load(beta + walk.channel, walk.n, false),
            pixels, O, ld_y, ld_x);
}

// sums[2 share] = sum over a share of dy, sums[2 share + 1] = sum of dy x_hat.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_sums_kernel(float* sums, const float* dy, const float* x, const float* moments, float n, float epsilon,
                           int B, int pixels, int O, int lanes, int share, int ld_sums, int ld_dy, int ld_x,
                           int ld_moments) {
  const Walk walk(B, pixels, O, lanes, share);
  const bool whole_dy = O % QUAD == 0 && aligned(dy, ld_dy), whole_x = O % QUAD == 0 && aligned(x, ld_x);
  Quad plain{}, weighted{}, mean{}, inverse{};
  if (walk.n > 0) {
    mean = load(moments + walk.channel, walk.n, false);
    inverse = inverse_deviation(moments + ld_moments + walk.channel, walk.n, n, epsilon);
  }
  walk.each(pixels, O, [&](i64 image, int at) {
    const Quad d = load(dy + image * ld_dy + at, walk.n, whole_dy), v = load(x + image * ld_x + at, walk.n, whole_x);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      plain.at[k] += d.at[k];
      weighted.at[k] += d.at[k] * ((v.at[k] - mean.at[k]) * inverse.at[k]);
    }
  });
  plain = walk.sum(plain);
  weighted = walk.sum(weighted);
  if (walk.row || walk.n <= 0) return;
  float* to = sums + (i64)blockIdx.y * 2 * ld_sums + walk.channel;
  store(to, plain, walk.n, false);
  store(to + ld_sums, weighted, walk.n, false);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_dx_kernel(float* dx, const float* dy, const float* x, const float* moments, const float* gamma,
                         const float* sums, float n, float epsilon, int B, int pixels, int O, int lanes, int share,
                         int ld_dx, int ld_dy, int ld_x, int ld_moments, int ld_sums) {
  const Walk walk(B, pixels, O, lanes, share);
  if (walk.n <= 0) return;
  const bool quads = O % QUAD == 0, whole_dx = quads && aligned(dx, ld_dx);
  const bool whole_dy = quads && aligned(dy, ld_dy), whole_x = quads && aligned(x, ld_x);
  const Quad mean = load(moments + walk.channel, walk.n, false);
  const Quad inverse = inverse_deviation(moments + ld_moments + walk.channel, walk.n, n, epsilon);
  Quad scale = load(gamma + walk.channel, walk.n, false), plain = load(sums + walk.channel, walk.n, false);
  Quad weighted = load(sums + ld_sums + walk.channel, walk.n, false);
#pragma unroll
  for (int k = 0; k < QUAD; ++k) {
    scale.at[k] *= inverse.at[k];
    plain.at[k] /= n;
    weighted.at[k] /= n;
  }
  walk.each(pixels, O, [&](i64 image, int at) {
    Quad q = load(dy + image * ld_dy + at, walk.n, whole_dy);
    const Quad v = load(x + image * ld_x + at, walk.n, whole_x);
#pragma unroll
    for (int k = 0; k < QUAD; ++k) {
      const float hat = (v.at[k] - mean.at[k]) * inverse.at[k];
      q.at[k] = scale.at[k] * (q.at[k] - plain.at[k] - hat * weighted.at[k]);
    }
    store(dx + image * ld_dx + at, q, walk.n, whole_dx);
  });
}
