// Convolutions as products that read images where they lie, for any shape of tile: the operands here say where an
// element lies; convolution.cu and tensor_convolution.cu have the kernels.
//
// An image is a row of a matrix: pixel by pixel, the channels of a pixel side by side (height, width, channels). A
// filter is a column of w[K,O], K = (i, j, c). P pixels has an image that is made, OW of them in a row.
//
//   forward   y[pixel, o] = sum over k  of window[pixel, k] w[k, o]               a: windows along K       b: across
//   dx        dx[pixel, c] = sum over (i, j, o) of dy[pixel sent there] wt[o, k]  a: gradients along K     b: across
//   dw        dw[k, o] = sum over pixels of window[pixel, k] dy[pixel, o]         a: windows across K      b: across
//
// Four channels are read as one word where their number is a multiple of four. A division by a size that is no constant
// costs some twenty instructions: each quad needs one or two, beside 64 to 256 multiplications.

// A window moves over an image in steps of `stride`.
struct Window {
  int width, channels, kernel_width, stride, out_width, pixels;

  // From the start of x to the corner of the window of an output pixel, counted through all images.
  __device__ __forceinline__ i64 corner(int m, int ld_x) const {
    const int image = m / pixels, pixel = m % pixels;
    return (i64)image * ld_x + (pixel / out_width * width + pixel % out_width) * stride * channels;
  }
  // From the corner to weight k = (i, j, c): the pixels of a row of the window are neighbours.
  __device__ __forceinline__ int inside(int k) const {
    const int row = kernel_width * channels;
    return k / row * width * channels + k % row;
  }
};

struct WindowsAlong {
  static constexpr bool ALONG_K = true;
  const float* x;
  int ld, extent, depth;
  Window window;
  bool whole;
  using Place = const float*;
  __device__ __forceinline__ Place place(int m) const { return m < extent ? x + window.corner(m, ld) : nullptr; }
  __device__ __forceinline__ Quad quad(Place corner, int, int k) const {
    Quad q{};
    if (!corner) return q;
    if (whole) return k < depth ? load(corner + window.inside(k), QUAD, true) : q;
#pragma unroll
    for (int j = 0; j < QUAD; ++j)
      if (k + j < depth) q.at[j] = corner[window.inside(k + j)];
    return q;
  }
};

struct WindowsAcross {
  static constexpr bool ALONG_K = false;
  const float* x;
  int ld, extent, depth;
  Window window;
  bool whole;
  struct Place {
    int at[QUAD];
  };
  __device__ __forceinline__ Place place(int e) const {
    Place p;
#pragma unroll
    for (int j = 0; j < QUAD; ++j) p.at[j] = e + j < extent ? window.inside(e + j) : -1;
    return p;
  }
  __device__ __forceinline__ Quad quad(const Place& place, int, int m) const {
    Quad q{};
    if (m >= depth || place.at[0] < 0) return q;
    const float* corner = x + window.corner(m, ld);
    if (whole) return load(corner + place.at[0], QUAD, true);
#pragma unroll
    for (int j = 0; j < QUAD; ++j)
      if (place.at[j] >= 0) q.at[j] = corner[place.at[j]];
    return q;
  }
};

// The rows of dy, pixel by pixel through all images.
struct PixelsAcross {
  static constexpr bool ALONG_K = false;
  const float* dy;
  int ld, extent, depth, pixels;
  bool whole;
  using Place = int;
  __device__ __forceinline__ Place place(int e) const { return e; }
  __device__ __forceinline__ Quad quad(Place, int e, int m) const {
    const int left = m < depth ? extent - e : 0;
    if (left <= 0) return Quad{};
    return load(dy + (i64)(m / pixels) * ld + m % pixels * extent + e, left, whole && left >= QUAD);
  }
};

// What an input pixel (iy, ix) gets of dy by weight (i, j): that of the output pixel (iy - i, ix - j) / stride, if there
// is one. With a stride of s all but one of s^2 weights send nothing: they are multiplied by 0.
struct Sent {
  const float* dy;
  int ld, filters, kernel_width, stride, width, pixels, out_height, out_width;

  struct Pixel {
    const float* image;
    int iy, ix;
  };
  __device__ __forceinline__ Pixel pixel(int m) const {
    return Pixel{dy + (i64)(m / pixels) * ld, m % pixels / width, m % pixels % width};
  }
  __device__ __forceinline__ const float* by(const Pixel& p, int tap) const {
    const int y = p.iy - tap / kernel_width, x = p.ix - tap % kernel_width;
    const int oy = y / stride, ox = x / stride;
    if (y < 0 || x < 0 || oy * stride != y || ox * stride != x || oy >= out_height || ox >= out_width) return nullptr;
    return p.image + (oy * out_width + ox) * filters;
  }
};

struct SentAlong {
  static constexpr bool ALONG_K = true;
  Sent sent;
  int extent, depth;
  bool whole;
  using Place = Sent::Pixel;
  __device__ __forceinline__ Place place(int m) const { return m < extent ? sent.pixel(m) : Place{nullptr, 0, 0}; }
  __device__ __forceinline__ Quad quad(const Place& place, int, int k) const {
    Quad q{};
    if (!place.image) return q;
    if (whole) {
      const float* from = k < depth ? sent.by(place, k / sent.filters) : nullptr;
      return from ? load(from + k % sent.filters, QUAD, true) : q;
    }
#pragma unroll
    for (int j = 0; j < QUAD; ++j) {
      const float* from = k + j < depth ? sent.by(place, (k + j) / sent.filters) : nullptr;
      if (from) q.at[j] = from[(k + j) % sent.filters];
    }
    return q;
  }
};

// wt[o, (i, j, c)] for k = (i, j, o). `odd`: one of those read is infinite or NaN.
struct FiltersAcross {
  static constexpr bool ALONG_K = false;
  const float* wt;
  int ld, filters, extent, depth;
  bool whole;
  bool odd;
  using Place = const float*;
  __device__ __forceinline__ const float* at(int k) const {
    return wt + (i64)(k % filters) * ld + k / filters * extent;
  }
  __device__ __forceinline__ Place place(int) const { return nullptr; }
  __device__ __forceinline__ Quad quad(Place, int c, int k) {
    const int left = k < depth ? extent - c : 0;
    if (left <= 0) return Quad{};
    const Quad q = load(at(k) + c, left, whole && left >= QUAD);
#pragma unroll
    for (int j = 0; j < QUAD; ++j) odd |= !(q.at[j] - q.at[j] == 0.0f);
    return q;
  }
};

template <class S>
__device__ __forceinline__ void convolve(float* y, const float* x, const float* w, const float* b, int images, int O,
                                         int K, Window window, int ld_y, int ld_x, int ld_w, int flags) {
  const int rows = images * window.pixels;
  const bool quads = window.channels % QUAD == 0 && aligned(x, ld_x);
  Across filters{w, ld_w, O, K, aligned(w, ld_w)};
  S::product(WindowsAlong{x, ld_x, rows, K, window, quads}, filters,
             Result{y, b, nullptr, rows, O, window.pixels, ld_y, 0, flags, O % QUAD == 0 && aligned(y, ld_y)}, K, K);
}

// A weight that sends nothing to a pixel is multiplied by 0, which makes NaN of one that is infinite. A block that meets
// such a filter computes its tile again, term by term.
template <class S>
__device__ __forceinline__ void convolve_back(float* dx, const float* wt, const Sent& sent, int images, int channels,
                                              int K, int ld_dx, int ld_dy, int ld_wt) {
  const int rows = images * sent.pixels;
  const bool quads = sent.filters % QUAD == 0 && aligned(sent.dy, ld_dy);
  FiltersAcross filters{wt, ld_wt, sent.filters, channels, K, channels % QUAD == 0 && aligned(wt, ld_wt), false};
  const bool whole = channels % QUAD == 0 && aligned(dx, ld_dx);
  S::product(SentAlong{sent, rows, K, quads}, filters,
             Result{dx, nullptr, nullptr, rows, channels, sent.pixels, ld_dx, 0, 0, whole}, K, K);
  if (!__syncthreads_or(filters.odd)) return;
  for (int e = threadIdx.x; e < S::ROWS * S::COLUMNS; e += S::THREADS) {
    const int m = blockIdx.y * S::ROWS + e / S::COLUMNS, c = blockIdx.x * S::COLUMNS + e % S::COLUMNS;
    if (m >= rows || c >= channels) continue;
    const Sent::Pixel pixel = sent.pixel(m);
    float sum = 0.0f;
    for (int k = 0; k < K; k += sent.filters) {
      const float* from = sent.by(pixel, k / sent.filters);
      for (int o = 0; from && o < sent.filters; ++o) sum += from[o] * filters.at(k + o)[c];
    }
    dx[(i64)(m / sent.pixels) * ld_dx + m % sent.pixels * channels + c] = sum;
  }
}

template <class S>
__device__ __forceinline__ void filter_gradient(float* dw, const float* x, const float* dy, int images, int O, int K,
                                                int share, Window window, int ld_dw, int ld_x, int ld_dy, int flags) {
  const int terms = images * window.pixels;
  const bool quads = window.channels % QUAD == 0 && aligned(x, ld_x);
  PixelsAcross right{dy, ld_dy, O, terms, window.pixels, O % QUAD == 0 && aligned(dy, ld_dy)};
  S::product(WindowsAcross{x, ld_x, K, terms, window, quads}, right,
             Result{dw, nullptr, nullptr, K, O, 1, ld_dw, 0, flags, aligned(dw, ld_dw)}, terms, share);
}
