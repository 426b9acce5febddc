// Images changed at random: shifted, turned, resized, slanted, mirrored, distorted and partly erased. H x W pixels of C
// channels; contract/warping.py has the formula, cpu/warping.py the same steps for a CPU.
//
// A block makes an image at a time. A pixel is read where one map sends it: an affine one, computed once an image, plus
// a displacement. What decides which pixels are read is computed as the CPU does it, in the same order and with
// products that are rounded by themselves (`__fmul_rn`, `__dmul_rn`), so that the same words give the same images: only
// the sines of float64 may differ in their last bit, which float32 rarely sees.

constexpr u32 AFFINE = 0, ELASTIC = 1;  // fourth word of the counter: what random words are for
constexpr int FIELDS = 2;               // of displacements, along x and along y
constexpr double DEGREE = 3.14159265358979323846 / 180.0, NARROWEST = 0.3;

struct Sizes {
  int H, W, C;
};
struct Ranges {  // as in the contract
  double translate, rotate, scale, shear, flip, erase, erase_least, erase_most;
};
struct Map {  // pixel (x, y) comes from (a x + b y + x0, c x + d y + y0); what is erased ends before (bottom, right)
  double a, b, c, d, x0, y0;
  int top, left, bottom, right;
};

__device__ __forceinline__ double both_signs(u32 word) { return ((double)word + 0.5) / 2147483648.0 - 1.0; }
__device__ __forceinline__ double share(u32 word) { return ((double)word + 0.5) / 4294967296.0; }

__device__ __forceinline__ void erased_part(Map& map, const u32 words[4], u32 last, const Ranges& r, const Sizes& s) {
  const double part = r.erase_least + __dmul_rn(r.erase_most - r.erase_least, share(words[0]));
  const double area = part * (double)(s.H * s.W);
  const double ratio = NARROWEST + __dmul_rn(1.0 / NARROWEST - NARROWEST, share(words[1]));
  const double h = sqrt(area * ratio) + 0.5, w = sqrt(area / ratio) + 0.5;
  const int height = h < s.H ? (int)h : s.H, width = w < s.W ? (int)w : s.W;
  map.top = (int)(share(words[2]) * (s.H - height + 1));
  map.left = (int)(share(last) * (s.W - width + 1));
  map.bottom = map.top + height;
  map.right = map.left + width;
}

// The inverse of moving, turning, enlarging, shearing and flipping, in the opposite order.
__device__ __forceinline__ Map draw_map(u32 number, u32 epoch, const u32* key, const Ranges& r, const Sizes& s) {
  u32 words[8];
  philox(0, number, epoch, AFFINE, key[0], key[1], words);
  philox(1, number, epoch, AFFINE, key[0], key[1], words + 4);
  Map map;
  const double angle = both_signs(words[0]) * r.rotate * DEGREE, slant = both_signs(words[2]) * r.shear * DEGREE;
  const double slope = sin(slant) / cos(slant), factor = 1.0 + __dmul_rn(both_signs(words[1]), r.scale);
  map.c = -sin(angle) / factor;
  map.d = cos(angle) / factor;
  map.a = map.d - __dmul_rn(slope, map.c);
  map.b = sin(angle) / factor - __dmul_rn(slope, map.d);
  if (share(words[3]) < r.flip) map.a = -map.a, map.b = -map.b;
  const double cx = (s.W - 1) / 2.0, cy = (s.H - 1) / 2.0;
  const double tx = cx + __dmul_rn(both_signs(words[4]), r.translate);
  const double ty = cy + __dmul_rn(both_signs(words[5]), r.translate);
  map.x0 = cx - __dmul_rn(map.a, tx) - __dmul_rn(map.b, ty);
  map.y0 = cy - __dmul_rn(map.c, tx) - __dmul_rn(map.d, ty);
  map.top = map.left = map.bottom = map.right = 0;
  if (share(words[6]) < r.erase) {
    const u32 last = words[7];
    philox(2, number, epoch, AFFINE, key[0], key[1], words);
    erased_part(map, words, last, r, s);
  }
  return map;
}

// Noise from -1 to 1 for the pixels of both fields: each half of a word is a number, the low half first.
__device__ __forceinline__ void draw_noise(float* noise, u32 number, u32 epoch, const u32* key, int n) {
  for (int quad = threadIdx.x; quad * 8 < n; quad += blockDim.x) {
    u32 words[4];
    philox(quad, number, epoch, ELASTIC, key[0], key[1], words);
#pragma unroll
    for (int k = 0; k < 8; ++k)
      if (quad * 8 + k < n)
        noise[quad * 8 + k] = ((float)(words[k / 2] >> k % 2 * 16 & 0xffff) + 0.5f) * (1.0f / 32768) - 1.0f;
  }
}

// The sum of `taps` times the values around one of `length` values, `step` apart, of which it is the one at `position`.
__device__ __forceinline__ float smoothed(const float* value, int position, int length, int step, const float* taps,
                                          int T) {
  const int reach = T / 2, first = max(-reach, -position), last = min(reach, length - 1 - position);
  float total = 0.0f;
  for (int t = first; t <= last; ++t) total = __fmaf_rn(taps[t + reach], value[t * step], total);
  return total;
}

// One before the first pixel up to one behind the last, and from there on all is 0.
__device__ __forceinline__ float bounded(float v, int size) {
  v = v < 0.0f ? 0.0f : v;
  return v > size + 1 ? size + 1 : v;
}

template <class Pixel>
__device__ __forceinline__ float pixel(const Pixel* image, int y, int x, int channel, const Sizes& s) {
  const bool inside = 0 <= y && y < s.H && 0 <= x && x < s.W;
  return inside ? (float)image[(y * s.W + x) * s.C + channel] : 0.0f;
}

template <class Pixel>
__device__ __forceinline__ void augment(Pixel* images, float* scratch, const Pixel* source, const i64* rows,
                                        const i64* numbers, const u32* key, const float* taps, int B, int T,
                                        const Sizes& s, const Ranges& ranges, float alpha, float rounding, u32 epoch,
                                        int ld_images, int ld_source) {
  __shared__ Map map;
  const int n = s.H * s.W;
  float* noise = scratch + (i64)blockIdx.x * 2 * FIELDS * n;
  float* along_lines = noise + FIELDS * n;
  for (int i = blockIdx.x; i < B; i += gridDim.x) {
    const u32 number = (u32)numbers[i];
    if (threadIdx.x == 0) map = draw_map(number, epoch, key, ranges, s);
    if (T) {
      draw_noise(noise, number, epoch, key, FIELDS * n);
      __syncthreads();
      for (int p = threadIdx.x; p < FIELDS * n; p += blockDim.x)
        along_lines[p] = smoothed(noise + p, p % s.W, s.W, 1, taps, T);
    }
    __syncthreads();
    const Pixel* from = source + rows[i] * ld_source;
    Pixel* to = images + (i64)i * ld_images;
    for (int p = threadIdx.x; p < n; p += blockDim.x) {
      const int y = p / s.W, x = p % s.W;
      // Places in the image with a border of one pixel before, hence + 1.
      float u = __fmul_rn((float)map.a, (float)x) + (float)(__dmul_rn(map.b, y) + map.x0 + 1.0);
      float v = __fmul_rn((float)map.c, (float)x) + (float)(__dmul_rn(map.d, y) + map.y0 + 1.0);
      if (T) {
        u = u + __fmul_rn(alpha, smoothed(along_lines + p, y, s.H, s.W, taps, T));
        v = v + __fmul_rn(alpha, smoothed(along_lines + n + p, y, s.H, s.W, taps, T));
      }
      u = bounded(u, s.W);
      v = bounded(v, s.H);
      const int left = (int)u, top = (int)v;
      u -= left;
      v -= top;
      const bool is_erased = map.top <= y && y < map.bottom && map.left <= x && x < map.right;
      for (int c = 0; c < s.C; ++c) {
        const float a = pixel(from, top - 1, left - 1, c, s), b = pixel(from, top - 1, left, c, s);
        const float d = pixel(from, top, left - 1, c, s), e = pixel(from, top, left, c, s);
        const float upper = a + __fmul_rn(u, b - a), lower = d + __fmul_rn(u, e - d);
        const float value = upper + __fmul_rn(v, lower - upper) + rounding;
        to[p * s.C + c] = is_erased ? (Pixel)0 : (Pixel)value;
      }
    }
    __syncthreads();  // before the next image takes the map's place
  }
}

extern "C" __global__ void __launch_bounds__(256)
    augment_images_uint8_kernel(u8* images, float* scratch, const u8* source, const i64* rows, const i64* numbers,
                                const u32* key, const float* taps, int B, int T, int H, int W, int C, u32 epoch,
                                double translate, double rotate, double scale, double shear, double flip,
                                float elastic_alpha, double erase, double erase_least, double erase_most,
                                int ld_images, int ld_source) {
  const Ranges ranges{translate, rotate, scale, shear, flip, erase, erase_least, erase_most};
  augment(images, scratch, source, rows, numbers, key, taps, B, T, Sizes{H, W, C}, ranges, elastic_alpha, 0.5f, epoch,
          ld_images, ld_source);
}
extern "C" __global__ void __launch_bounds__(256)
    augment_images_float32_kernel(float* images, float* scratch, const float* source, const i64* rows,
                                  const i64* numbers, const u32* key, const float* taps, int B, int T, int H, int W,
                                  int C, u32 epoch, double translate, double rotate, double scale, double shear,
                                  double flip, float elastic_alpha, double erase, double erase_least,
                                  double erase_most, int ld_images, int ld_source) {
  const Ranges ranges{translate, rotate, scale, shear, flip, erase, erase_least, erase_most};
  augment(images, scratch, source, rows, numbers, key, taps, B, T, Sizes{H, W, C}, ranges, elastic_alpha, 0.0f, epoch,
          ld_images, ld_source);
}
