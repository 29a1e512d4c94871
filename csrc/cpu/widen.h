// The numbers of a packed weight, and how a vector of them becomes float32. Exact in every format.
#pragma once

#include <cstring>

#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline vf widen(const float* p) { return load(p); }
static inline vf widen_some(const float* p, int64_t count) { return load_some(p, count); }

#if ANTIPHON_VL == 16
// With masks, of all lanes: some versions of GCC warn of what the plain ones leave undefined.
static inline vf widen(const Bfloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (vf)((vi)_mm512_maskz_cvtepu16_epi32(0xffff, bits) << 16);
}
static inline vf widen(const Float16* p) {
  return (vf)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline vf widen(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return __builtin_convertvector((vi)_mm512_maskz_cvtepi8_epi32(0xffff, bytes), vf);
}
#elif ANTIPHON_VL == 8
static inline vf widen(const Bfloat16* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (vf)_mm256_slli_epi32(bits, 16);
}
static inline vf widen(const Float16* p) {
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline vf widen(const int8_t* p) {
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
static inline vf widen(const Bfloat16* p) {
  vi bits;
  for (int i = 0; i < kLanes; i++) bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i].bits) << 16);
  return (vf)bits;
}
static inline vf widen(const Float16* p) {
  vi half;
  for (int i = 0; i < kLanes; i++) half[i] = p[i].bits;
  const vi exponent = half & 0x7c00, fraction = half & 0x3ff;
  const vi rebias = vi{} + (112 << 23);  // from a bias of 15 to one of 127
  const vi infinite = exponent == 0x7c00;
  const vi bits = ((half & 0x7fff) << 13) + rebias + (infinite & rebias);
  const vf subnormal = __builtin_convertvector(fraction, vf) * 5.9604644775390625e-8f;  // 2^-24
  const vf size = select(exponent == 0, subnormal, (vf)bits);
  return (vf)((vi)size | ((half & 0x8000) << 16));
}
static inline vf widen(const int8_t* p) {
  vf v;
  for (int i = 0; i < kLanes; i++) v[i] = p[i];
  return v;
}
#endif

// The first `count` numbers, followed by zeros
static inline vf widen_some(const int8_t* p, int64_t count) {
  int8_t some[kLanes] = {};
  std::memcpy(some, p, static_cast<size_t>(count));
  return widen(some);
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
