// The kernel of Int8Product but for AMX, see int8_kernel.h.
//
// Weights are 128 too large, and so without a sign: dpbusd multiplies unsigned bytes by signed ones. Elsewhere a
// group's bytes become two vectors of int16, the even and the odd ones, for madd.
#pragma once

#include "int8_kernel.h"
#include "kernels.h"
#include "vec.h"

#if !defined(ANTIPHON_VNNI)
#define ANTIPHON_VNNI 0
#endif

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int kInt8Vectors = kPanel / kLanes;           // vectors across a panel
constexpr int kInt8Bytes = ANTIPHON_VNNI ? kGroup : 8;  // of a group of x
constexpr int64_t kInt8Lines = kPanel * kGroup / 64;    // lines of memory in a group of a panel
constexpr int64_t kGroupBytes = kPanel * kGroup;

static inline vi load_bytes(const void* p) {
  vi v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline vi splat_bytes(const char* p) {
  int32_t v;
  std::memcpy(&v, p, sizeof v);
  return v - vi{};
}

#if ANTIPHON_VNNI
struct Int8Weights {
  vi all;
  explicit Int8Weights(const uint8_t* p) : all(load_bytes(p)) {}
};
struct Int8Inputs {
  vi all;
  explicit Int8Inputs(const char* p) : all(splat_bytes(p)) {}
};
static inline vi add_products(vi sum, const Int8Weights& w, const Int8Inputs& x) {
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w.all, (__m512i)x.all);
}
#else
static inline vi pairs(vi a, vi b) {
#if ANTIPHON_VL == 16
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif ANTIPHON_VL == 8
  return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}
struct Int8Weights {
  vi even, odd;
  explicit Int8Weights(const uint8_t* p) {
    const vi all = load_bytes(p);
    even = all & 0x00ff00ff;
    odd = all >> 8 & 0x00ff00ff;
  }
};
struct Int8Inputs {
  vi even, odd;
  explicit Int8Inputs(const char* p) : even(splat_bytes(p)), odd(splat_bytes(p + 4)) {}
};
static inline vi add_products(vi sum, const Int8Weights& w, const Int8Inputs& x) {
  return sum + pairs(w.even, x.even) + pairs(w.odd, x.odd);
}
#endif

// Rows of a tile, and the vectors of a panel that it has the sums of.
#if ANTIPHON_VL == 16
constexpr int kInt8TileRows = 12, kInt8TileVectors = 2;
#elif ANTIPHON_VL == 8
constexpr int kInt8TileRows = 4, kInt8TileVectors = 2;
#else
constexpr int kInt8TileRows = 1, kInt8TileVectors = 8;
#endif

// sums[0:MR][0:TV vectors], fetching LINES lines from `ahead` with each group. One or two rows are added up in several
// parts, so that no product waits for the one before.
template <int MR, int LINES>
static void int8_tile(const char* x, int64_t stride, const uint8_t* w, int64_t groups, int32_t* sums,
                      const uint8_t* ahead) {
  constexpr int TV = kInt8TileVectors, parts = MR > 2 || kLanes < 8 ? 1 : 4 / MR;
  vi acc[parts][MR][TV] = {};
  for (int64_t g = 0; g < groups; g += parts)
#pragma GCC unroll 4
    for (int part = 0; part < parts; part++, w += kGroupBytes, x += kInt8Bytes) {
      for (int line = 0; line < LINES; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
      for (int m = 0; m < MR; m++) {
        const Int8Inputs inputs(x + m * stride);
        for (int v = 0; v < TV; v++)
          acc[part][m][v] = add_products(acc[part][m][v], Int8Weights(w + v * kLanes * kGroup), inputs);
      }
    }
  for (int m = 0; m < MR; m++)
    for (int v = 0; v < TV; v++) {
      vi sum = acc[0][m][v];
      for (int part = 1; part < parts; part++) sum += acc[part][m][v];
      std::memcpy(sums + m * kPanel + v * kLanes, &sum, sizeof sum);
    }
}

template <int MR>
static void int8_tile_rows(int rows, const char* x, int64_t stride, const uint8_t* w, int64_t groups, int32_t* sums,
                           const uint8_t* ahead, int64_t lines) {
  if (rows == MR) {
    for (int v = 0; v < kInt8Vectors; v += kInt8TileVectors) {
      const uint8_t* from = w + v * kLanes * kGroup;
      if (v || !ahead || lines == 0) int8_tile<MR, 0>(x, stride, from, groups, sums + v * kLanes, ahead);
      else if (lines == 1) int8_tile<MR, 1>(x, stride, from, groups, sums + v * kLanes, ahead);
      else int8_tile<MR, 2>(x, stride, from, groups, sums + v * kLanes, ahead);
    }
    return;
  }
  if constexpr (MR > 1) int8_tile_rows<MR - 1>(rows, x, stride, w, groups, sums, ahead, lines);
}

// A processor that reads on by itself where one row reads, whatever pages lie there, is hindered by fetches of the
// panel after that, and helped by those of what comes a page later: on Zen 4 one row reads 1.2 to 1.35 times as fast
// while memory is faster than that. Others keep to the next panel, which served Sapphire Rapids well.
static bool reads_on() {
#if defined(__x86_64__)
  static const bool is_amd = __builtin_cpu_is("amd");
  return is_amd;
#else
  return false;
#endif
}
constexpr int64_t kReadsOn = 4096;  // bytes

static void int8_sums(const Int8Product& a) {
  const int64_t groups = a.depth / kGroup;
  const bool is_followed = a.next == a.w + groups * kGroupBytes;
  const uint8_t* ahead = is_followed && a.rows == 1 && reads_on() ? a.w + kReadsOn : a.next;
  for (int64_t m = 0; m < a.rows;) {
    // blocks of even size, of which the first two share the fetching of the next panel
    const int64_t left = a.rows - m, blocks = (left + kInt8TileRows - 1) / kInt8TileRows;
    const int64_t rows = (left + blocks - 1) / blocks;
    const int64_t lines = rows == a.rows ? kInt8Lines : m < 2 * rows ? kInt8Lines / 2 : 0;
    int8_tile_rows<kInt8TileRows>(static_cast<int>(rows), static_cast<const char*>(a.x) + m * a.stride, a.stride, a.w,
                                  groups, a.sums + m * kPanel, ahead, lines);
    if (ahead) ahead += groups * lines * 64;
    m += rows;
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
