// A run of Llama layers in one call: the CPU's answer to a CUDA graph. At one row per request the weights are read at
// memory speed, and only the time between the operators is left to save.
//
// Layer: x += o(attention(norm(x))); where a row receives fusion, x += fusion_o(fusion(x)) on the un-normalised x;
// x += down(silu(gate(norm(x))) * up(norm(x))). The result is the final norm of x. (Stream-Omni, arXiv 2506.13642)
#pragma once

#include <algorithm>

#include "fusion_attention.h"
#include "linear.h"
#include "paged_attention.h"
#include "pointwise.h"
#include "rope.h"
#include "scratch.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// If only some tokens' results are wanted, the last layer just writes the keys and values of the others. This moves the
// wanted rows of x to the front, and renumbers those among them that receive fusion.
static void keep_wanted(DecoderArgs& a, int64_t* tokens, int64_t* rows, int32_t* valid, int32_t* positions) {
  int64_t fused = 0, next = 0;
  for (int64_t i = 0; i < a.num_wanted; i++) {
    const int64_t token = a.wanted[i];
    if (token != i) std::memcpy(a.x + i * a.hidden, a.x + token * a.hidden, sizeof(float) * a.hidden);
    while (next < a.num_fused && a.fusion_tokens[next] < token) next++;
    if (next < a.num_fused && a.fusion_tokens[next] == token) {
      tokens[fused] = i, rows[fused] = a.fusion_rows[next];
      valid[fused] = a.fusion_valid[next], positions[fused++] = a.fusion_positions[next];
    }
  }
  a.fusion_tokens = tokens, a.fusion_rows = rows, a.fusion_valid = valid, a.fusion_positions = positions;
  a.num_fused = fused;
}

// out = silu(gate) * up for a chunk of rows, whose gates and ups never leave L1: a thread takes a panel of gates and
// the matching panel of ups. The weight holds all gates, then all ups, each in whole panels.
static void gated_linear(const LinearArgs& a) {
  const int64_t panels = a.out_features / 2 / kPanel;
  const Int8Rows whole = int8_rows_of(a);
  parallel_for(panels, 1, is_large(a), [&](int64_t begin, int64_t end, bool goes_on) {
    float gate[kRowChunk * kPanel], up[kRowChunk * kPanel];
    for (int64_t panel = begin; panel < end; panel++) {
      const bool has_next = goes_on || panel + 1 < end;
      panel_sums(a, whole, panel, panel_of(a, panels + panel), 0, a.rows, gate);
      const char* next = has_next ? panel_of(a, panel + 1) : panel_after(a.after, panel, panels);
      panel_sums(a, whole, panels + panel, next, 0, a.rows, up);
      for (int64_t m = 0; m < a.rows; m++)
        silu_mul_row(gate + m * kPanel, up + m * kPanel, a.out + m * a.ldo + panel * kPanel, kPanel);
    }
  });
}

// Intermediate results of a run of layers. Rows go through everything but attention kRowChunk at a time, so that most
// of this stays in L2.
struct DecoderScratch {
  float *qkv, *mixed;                // of all rows
  float *normed, *gate_up, *active;  // of a chunk
  float *query, *fused;              // of a chunk, for fusion
  Scratch<float> memory;

  explicit DecoderScratch(const DecoderArgs& a) : memory(size(a)) {
    const int64_t n = a.num_tokens, chunk = chunk_of(a), width = a.num_heads * a.head_dim;
    mixed = memory.get(), qkv = mixed + n * width;
    normed = memory.get() + n * per_row(a), gate_up = normed + chunk * a.hidden;
    active = gate_up + chunk * 2 * a.intermediate;
    query = active + chunk * a.intermediate, fused = query + chunk * width;
  }

 private:
  static int64_t chunk_of(const DecoderArgs& a) { return a.num_tokens < kRowChunk ? a.num_tokens : kRowChunk; }
  static int64_t per_row(const DecoderArgs& a) { return 2 * (a.num_heads + a.num_kv_heads) * a.head_dim; }
  static int64_t size(const DecoderArgs& a) {
    return a.num_tokens * per_row(a) + chunk_of(a) * (a.hidden + 3 * a.intermediate + 2 * a.num_heads * a.head_dim);
  }
};

// Fusion for the tokens [begin, end) of those that receive it.
static void decoder_fusion(const DecoderArgs& a, int64_t index, int64_t begin, int64_t end, const DecoderScratch& to) {
  const DecoderLayer& layer = a.layers[index];
  const int64_t width = a.num_heads * a.head_dim, n = end - begin;
  const int64_t* tokens = a.fusion_tokens + begin;
  for (int64_t i = 0; i < n; i++)
    std::memcpy(to.normed + i * a.hidden, a.x + tokens[i] * a.hidden, sizeof(float) * a.hidden);
  linear({.x = to.normed,
          .weight = layer.fusion_q,
          .residual = nullptr,
          .out = to.query,
          .rows = n,
          .in = a.hidden,
          .out_features = width,
          .ldx = a.hidden,
          .ldo = width,
          .after = next_product(layer.fusion_o, width, a.hidden)});
  const float* key = a.fusion_cache + index * 2 * width;
  const int64_t entry = a.num_layers * 2 * width;
  fusion_attention({.q = to.query,
                    .key = key,
                    .value = key + width,
                    .rows = a.fusion_rows + begin,
                    .num_valid = a.fusion_valid + begin,
                    .positions = a.fusion_positions + begin,
                    .cos_sin = a.cos_sin,
                    .out = to.fused,
                    .num_tokens = n,
                    .num_heads = a.num_heads,
                    .head_dim = a.head_dim,
                    .row_stride = a.window * entry,
                    .entry_stride = entry,
                    .scale = a.scale});
  linear({.x = to.fused,
          .weight = layer.fusion_o,
          .residual = to.normed,
          .out = to.normed,
          .rows = n,
          .in = width,
          .out_features = a.hidden,
          .ldx = width,
          .ldo = a.hidden,
          .after = next_product(layer.gate_up, a.hidden, 2 * a.intermediate)});
  for (int64_t i = 0; i < n; i++)
    std::memcpy(a.x + tokens[i] * a.hidden, to.normed + i * a.hidden, sizeof(float) * a.hidden);
}

static PagedCache cache_of_layer(const DecoderArgs& a, int64_t index) {
  PagedCache cache = a.cache;
  const int64_t number = cache.key_scales ? sizeof(int8_t) : sizeof(float), step = index * a.layer_stride * number;
  cache.key = static_cast<char*>(cache.key) + step, cache.value = static_cast<char*>(cache.value) + step;
  if (cache.key_scales) {
    cache.key_scales += index * a.layer_scale_stride;
    cache.value_scales += index * a.layer_scale_stride;
  }
  return cache;
}

// What a layer does with rows [row0, row1) before attention, and then what it does after.
static void decoder_before(const DecoderArgs& a, int64_t index, const PagedCache& cache, int64_t row0, int64_t row1,
                           const DecoderScratch& to) {
  const DecoderLayer& layer = a.layers[index];
  const int64_t n = row1 - row0, qkv_width = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
  float* qkv = to.qkv + row0 * qkv_width;
  rms_norm(a.x + row0 * a.hidden, layer.input_norm, to.normed, n, a.hidden, a.eps);
  linear({.x = to.normed,
          .weight = layer.qkv,
          .residual = nullptr,
          .out = qkv,
          .rows = n,
          .in = a.hidden,
          .out_features = qkv_width,
          .ldx = a.hidden,
          .ldo = qkv_width,
          .after = next_product(layer.o, a.num_heads * a.head_dim, a.hidden)});
  rope_cache_write({.qkv = qkv,
                    .positions = a.positions + row0,
                    .cos_sin = a.cos_sin,
                    .slots = a.slots + row0,
                    .cache = cache,
                    .num_tokens = n,
                    .num_heads = a.num_heads,
                    .num_kv_heads = a.num_kv_heads,
                    .head_dim = a.head_dim});
}

static void decoder_after(const DecoderArgs& a, int64_t index, int64_t row0, int64_t row1, const DecoderScratch& to) {
  const DecoderLayer& layer = a.layers[index];
  const int64_t n = row1 - row0, width = a.num_heads * a.head_dim;
  float* x = a.x + row0 * a.hidden;
  linear({.x = to.mixed + row0 * width,
          .weight = layer.o,
          .residual = x,
          .out = x,
          .rows = n,
          .in = width,
          .out_features = a.hidden,
          .ldx = width,
          .ldo = a.hidden,
          .after = layer.fusion_q.data ? next_product(layer.fusion_q, a.hidden, width)
                                       : next_product(layer.gate_up, a.hidden, 2 * a.intermediate)});

  if (layer.fusion_q.data) {
    const int64_t* tokens_end = a.fusion_tokens + a.num_fused;
    const int64_t begin = std::lower_bound(a.fusion_tokens, tokens_end, row0) - a.fusion_tokens;
    const int64_t end = std::lower_bound(a.fusion_tokens, tokens_end, row1) - a.fusion_tokens;
    if (begin < end) decoder_fusion(a, index, begin, end, to);
  }

  rms_norm(x, layer.post_norm, to.normed, n, a.hidden, a.eps);
  const LinearArgs gate_up = {.x = to.normed,
                              .weight = layer.gate_up,
                              .residual = nullptr,
                              .out = to.gate_up,
                              .rows = n,
                              .in = a.hidden,
                              .out_features = 2 * a.intermediate,
                              .ldx = a.hidden,
                              .ldo = 2 * a.intermediate,
                              .after = next_product(layer.down, a.intermediate, a.hidden)};
  if (a.intermediate % kPanel == 0) {
    LinearArgs gated = gate_up;
    gated.out = to.active, gated.ldo = a.intermediate;
    gated_linear(gated);
  } else {
    linear(gate_up);
    silu_mul(to.gate_up, to.active, n, a.intermediate);
  }
  linear({.x = to.active,
          .weight = layer.down,
          .residual = x,
          .out = x,
          .rows = n,
          .in = a.intermediate,
          .out_features = a.hidden,
          .ldx = a.intermediate,
          .ldo = a.hidden,
          .after = index + 1 < a.num_layers ? next_product(a.layers[index + 1].qkv, a.hidden,
                                                           (a.num_heads + 2 * a.num_kv_heads) * a.head_dim)
                                            : NextProduct{}});
}

static void decoder_layers(DecoderArgs a) {
  const DecoderScratch scratch(a);
  int64_t n = a.num_tokens;
  const Scratch<int64_t> tokens(a.num_fused), rows(a.num_fused);
  const Scratch<int32_t> valid(a.num_fused), positions(a.num_fused);

  for (int64_t i = 0; i < a.num_layers; i++) {
    const int64_t* wanted = i + 1 == a.num_layers ? a.wanted : nullptr;
    const PagedCache cache = cache_of_layer(a, i);

    for (int64_t row = 0; row < n; row += kRowChunk)
      decoder_before(a, i, cache, row, std::min(row + kRowChunk, n), scratch);
    paged_attention({.q = scratch.qkv,
                     .cache = cache,
                     .cu_seqlens_q = a.cu_seqlens_q,
                     .context_lens = a.context_lens,
                     .block_table = a.block_table,
                     .out = scratch.mixed,
                     .num_seqs = a.num_seqs,
                     .max_blocks = a.max_blocks,
                     .num_heads = a.num_heads,
                     .num_kv_heads = a.num_kv_heads,
                     .head_dim = a.head_dim,
                     .ldq = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim,
                     .scale = a.scale,
                     .tokens = wanted,
                     .num_tokens = a.num_wanted});
    if (wanted) {
      keep_wanted(a, tokens.get(), rows.get(), valid.get(), positions.get());
      n = a.num_wanted;
    }
    for (int64_t row = 0; row < n; row += kRowChunk) decoder_after(a, i, row, std::min(row + kRowChunk, n), scratch);
  }
  rms_norm(a.x, a.final_norm, a.x, n, a.hidden, a.eps);
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
