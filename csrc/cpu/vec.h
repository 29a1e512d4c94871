// One vector type per instruction set, through the compiler's vector extensions. Included once by each isa_*.cpp, after
// it has set ANTIPHON_ISA, ANTIPHON_VL and the target.
#pragma once

#include <cstdint>
#include <cstring>

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int kLanes = ANTIPHON_VL;  // floats in a vector

typedef float vf __attribute__((vector_size(ANTIPHON_VL * 4)));
typedef int32_t vi __attribute__((vector_size(ANTIPHON_VL * 4)));

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
static inline vf splat(float a) { return a - vf{}; }

// The first `count` numbers, followed by zeros. The end of a row goes through vectors, too: in a scalar loop it would
// be up to the compiler whether products are rounded before they are added.
static inline vf load_some(const float* p, int64_t count) {
  vf v = {};
  std::memcpy(&v, p, sizeof(float) * static_cast<size_t>(count));
  return v;
}
static inline void store_some(float* p, vf v, int64_t count) {
  std::memcpy(p, &v, sizeof(float) * static_cast<size_t>(count));
}

// Reductions by halves: the order is fixed, and each step is one shuffle and one operation.
typedef float vf4 __attribute__((vector_size(16)));
typedef float vf8 __attribute__((vector_size(32)));

struct Add {
  template <class V>
  static V of(V a, V b) {
    return a + b;
  }
};
struct Larger {
  template <class V>
  static V of(V a, V b) {
    return a > b ? a : b;
  }
};

template <class Op>
static inline float reduce(vf4 v) {
  v = Op::of(v, vf4{v[2], v[3], v[0], v[1]});
  v = Op::of(v, vf4{v[1], v[0], v[3], v[2]});
  return v[0];
}
template <class Op>
static inline float reduce(vf8 v) {
  vf4 half[2];
  std::memcpy(half, &v, sizeof v);
  return reduce<Op>(Op::of(half[0], half[1]));
}
#if ANTIPHON_VL == 16
template <class Op>
static inline float reduce(vf v) {
  vf8 half[2];
  std::memcpy(half, &v, sizeof v);
  return reduce<Op>(Op::of(half[0], half[1]));
}
#endif
static inline float sum(vf v) { return reduce<Add>(v); }

// The sums of four vectors, each added up in the order of `sum`, with half as many shuffles.
static inline vf4 fold(vf4 v) { return v; }
static inline vf4 fold(vf8 v) {
  vf4 half[2];
  std::memcpy(half, &v, sizeof v);
  return half[0] + half[1];
}
#if ANTIPHON_VL == 16
static inline vf4 fold(vf v) {
  vf8 half[2];
  std::memcpy(half, &v, sizeof v);
  return fold(half[0] + half[1]);
}
#endif
static inline vf4 sum4(vf a, vf b, vf c, vf d) {
  const vf4 w = fold(a), x = fold(b), y = fold(c), z = fold(d);
  const vf4 wx = vf4{w[0], w[1], x[0], x[1]} + vf4{w[2], w[3], x[2], x[3]};
  const vf4 yz = vf4{y[0], y[1], z[0], z[1]} + vf4{y[2], y[3], z[2], z[3]};
  return vf4{wx[0], wx[2], yz[0], yz[2]} + vf4{wx[1], wx[3], yz[1], yz[3]};
}
static inline float maximum(vf v) { return reduce<Larger>(v); }
static inline vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

// e^x by range reduction to [-ln2/2, ln2/2] and a polynomial (the coefficients of Cephes' expf); the error is below
// 2 ulp; 0 below -87.3, saturating above 88.3.
static inline vf vexp(vf x) {
  const vf low = splat(-87.33654f), high = splat(88.37626f);
  const vi underflow = x < low;
  x = select(x > high, high, x);
  x = select(underflow, low, x);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf n = (x * 1.44269504088896341f + magic) - magic;
  x = x - n * 0.693359375f;
  x = x + n * 2.12194440e-4f;
  vf y = splat(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * (x * x) + x + 1.0f;
  const vi exponent = (__builtin_convertvector(n, vi) + 127) << 23;
  return select(underflow, vf{}, y * (vf)exponent);
}
static inline float sexp(float x) { return vexp(splat(x))[0]; }

// kept_bits: which of kLanes labels are neither equal to the label before them nor blank, one bit each.
// compress: the labels whose bit in `keep` is set, moved to the front, and their frames.
#if ANTIPHON_VL == 16
static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  const __m512i here = _mm512_loadu_si512(labels), before = _mm512_loadu_si512(labels - 1);
  return _mm512_mask_cmpneq_epi32_mask(_mm512_cmpneq_epi32_mask(here, before), here, _mm512_set1_epi32(blank));
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  const __m512i order = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __mmask16 mask = static_cast<__mmask16>(keep);
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(labels)));
  const __m512i all = _mm512_add_epi32(order, _mm512_set1_epi32(frame));
  _mm512_storeu_si512(frames, _mm512_maskz_compress_epi32(mask, all));
}
#elif ANTIPHON_VL == 8
struct Orders {
  uint8_t of[256][8];
};
static constexpr Orders all_orders() {
  Orders table = {};
  for (int mask = 0; mask < 256; mask++)
    for (int bit = 0, n = 0; bit < 8; bit++)
      if (mask >> bit & 1) table.of[mask][n++] = static_cast<uint8_t>(bit);
  return table;
}
static constexpr Orders kOrders = all_orders();

static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  const __m256i before = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels - 1));
  const __m256i drop =
      _mm256_or_si256(_mm256_cmpeq_epi32(here, before), _mm256_cmpeq_epi32(here, _mm256_set1_epi32(blank)));
  return ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(drop))) & 0xffu;
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOrders.of[keep])));
  const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_permutevar8x32_epi32(here, order));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(frames), _mm256_add_epi32(order, _mm256_set1_epi32(frame)));
}
#else
static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  uint32_t keep = 0;
  for (int i = 0; i < kLanes; i++)
    keep |= static_cast<uint32_t>((labels[i] != labels[i - 1]) & (labels[i] != blank)) << i;
  return keep;
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  int n = 0;
  for (int i = 0; i < kLanes; i++) {
    ids[n] = labels[i], frames[n] = frame + i;
    n += keep >> i & 1;
  }
}
#endif

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
