// y = x W^T + residual for few rows (decoding) and many (prefill), reading W once per row chunk.
//
// W is packed into panels of 32 output features, (panels, in, 32): one pass over a panel streams memory in order, and
// each broadcast x[m][k] feeds 32 outputs. A sum runs over k ascending: each block of kDepth products has an
// accumulator of its own, and the blocks are then added up, which keeps the rounding error small. The order is the same
// for any number of rows, so a row's result does not depend on its batch.
//
// W's numbers may take fewer bits than float32. They are widened in registers, where one row waits for memory anyway;
// the first of several blocks of rows leaves them widened in L1 for the others.
//
// While a slice of kDepth is multiplied, the next one is fetched into L2: with more than a row or two the arithmetic
// takes so long that the processor's own prefetcher loses track, and memory would stand idle.
#pragma once

#include <type_traits>

#include "int8_rows.h"
#include "kernels.h"
#include "pool.h"
#include "tuning.h"
#include "vec.h"
#include "widen.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int kPanelVectors = kPanel / kLanes;        // vectors across a panel
constexpr int64_t kDepth = 128;                       // a panel's slice, up to 16 KiB, stays in L1 across row blocks
constexpr int kCacheLine = 64;                        // bytes
constexpr int kPanelLines = kPanel * 4 / kCacheLine;  // in a panel's row of float32
constexpr int kFetched = 4;                           // lines that are fetched together
constexpr int64_t kRowChunk = 96;                     // rows of x that stay in L2 across panels

// Weights to fetch during the arithmetic: kFetched lines at a time, at `from`, `from + next`, `from + pair` and
// `from + pair + next`; then `from` moves on by `step` bytes. Each k fetches `lines` lines (0, 1 or kPanelLines) if
// weights are float32, and as much less as they are shorter.
struct Prefetch {
  const char* from;
  int lines;
  int64_t next, pair, step;
};

// How many k's go by from one fetch to the next, at `lines` lines for each k of float32.
template <class W>
constexpr int fetch_period(int lines) {
  return kFetched * static_cast<int>(sizeof(float) / sizeof(W)) / lines;
}

// Does a tile leave the weights it has widened for the blocks of rows after it? The first of several always does.
template <class W>
constexpr bool keeps_widened(int rows) {
  return sizeof(W) < sizeof(float) && rows > kTuning.tile_rows / 2;
}

// out[0:MR][0:TV vectors] (+)= x[0:MR][0:depth] * w[0:depth][0:TV vectors], summed up before it is added. AHEAD is
// ahead.lines. If it keeps_widened, w goes to `wide` (depth, kPanel) as float32. SLICES of this depth, one after the
// other, may go together: each has its own sums, which are added in order.
//
// Rows are addressed in threes, the second and third by a scaled index: a pointer per row would not fit the registers,
// and every spilled pointer costs the multipliers a turn. Without the attribute, GCC would keep a pointer per row.
template <class W, int MR, int TV, int AHEAD, int SLICES = 1>
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-ivopts")))
#endif
static void tile(const float* x, int64_t ldx, const W* w, int64_t ldw, int64_t depth, float* out, int64_t ldo,
                 bool first, Prefetch ahead, float* wide) {
  static_assert(SLICES == 1 || MR == 1, "slices go together to make up for too few rows");
  constexpr int threes = (MR + 2) / 3, period = AHEAD > 0 ? fetch_period<W>(AHEAD) / SLICES : 1;
  vf acc[SLICES * MR][TV] = {};
  const float* row[threes];
  for (int i = 0; i < threes; i++) row[i] = x + 3 * i * ldx;
  const auto step = [&]() __attribute__((always_inline)) {
    for (int s = 0; s < SLICES; s++) {
      vf weight[TV];
      for (int v = 0; v < TV; v++) weight[v] = widen(w + s * depth * ldw + v * kLanes);
      if constexpr (keeps_widened<W>(MR)) {
        for (int v = 0; v < TV; v++) store(wide + v * kLanes, weight[v]);
        wide += kPanel;
      }
      for (int m = 0; m < MR; m++) {
        const vf broadcast = splat(row[m / 3][m % 3 * ldx + s * depth]);
        for (int v = 0; v < TV; v++) acc[s * MR + m][v] += broadcast * weight[v];
      }
    }
    w += ldw;
    for (int i = 0; i < threes; i++) row[i]++;
  };
  int64_t k = 0;
  for (; AHEAD > 0 && k + period <= depth; k += period) {
    for (int i = 0; i < kFetched; i++) __builtin_prefetch(ahead.from + i % 2 * ahead.next + i / 2 * ahead.pair, 0, 2);
    ahead.from += ahead.step;
#pragma GCC unroll 8
    for (int i = 0; i < period; i++) step();
  }
  for (; k < depth; k++) step();
  for (int s = 0; s < SLICES; s++) {
    float* to = out;
    for (int m = 0; m < MR; m++, to += ldo)
      for (int v = 0; v < TV; v++) {
        const vf sum = acc[s * MR + m][v];
        store(to + v * kLanes, first && s == 0 ? sum : load(to + v * kLanes) + sum);
      }
  }
}

// A panel's 32 columns, in two halves if the accumulators for all of them do not fit the registers. Of weights that are
// to be widened, all of the next slice is fetched: ahead.lines is kPanelLines.
template <class W, int MR = kTuning.tile_rows>
static void tile_rows(int rows, const float* x, int64_t ldx, const W* w, int64_t ldw, int64_t depth, float* out,
                      int64_t ldo, bool first, Prefetch ahead, float* wide = nullptr) {
  if (rows == MR) {
    constexpr int TV = MR * kPanelVectors <= kTuning.accumulators ? kPanelVectors : kPanelVectors / 2;
    for (int v = 0; v < kPanelVectors; v += TV, w += TV * kLanes, out += TV * kLanes) {
      const int lines = TV == kPanelVectors ? ahead.lines : (ahead.lines + (v == 0)) / 2;
      if constexpr (sizeof(W) < sizeof(float)) {
        tile<W, MR, TV, kPanelLines * TV / kPanelVectors>(x, ldx, w, ldw, depth, out, ldo, first, ahead,
                                                          wide + v * kLanes);
      } else if (lines == 0) {
        tile<W, MR, TV, 0>(x, ldx, w, ldw, depth, out, ldo, first, ahead, nullptr);
      } else if (lines == 1) {
        tile<W, MR, TV, 1>(x, ldx, w, ldw, depth, out, ldo, first, ahead, nullptr);
      } else {
        tile<W, MR, TV, kPanelLines>(x, ldx, w, ldw, depth, out, ldo, first, ahead, nullptr);
      }
      if (lines > 0) ahead.from += depth / fetch_period<W>(lines) * ahead.step;
    }
    return;
  }
  if constexpr (MR > 1) tile_rows<W, MR - 1>(rows, x, ldx, w, ldw, depth, out, ldo, first, ahead, wide);
}

// blocks of even size: 16 rows are 8 + 8, not 12 + 4
static inline int rows_of_block(int64_t left) {
  const int64_t blocks = (left + kTuning.tile_rows - 1) / kTuning.tile_rows;
  return static_cast<int>((left + blocks - 1) / blocks);
}

// buffer[m - row0][0:32] = x[m] * panel w, for a chunk of rows, before it is scaled. `next`: the panel that this thread
// takes next, or null.
template <class W>
static void unscaled_sums(const LinearArgs& a, const W* w, const W* next, int64_t row0, int64_t row1, float* buffer) {
  constexpr bool widens = sizeof(W) < sizeof(float);
  float wide[widens ? kDepth * kPanel : 1];
  int64_t k0 = 0;
  if constexpr (widens && 2 * kPanelVectors <= kTuning.accumulators) {
    // One row has so few sums that each multiplication would wait for the one before: two slices go together.
    constexpr int64_t pair = 2 * kDepth, quarter = pair * kPanel / 4 * sizeof(W);
    for (; row1 - row0 == 1 && k0 + pair <= a.in; k0 += pair) {
      const W* slices = w + k0 * kPanel;
      const W* after = k0 + pair < a.in ? slices + pair * kPanel : next ? next : slices;
      const Prefetch ahead = {reinterpret_cast<const char*>(after), kPanelLines, quarter, 2 * quarter, kCacheLine};
      tile<W, 1, kPanelVectors, kPanelLines, 2>(a.x + row0 * a.ldx + k0, a.ldx, slices, kPanel, kDepth, buffer, kPanel,
                                                k0 == 0, ahead, nullptr);
    }
  }
  for (; k0 < a.in; k0 += kDepth) {
    const int64_t depth = a.in - k0 < kDepth ? a.in - k0 : kDepth;
    const W* slice = w + k0 * kPanel;
    // The first two blocks of rows share the fetching of the next slice evenly, so that memory is never idle; of
    // shorter weights, the first one fetches all. They fetch one line from each of its quarters in turn: a quarter is a
    // page, and more lines can be in flight from several pages than from one.
    constexpr int64_t quarter = kDepth * kPanel / 4 * sizeof(W);
    const int lines = widens || row1 - row0 <= kTuning.tile_rows ? kPanelLines : kPanelLines / 2;
    const W* after = k0 + depth < a.in ? slice + depth * kPanel : next;
    Prefetch ahead = {reinterpret_cast<const char*>(after), lines, quarter, 2 * quarter, kCacheLine};
    int64_t lines_left = after ? kDepth * kPanelLines : 0;
    for (int64_t m = row0; m < row1;) {
      const int rows = rows_of_block(row1 - m);
      const float* x = a.x + m * a.ldx + k0;
      float* to = buffer + (m - row0) * kPanel;
      if (widens && m > row0) {
        ahead.lines = 0;
        tile_rows<float>(rows, x, a.ldx, wide, kPanel, depth, to, kPanel, k0 == 0, ahead);
      } else if (widens) {
        if (!after) ahead.from = reinterpret_cast<const char*>(slice);  // which is there
        tile_rows<W>(rows, x, a.ldx, slice, kPanel, depth, to, kPanel, k0 == 0, ahead, wide);
      } else {
        if (lines_left <= 0) ahead.lines = 0;
        tile_rows<W>(rows, x, a.ldx, slice, kPanel, depth, to, kPanel, k0 == 0, ahead);
        ahead.from += depth * ahead.lines / kFetched * kCacheLine;
        lines_left -= depth * ahead.lines;
      }
      m += rows;
    }
  }
}

// The number of bytes of a weight's number.
static inline int64_t size_of(Format format) {
  if (format == Format::kInt8 || format == Format::kInt8Both) return 1;
  return format == Format::kFloat32 ? 4 : 2;
}

static inline const char* panel_of(const LinearArgs& a, int64_t panel) {
  const int64_t depth = a.weight.format == Format::kInt8Both ? Int8Rows::depth_of(a.in) : a.in;
  return static_cast<const char*>(a.weight.data) + panel * depth * kPanel * size_of(a.weight.format);
}

static inline NextProduct next_product(const PackedWeight& weight, int64_t in, int64_t out_features) {
  const int64_t depth = weight.format == Format::kInt8Both ? Int8Rows::depth_of(in) : in;
  return {static_cast<const char*>(weight.data), (out_features + kPanel - 1) / kPanel,
          depth * kPanel * size_of(weight.format)};
}

// What a thread reads after the last of its share of `count` panels, which `panel` is unless it was taken from another
// thread: the first panel of its share of the next product, or null.
static inline const char* panel_after(const NextProduct& after, int64_t panel, int64_t count) {
  const int64_t threads = num_threads(), end = panel + 1;
  if (!after.panels || count < threads) return nullptr;
  const int64_t share = (end * threads + count - 1) / count;  // counted from 1
  if (count * share / threads != end) return nullptr;
  return after.panels + after.num_panels * (share - 1) / threads * after.panel_bytes;
}

static inline Int8Rows int8_rows_of(const LinearArgs& a) { return {a.x, a.ldx, a.rows, a.in, a.weight}; }

static void int8_panel_sums(const LinearArgs& a, const Int8Rows& whole, int64_t panel, const char* next, int64_t row0,
                            int64_t row1, float* buffer) {
  int32_t sums[kRowChunk * kPanel];
  const auto* w = reinterpret_cast<const uint8_t*>(panel_of(a, panel));
  a.weight.int8->sums({.x = whole.row(row0),
                       .stride = whole.stride(),
                       .w = w,
                       .next = reinterpret_cast<const uint8_t*>(next),
                       .rows = row1 - row0,
                       .depth = Int8Rows::depth_of(a.in),
                       .sums = sums});
  for (int64_t m = row0; m < row1; m++) whole.finish(m, sums + (m - row0) * kPanel, w, buffer + (m - row0) * kPanel);
}

// buffer[m - row0][0:32] = x[m] * panel, for a chunk of rows. `next`: what `panel_of` gives for the panel that this
// thread takes next, or null. `whole`: the rows of `a`, if they are multiplied as whole numbers.
static void panel_sums(const LinearArgs& a, const Int8Rows& whole, int64_t panel, const char* next, int64_t row0,
                       int64_t row1, float* buffer) {
  const auto sums_of = [&](const auto* any) {
    using W = std::remove_pointer_t<decltype(any)>;
    unscaled_sums(a, reinterpret_cast<W*>(panel_of(a, panel)), reinterpret_cast<W*>(next), row0, row1, buffer);
  };
  switch (a.weight.format) {
    case Format::kFloat32: sums_of(static_cast<const float*>(nullptr)); break;
    case Format::kBfloat16: sums_of(static_cast<const Bfloat16*>(nullptr)); break;
    case Format::kFloat16: sums_of(static_cast<const Float16*>(nullptr)); break;
    case Format::kInt8: sums_of(static_cast<const int8_t*>(nullptr)); break;
    case Format::kInt8Both: int8_panel_sums(a, whole, panel, next, row0, row1, buffer); break;
  }
  if (!a.weight.scales) return;
  const float* scales = a.weight.scales + panel * kPanel;
  for (int64_t m = 0; m < row1 - row0; m++)
    for (int v = 0; v < kPanel; v += kLanes) {
      float* sums = buffer + m * kPanel + v;
      store(sums, load(sums) * load(scales + v));
    }
}

// What is done with a panel's sums: finish(column, width, row0, row1, sums), where sums[m - row0][0:width] are those of
// out[m][column : column + width].
template <class Finish>
static void linear_panel(const LinearArgs& a, const Int8Rows& whole, int64_t panel, bool goes_on, int64_t row0,
                         int64_t row1, const Finish& finish) {
  const int64_t column = panel * kPanel, count = (a.out_features + kPanel - 1) / kPanel;
  float buffer[kRowChunk * kPanel];  // the chunk's sums, kept apart from `out`, which may be the residual
  const char* next = goes_on ? panel_of(a, panel + 1) : panel_after(a.after, panel, count);
  panel_sums(a, whole, panel, next, row0, row1, buffer);
  finish(column, a.out_features - column < kPanel ? a.out_features - column : kPanel, row0, row1, buffer);
}

// Is the product large enough to be worth several threads?
static inline bool is_large(const LinearArgs& a) {
  return a.in * a.out_features > 32768 || a.in * a.out_features * a.rows > 262144;
}

template <class Finish>
static void linear_with(const LinearArgs& a, const Finish& finish) {
  const int64_t panels = (a.out_features + kPanel - 1) / kPanel;
  const Int8Rows whole = int8_rows_of(a);
  for (int64_t row0 = 0; row0 < a.rows; row0 += kRowChunk) {
    const int64_t row1 = row0 + kRowChunk < a.rows ? row0 + kRowChunk : a.rows;
    parallel_for(panels, 1, is_large(a), [&](int64_t begin, int64_t end, bool goes_on) {
      for (int64_t panel = begin; panel < end; panel++)
        linear_panel(a, whole, panel, goes_on || panel + 1 < end, row0, row1, finish);
    });
  }
}

static void linear(const LinearArgs& a) {
  linear_with(a, [&](int64_t column, int64_t width, int64_t row0, int64_t row1, const float* sums) {
    for (int64_t m = row0; m < row1; m++, sums += kPanel) {
      float* to = a.out + m * a.ldo + column;
      const float* residual = a.residual ? a.residual + m * a.ldo + column : nullptr;
      if (width == kPanel && !residual) {
        std::memcpy(to, sums, sizeof(float) * kPanel);
      } else {
        for (int64_t n = 0; n < width; n++) to[n] = sums[n] + (residual ? residual[n] : 0.0f);
      }
    }
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
