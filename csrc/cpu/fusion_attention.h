// Fusion: attention over a window of text, and the writes that fill the windows.
#pragma once

#include <cstring>

#include "attention.h"
#include "kernels.h"
#include "pool.h"
#include "rope.h"
#include "scratch.h"

namespace antiphon {
namespace ANTIPHON_ISA {

static void fusion_attention_row(const FusionArgs& a, int64_t token, float* query, float* scores) {
  const int64_t width = a.num_heads * a.head_dim;
  const int32_t table[1] = {0};
  const float* angles = a.cos_sin + static_cast<int64_t>(a.positions[token]) * a.head_dim;
  const int64_t row = (a.rows ? a.rows[token] : token) * a.row_stride;
  float* out = a.out + token * width;
  if (a.num_valid[token] == 0) {  // no text yet, so nothing to contribute
    std::memset(out, 0, sizeof(float) * width);
    return;
  }
  // the window is a cache of one block, and every head has its own keys
  const PagedCache window = {.key = const_cast<float*>(a.key) + row,
                             .value = const_cast<float*>(a.value) + row,
                             .block_stride = 0,
                             .row_stride = a.entry_stride,
                             .block_size = a.num_valid[token]};
  for (int64_t h = 0; h < a.num_heads; h++)
    rotate(a.q + token * width + h * a.head_dim, query + h * a.head_dim, angles, a.head_dim);
  attend<float>({.q = query,
                 .cache = window,
                 .table = table,
                 .keys = a.num_valid[token],
                 .kv_begin = 0,
                 .kv_end = a.num_heads,
                 .group = 1,
                 .head_dim = a.head_dim,
                 .scale = a.scale,
                 .out = out,
                 .behind = 0,
                 .next_block = nullptr},
                scores);
}

static void fusion_attention(const FusionArgs& a) {
  const int64_t width = a.num_heads * a.head_dim;
  int64_t window = 0;
  for (int64_t t = 0; t < a.num_tokens; t++) window = a.num_valid[t] > window ? a.num_valid[t] : window;
  ShortMemory is_short;
  parallel_for(a.num_tokens, 1, a.num_tokens * width > 8192, [&](int64_t begin, int64_t end) {
    const Scratch<float> query(width + a.num_heads * window, std::nothrow);
    if (!query) return is_short.set();
    for (int64_t token = begin; token < end; token++) fusion_attention_row(a, token, query.get(), query.get() + width);
  });
  is_short.rethrow();
}

static void fusion_cache_write(const FusionCacheArgs& a) {
  const int64_t width = a.num_heads * a.head_dim, row = a.num_layers * 2 * width;
  for (int64_t t = 0; t < a.num_tokens; t++) {
    const float* angles = a.cos_sin + static_cast<int64_t>(a.positions[t]) * a.head_dim;
    for (int64_t layer = 0; layer < a.num_layers; layer++) {
      const float* from = a.kv + t * row + layer * 2 * width;
      float* to = a.cache + a.slots[t] * row + layer * 2 * width;
      for (int64_t h = 0; h < a.num_heads; h++) rotate(from + h * a.head_dim, to + h * a.head_dim, angles, a.head_dim);
      std::memcpy(to + width, from + width, sizeof(float) * width);
    }
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
