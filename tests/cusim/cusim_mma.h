// Tensor cores on the CPU: what is rounded, how, and which lane holds what, by the PTX manual ("Matrix fragments for
// mma.m16n8k8" and "mma.m16n8k16"). Factors are rounded as the hardware does, their products are exact in float32, the sums
// run over k in ascending order, each rounded to nearest: hardware adds several products at once and truncates, so its last
// bits differ. A register that was not rounded to TF32 loses its low 13 bits, as on the hardware.
#pragma once
#include "cusim.h"

namespace cusim {
struct Words {
  uint32_t at[4];
};
CUSIM_INLINE float tf32_value(uint32_t word) { return std::bit_cast<float>(word & 0xffffe000u); }
CUSIM_INLINE float bf16_value(uint32_t half) { return std::bit_cast<float>(half << 16); }

// c += a b of 16 x 8 elements and eight words along k, each worth `term(a, b)`, added to a sum.
//   a: row r, word k is in lane r % 8 * 4 + k % 4, register (r >= 8) + 2 (k >= 4)
//   b: column n, word k is in lane n * 4 + k % 4, register k >= 4
//   c: row r, column n is in lane r % 8 * 4 + n / 2, register 2 (r >= 8) + n % 2
template <class Term>
inline void multiply_words(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location at, Term term) {
  const unsigned g = lane() / 4, t = lane() % 4;
  Words rows[4], columns[2][4];  // of lanes 4 g + ..., and of columns 2 t and 2 t + 1
  {
    const auto lanes = exchange(0xffffffffu, Words{{a[0], a[1], a[2], a[3]}}, at);
    for (unsigned k = 0; k < 4; ++k) rows[k] = lanes.at(g * 4 + k);
  }  // copied before the next exchange, which may overwrite them
  {
    const auto lanes = exchange(0xffffffffu, Words{{b[0], b[1], 0, 0}}, at);
    for (unsigned n = 0; n < 2; ++n)
      for (unsigned k = 0; k < 4; ++k) columns[n][k] = lanes.at((2 * t + n) * 4 + k);
  }
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned k = 0; k < 8; ++k)
      c[i] = term(c[i], rows[k % 4].at[i / 2 + 2 * (k / 4)], columns[i % 2][k % 4].at[k / 4]);
}
}  // namespace cusim

// To 10 bits behind the leading one, ties away from zero (cvt.rna.tf32.f32).
CUSIM_INLINE uint32_t cusim_tf32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0x7fffffffu;
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
// To 7 bits behind the leading one, ties to even (cvt.rn.bf16x2.f32, one of the two).
CUSIM_INLINE uint16_t cusim_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return x != x ? 0x7fff : uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline void cusim_mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUSIM_AT) {
  cusim::multiply_words(c, a, b, at, [](float sum, uint32_t x, uint32_t y) {
    return sum + cusim::tf32_value(x) * cusim::tf32_value(y);
  });
}
inline void cusim_mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUSIM_AT) {
  cusim::multiply_words(c, a, b, at, [](float sum, uint32_t x, uint32_t y) {
    sum += cusim::bf16_value(x & 0xffff) * cusim::bf16_value(y & 0xffff);
    return sum + cusim::bf16_value(x >> 16) * cusim::bf16_value(y >> 16);
  });
}
