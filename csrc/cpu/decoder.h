// A run of Llama layers in one call: the CPU's answer to a CUDA graph. At one row per request the
// weights are read at memory speed, and what is left to save is the time between the operators.
//
// Layer: x += o(attention(norm(x))); where a row receives fusion, x += fusion_o(fusion(x)) on the
// un-normalised x; x += down(silu(gate(norm(x))) * up(norm(x))).   (Stream-Omni, arXiv 2506.13642)
#pragma once

#include <cstdlib>
#include <vector>

#include "fusion_attention.h"
#include "linear.h"
#include "paged_attention.h"
#include "pointwise.h"
#include "rope.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// What the last layer is spared where only some tokens' results are wanted: all of it but keys and values of the
// others. Moves the wanted rows of x to the front; the fused ones among them are then counted from there.
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

static void decoder_fusion(const DecoderArgs& a, const DecoderLayer& layer, int64_t index, float* rows,
                           float* query, float* mixed) {
  const int64_t width = a.num_heads * a.head_dim, n = a.num_fused;
  for (int64_t i = 0; i < n; i++)
    std::memcpy(rows + i * a.hidden, a.x + a.fusion_tokens[i] * a.hidden, sizeof(float) * a.hidden);
  linear({rows, layer.fusion_q, nullptr, query, n, a.hidden, width, a.hidden, width});
  const float* key = a.fusion_cache + index * 2 * width;
  const int64_t entry = a.num_layers * 2 * width;
  fusion_attention({query, key, key + width, a.fusion_rows, a.fusion_valid, a.fusion_positions, a.cos_sin, mixed,
                    n, a.num_heads, a.head_dim, a.window * entry, entry, a.scale});
  linear({mixed, layer.fusion_o, rows, rows, n, width, a.hidden, width, a.hidden});
  for (int64_t i = 0; i < n; i++)
    std::memcpy(a.x + a.fusion_tokens[i] * a.hidden, rows + i * a.hidden, sizeof(float) * a.hidden);
}

static void decoder_layers(DecoderArgs a) {
  const int64_t width = a.num_heads * a.head_dim;
  int64_t n = a.num_tokens;
  const int64_t qkv_width = width + 2 * a.num_kv_heads * a.head_dim;
  const int64_t per_row = a.hidden + qkv_width + width + 3 * a.intermediate;
  float* scratch = static_cast<float*>(std::malloc(sizeof(float) * n * per_row));
  float* normed = scratch;
  float* qkv = normed + n * a.hidden;
  float* mixed = qkv + n * qkv_width;
  float* gate_up = mixed + n * width;
  float* active = gate_up + n * 2 * a.intermediate;
  std::vector<int64_t> tokens(a.num_fused), rows(a.num_fused);
  std::vector<int32_t> valid(a.num_fused), positions(a.num_fused);

  for (int64_t i = 0; i < a.num_layers; i++) {
    const DecoderLayer& layer = a.layers[i];
    const int64_t* wanted = i + 1 == a.num_layers ? a.wanted : nullptr;
    PagedCache cache = a.cache;
    cache.key += i * a.layer_stride;
    cache.value += i * a.layer_stride;

    rms_norm(a.x, layer.input_norm, normed, n, a.hidden, a.eps);
    linear({normed, layer.qkv, nullptr, qkv, n, a.hidden, qkv_width, a.hidden, qkv_width});
    rope_cache_write({qkv, a.positions, a.cos_sin, a.slots, cache, n, a.num_heads, a.num_kv_heads, a.head_dim});
    paged_attention({qkv, cache, a.cu_seqlens_q, a.context_lens, a.block_table, mixed, a.num_seqs, a.max_blocks,
                     a.num_heads, a.num_kv_heads, a.head_dim, qkv_width, a.scale, wanted, a.num_wanted});
    if (wanted) {
      keep_wanted(a, tokens.data(), rows.data(), valid.data(), positions.data());
      n = a.num_wanted;
    }
    linear({mixed, layer.o, a.x, a.x, n, width, a.hidden, width, a.hidden});

    if (layer.fusion_q && a.num_fused) decoder_fusion(a, layer, i, normed, qkv, mixed);

    rms_norm(a.x, layer.post_norm, normed, n, a.hidden, a.eps);
    linear({normed, layer.gate_up, nullptr, gate_up, n, a.hidden, 2 * a.intermediate, a.hidden,
            2 * a.intermediate});
    silu_mul(gate_up, active, n, a.intermediate);
    linear({active, layer.down, a.x, a.x, n, a.intermediate, a.hidden, a.intermediate, a.hidden});
  }
  std::free(scratch);
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
