// The likeliest ids of a product with a vocabulary: each panel's logits are compared while they are in L1.
#pragma once

#include <algorithm>

#include "linear.h"
#include "scratch.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// The likeliest ids of one row so far, best first. Of equal logits the lower id must be inserted first.
struct Best {
  int64_t* ids;
  float* logits;
  int64_t top_k;

  // an id of -1 marks a free place
  bool full() const { return ids[top_k - 1] >= 0; }
  void insert(int64_t id, float logit) {
    if (full() && !(logit > logits[top_k - 1])) return;
    if (!(logit == logit)) logit = -__builtin_inff();  // NaN would break the order
    int64_t at = top_k - 1;
    for (; at > 0 && (ids[at - 1] < 0 || logit > logits[at - 1]); at--) {
      ids[at] = ids[at - 1];
      logits[at] = logits[at - 1];
    }
    ids[at] = id;
    logits[at] = logit;
  }
};

static inline bool any_larger(const float* panel, float than) {
  const vf level = splat(than);
  vi larger = {};
  for (int v = 0; v < kPanelVectors; v++) larger |= load(panel + v * kLanes) > level;
  int32_t lanes[kLanes], any = 0;
  std::memcpy(lanes, &larger, sizeof lanes);
  for (int i = 0; i < kLanes; i++) any |= lanes[i];
  return any != 0;
}

// The columns of `panel` that may be picked, one bit for each.
static inline uint32_t allowed_columns(int64_t panel, int64_t out_features) {
  const int64_t left = out_features - panel * kPanel;
  return left >= kPanel ? ~0u : (1u << left) - 1;
}

static void argmax_head(const ArgmaxHeadArgs& a) {
  const int64_t all = (a.out_features + kPanel - 1) / kPanel, k = a.top_k;
  // the panels to read, ascending, and the columns of each
  const Scratch<int64_t> panels(all);
  const Scratch<uint32_t> columns(all);
  std::fill(columns.get(), columns.get() + all, 0u);
  for (int64_t p = 0; p < all && !a.subset; p++) columns[p] = allowed_columns(p, a.out_features);
  for (int64_t i = 0; i < a.subset_size && a.subset; i++) columns[a.subset[i] / kPanel] |= 1u << a.subset[i] % kPanel;
  int64_t num_panels = 0;
  for (int64_t p = 0; p < all; p++)
    if (columns[p]) panels[num_panels++] = p;

  // Each slice of the vocabulary has its own best ids, and the best of these are the same however it is sliced. A slice
  // has to fill its `top_k` places first, so with more places there are fewer slices.
  const int64_t most = (k < 4 ? 8 : 4) * num_threads();
  const int64_t grain = num_panels / most + 1, slices = (num_panels + grain - 1) / grain;
  const int64_t chunk = a.rows < kRowChunk ? a.rows : kRowChunk, places = slices * chunk * k;
  const Scratch<int64_t> ids(places);
  const Scratch<float> logits(places);
  const LinearArgs product = {.x = a.x,
                              .weight = a.head,
                              .residual = nullptr,
                              .out = nullptr,
                              .rows = a.rows,
                              .in = a.in,
                              .out_features = a.out_features,
                              .ldx = a.ldx,
                              .ldo = 0};
  const Int8Rows whole = int8_rows_of(product);
  const bool worthwhile = a.in * num_panels * kPanel > 32768;

  for (int64_t row0 = 0; row0 < a.rows; row0 += kRowChunk) {
    const int64_t row1 = row0 + kRowChunk < a.rows ? row0 + kRowChunk : a.rows;
    for (int64_t i = 0; i < places; i++) ids[i] = -1;
    const auto best_of = [&](int64_t slice, int64_t row) {
      const int64_t at = (slice * chunk + row - row0) * k;
      return Best{ids.get() + at, logits.get() + at, k};
    };
    parallel_for(slices, 1, worthwhile, [&](int64_t first, int64_t last, bool goes_on) {
      float buffer[kRowChunk * kPanel];
      for (int64_t slice = first; slice < last; slice++) {
        const int64_t end = (slice + 1) * grain < num_panels ? (slice + 1) * grain : num_panels;
        for (int64_t i = slice * grain; i < end; i++) {
          const bool has_next = i + 1 < end || (goes_on && end < num_panels);
          panel_sums(product, whole, panels[i], has_next ? panel_of(product, panels[i + 1]) : nullptr, row0, row1,
                     buffer);
          for (int64_t m = row0; m < row1; m++) {
            const float* row = buffer + (m - row0) * kPanel;
            Best best = best_of(slice, m);
            if (best.full() && !any_larger(row, best.logits[k - 1])) continue;
            for (uint32_t left = columns[panels[i]]; left; left &= left - 1) {
              const int c = __builtin_ctz(left);
              best.insert(panels[i] * kPanel + c, row[c]);
            }
          }
        }
      }
    });
    for (int64_t m = row0; m < row1; m++) {
      Best best = {a.ids + m * k, a.logits + m * k, k};
      for (int64_t i = 0; i < k; i++) best.ids[i] = -1;
      for (int64_t slice = 0; slice < slices; slice++) {
        const Best part = best_of(slice, m);
        for (int64_t i = 0; i < k && part.ids[i] >= 0; i++) best.insert(part.ids[i], part.logits[i]);
      }
    }
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
