// The kernel of Int8Product with AMX: 16 rows by 16 features by 64 inputs in one instruction.
#include "int8_kernel.h"
#if ANTIPHON_HAS_AMX
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(                                                                       \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,amx-tile,amx-int8")
#endif

#define ANTIPHON_ISA amx
#define ANTIPHON_VL 16
#define ANTIPHON_VNNI 1
#include "int8_sums.h"

namespace antiphon {
namespace amx {

// Up to this many rows, VNNI keeps up with memory.
constexpr int64_t kFewRows = 4;
constexpr int kTiles = 8;
constexpr int kTileBytes = 64;  // of a tile's row
constexpr int kSumsBytes = kPanel * sizeof(int32_t);

// As LDTILECFG reads it.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

static TileConfig whole_tiles() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < kTiles; i++) config.row_bytes[i] = kTileBytes, config.rows[i] = kInt8Rows;
  return config;
}

// Loading a configuration takes as long as a small panel does, looking at it a tenth of that. Others in this thread may
// have loaded theirs in the meantime.
static void configure() {
  static const TileConfig wanted = whole_tiles();
  TileConfig found;
  _tile_storeconfig(&found);
  if (std::memcmp(&found, &wanted, sizeof wanted) != 0) _tile_loadconfig(&wanted);
}

// Tiles 0 to 3: sums of two blocks of rows by both halves of a panel. 4 and 5: rows of x. 6 and 7: weights.
template <int BLOCKS>
static void tile_sums(const char* x, int64_t stride, const uint8_t* w, int64_t depth, int32_t* sums,
                      const uint8_t* ahead, int64_t lines) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (BLOCKS == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kInt8Depth, w += kInt8Depth * kPanel) {
    _tile_loadd(6, w, kGroupBytes);
    _tile_loadd(7, w + kTileBytes, kGroupBytes);
    _tile_loadd(4, x + k, stride);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    for (int64_t line = 0; line < lines; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    if constexpr (BLOCKS == 2) {
      _tile_loadd(5, x + kInt8Rows * stride + k, stride);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kSumsBytes);
  _tile_stored(1, sums + kPanel / 2, kSumsBytes);
  if constexpr (BLOCKS == 2) {
    _tile_stored(2, sums + kInt8Rows * kPanel, kSumsBytes);
    _tile_stored(3, sums + kInt8Rows * kPanel + kPanel / 2, kSumsBytes);
  }
}

static void sums(const Int8Product& a) {
  if (a.rows <= kFewRows) {
    int8_sums(a);
    return;
  }
  configure();
  const char* x = static_cast<const char*>(a.x);
  const int64_t blocks = (a.rows + 2 * kInt8Rows - 1) / (2 * kInt8Rows);
  // of the next panel, with each 64 inputs
  int64_t lines = a.next ? (kInt8Depth / kGroup * kInt8Lines + blocks - 1) / blocks : 0;
  const uint8_t* ahead = a.next;
  for (int64_t m = 0; m < a.rows; m += 2 * kInt8Rows) {
    int32_t* to = a.sums + m * kPanel;
    if (a.rows - m > kInt8Rows) tile_sums<2>(x + m * a.stride, a.stride, a.w, a.depth, to, ahead, lines);
    else tile_sums<1>(x + m * a.stride, a.stride, a.w, a.depth, to, ahead, lines);
    if (ahead) ahead += a.depth / kInt8Depth * lines * 64;
  }
  if (!a.next) _tile_release();  // tiles in use make it costly to change threads
}

const Int8Kernel int8 = {.name = "amx", .takes_int16 = false, .sums = sums};

}  // namespace amx
}  // namespace antiphon

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
