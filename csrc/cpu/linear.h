// y = x W^T + residual for few rows (decoding) and many (prefill), reading W once per row chunk.
//
// W is packed into panels of 32 output features, (panels, in, 32): one pass over a panel streams memory in order, and
// each broadcast x[m][k] feeds 32 outputs. A sum runs over k ascending: each block of kDepth products has an
// accumulator of its own, and the blocks are then added up, which keeps the rounding error small. The order is the same
// for any number of rows, so a row's result does not depend on its batch.
//
// While a slice of kDepth is multiplied, the next one is fetched into L2: with more than a row or two the arithmetic
// takes so long that the processor's own prefetcher loses track, and memory would stand idle.
#pragma once

#include "kernels.h"
#include "pool.h"
#include "tuning.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int kPanelVectors = kPanel / kLanes;    // vectors across a panel
constexpr int64_t kDepth = 128;                   // a panel's slice of 16 KiB stays in L1 across row blocks
constexpr int kCacheLine = 16;                    // floats
constexpr int kPanelLines = kPanel / kCacheLine;  // in a panel's row
constexpr int kFetched = 4;                       // lines that are fetched together
constexpr int64_t kRowChunk = 96;                 // rows of x that stay in L2 across panels

// Weights to fetch during the arithmetic: kFetched lines at a time, at `from`, `from + next`, `from + pair` and
// `from + pair + next`; then `from` moves on by `step` floats. Each k fetches `lines` lines (0, 1 or kPanelLines).
struct Prefetch {
  const float* from;
  int lines;
  int64_t next, pair, step;
};

// out[0:MR][0:TV vectors] (+)= x[0:MR][0:depth] * w[0:depth][0:TV vectors], summed up before it is added. AHEAD is
// ahead.lines.
//
// Rows are addressed in threes, the second and third by a scaled index: a pointer per row would not fit the registers,
// and every spilled pointer costs the multipliers a turn. Without the attribute, GCC would keep a pointer per row.
template <int MR, int TV, int AHEAD>
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-ivopts")))
#endif
static void tile(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t depth, float* out, int64_t ldo,
                 bool first, Prefetch ahead) {
  constexpr int threes = (MR + 2) / 3;
  vf acc[MR][TV] = {};
  const float* row[threes];
  for (int i = 0; i < threes; i++) row[i] = x + 3 * i * ldx;
  for (int64_t k = 0; k < depth; k++) {
    if constexpr (AHEAD > 0)
      if (k % (kFetched / AHEAD) == 0) {
        for (int i = 0; i < kFetched; i++)
          __builtin_prefetch(ahead.from + i % 2 * ahead.next + i / 2 * ahead.pair, 0, 2);
        ahead.from += ahead.step;
      }
    vf weight[TV];
    for (int v = 0; v < TV; v++) weight[v] = load(w + v * kLanes);
    w += ldw;
    for (int m = 0; m < MR; m++) {
      const vf broadcast = splat(row[m / 3][m % 3 * ldx]);
      for (int v = 0; v < TV; v++) acc[m][v] += broadcast * weight[v];
    }
    for (int i = 0; i < threes; i++) row[i]++;
  }
  for (int m = 0; m < MR; m++, out += ldo)
    for (int v = 0; v < TV; v++) store(out + v * kLanes, first ? acc[m][v] : load(out + v * kLanes) + acc[m][v]);
}

// A panel's 32 columns, in two halves if the accumulators for all of them do not fit the registers.
template <int MR>
static void tile_rows(int rows, const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t depth, float* out,
                      int64_t ldo, bool first, Prefetch ahead) {
  if (rows == MR) {
    constexpr int TV = MR * kPanelVectors <= kTuning.accumulators ? kPanelVectors : kPanelVectors / 2;
    for (int v = 0; v < kPanelVectors; v += TV, w += TV * kLanes, out += TV * kLanes) {
      const int lines = TV == kPanelVectors ? ahead.lines : (ahead.lines + (v == 0)) / 2;
      if (lines == 0) tile<MR, TV, 0>(x, ldx, w, ldw, depth, out, ldo, first, ahead);
      else if (lines == 1) tile<MR, TV, 1>(x, ldx, w, ldw, depth, out, ldo, first, ahead);
      else tile<MR, TV, kPanelLines>(x, ldx, w, ldw, depth, out, ldo, first, ahead);
      ahead.from += depth * lines / kFetched * ahead.step;
    }
    return;
  }
  if constexpr (MR > 1) tile_rows<MR - 1>(rows, x, ldx, w, ldw, depth, out, ldo, first, ahead);
}

// blocks of even size: 16 rows are 8 + 8, not 12 + 4
static inline int rows_of_block(int64_t left) {
  const int64_t blocks = (left + kTuning.tile_rows - 1) / kTuning.tile_rows;
  return static_cast<int>((left + blocks - 1) / blocks);
}

// buffer[m - row0][0:32] = x[m] * panel, for a chunk of rows. `next`: the panel that this thread takes next, or null.
static void panel_sums(const LinearArgs& a, int64_t panel, const float* next, int64_t row0, int64_t row1,
                       float* buffer) {
  const float* w = a.weight + panel * a.in * kPanel;
  for (int64_t k0 = 0; k0 < a.in; k0 += kDepth) {
    const int64_t depth = a.in - k0 < kDepth ? a.in - k0 : kDepth;
    const float* slice = w + k0 * kPanel;
    // The first two blocks of rows share the fetching of the next slice evenly, so that memory is never idle. They
    // fetch one line from each of its quarters in turn: a quarter is a page, and more lines can be in flight from
    // several pages than from one.
    constexpr int64_t quarter = kDepth * kPanel / 4;
    const int lines = row1 - row0 <= kTuning.tile_rows ? kPanelLines : kPanelLines / 2;
    Prefetch ahead = {k0 + depth < a.in ? slice + depth * kPanel : next, lines, quarter, 2 * quarter, kCacheLine};
    int64_t lines_left = ahead.from ? kDepth * kPanelLines : 0;
    for (int64_t m = row0; m < row1;) {
      const int rows = rows_of_block(row1 - m);
      if (lines_left <= 0) ahead.lines = 0;
      tile_rows<kTuning.tile_rows>(rows, a.x + m * a.ldx + k0, a.ldx, slice, kPanel, depth,
                                   buffer + (m - row0) * kPanel, kPanel, k0 == 0, ahead);
      ahead.from += depth * ahead.lines / kFetched * kCacheLine;
      lines_left -= depth * ahead.lines;
      m += rows;
    }
  }
}

static inline const float* panel_of(const LinearArgs& a, int64_t panel) { return a.weight + panel * a.in * kPanel; }

static void linear_panel(const LinearArgs& a, int64_t panel, bool goes_on, int64_t row0, int64_t row1) {
  const int64_t column = panel * kPanel;
  const int64_t width = a.out_features - column < kPanel ? a.out_features - column : kPanel;
  float buffer[kRowChunk * kPanel];  // the chunk's sums, kept apart from `out`, which may be the residual
  panel_sums(a, panel, goes_on ? panel_of(a, panel + 1) : nullptr, row0, row1, buffer);
  for (int64_t m = row0; m < row1; m++) {
    const float* from = buffer + (m - row0) * kPanel;
    float* to = a.out + m * a.ldo + column;
    const float* residual = a.residual ? a.residual + m * a.ldo + column : nullptr;
    if (width == kPanel && !residual) {
      std::memcpy(to, from, sizeof(float) * kPanel);
    } else {
      for (int64_t n = 0; n < width; n++) to[n] = from[n] + (residual ? residual[n] : 0.0f);
    }
  }
}

// Is the product large enough to be worth several threads?
static inline bool is_large(const LinearArgs& a) {
  return a.in * a.out_features > 32768 || a.in * a.out_features * a.rows > 262144;
}

static void linear(const LinearArgs& a) {
  const int64_t panels = (a.out_features + kPanel - 1) / kPanel;
  for (int64_t row0 = 0; row0 < a.rows; row0 += kRowChunk) {
    const int64_t row1 = row0 + kRowChunk < a.rows ? row0 + kRowChunk : a.rows;
    parallel_for(panels, 1, is_large(a), [&](int64_t begin, int64_t end, bool goes_on) {
      for (int64_t panel = begin; panel < end; panel++) linear_panel(a, panel, goes_on || panel + 1 < end, row0, row1);
    });
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
