// Attention over a paged cache (ragged prefill and decode alike), over a fusion window, and the
// rotary embedding that comes before both.
#pragma once

#include <cstdlib>

#include "kernels.h"
#include "pool.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

static inline float dot(const float* a, const float* b, int64_t size) {
  vf acc = {};
  int64_t i = 0;
  for (; i + VL <= size; i += VL) acc += load(a + i) * load(b + i);
  float total = sum(acc);
  for (; i < size; i++) total += a[i] * b[i];
  return total;
}

// x[0:size] = exp(x - max x); returns the sum
static inline float exp_normalise(float* x, int64_t size) {
  float top = x[0];
  int64_t i = 0;
  if (size >= VL) {
    vf most = load(x);
    for (i = VL; i + VL <= size; i += VL) {
      const vf v = load(x + i);
      most = select(v > most, v, most);
    }
    top = maximum(most);
  }
  for (; i < size; i++) top = x[i] > top ? x[i] : top;
  vf acc = {};
  const vf shift = splat(top);
  for (i = 0; i + VL <= size; i += VL) {
    const vf e = vexp(load(x + i) - shift);
    store(x + i, e);
    acc += e;
  }
  float total = sum(acc);
  for (; i < size; i++) total += x[i] = sexp(x[i] - top);
  return total;
}

// dst = src rotated by the angles of one position (rotate-half form); dst may be src
static inline void rotate(const float* src, float* dst, const float* cos_sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const float *cosine = cos_sin, *sine = cos_sin + half;
  int64_t i = 0;
  for (; i + VL <= half; i += VL) {
    const vf a = load(src + i), b = load(src + half + i), c = load(cosine + i), s = load(sine + i);
    store(dst + i, a * c - b * s);
    store(dst + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    const float a = src[i], b = src[half + i];
    dst[i] = a * cosine[i] - b * sine[i];
    dst[half + i] = b * cosine[i] + a * sine[i];
  }
}

static void rope_cache_write_row(const RopeCacheArgs& a, int64_t token) {
  const float* angles = a.cos_sin + static_cast<int64_t>(a.positions[token]) * a.head_dim;
  float* row = a.qkv + token * (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
  for (int64_t h = 0; h < a.num_heads; h++)
    rotate(row + h * a.head_dim, row + h * a.head_dim, angles, a.head_dim);
  const int64_t slot = a.slots[token];
  if (slot < 0) return;
  const int64_t at =
      slot / a.cache.block_size * a.cache.block_stride + slot % a.cache.block_size * a.cache.row_stride;
  const float* key = row + a.num_heads * a.head_dim;
  for (int64_t h = 0; h < a.num_kv_heads; h++)
    rotate(key + h * a.head_dim, a.cache.key + at + h * a.head_dim, angles, a.head_dim);
  std::memcpy(a.cache.value + at, key + a.num_kv_heads * a.head_dim,
              sizeof(float) * a.num_kv_heads * a.head_dim);
}

static void rope_cache_write(const RopeCacheArgs& a) {
  parallel_for(a.num_tokens, 8, a.num_tokens * a.num_heads * a.head_dim > 65536, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token++) rope_cache_write_row(a, token);
  });
}

// out[0:head_dim] = sum over keys of weight[key] * value[key], keys ascending
template <int N>
static inline void weigh_values(const float* weights, float inverse, const float* values,
                                const PagedCache& cache, const int32_t* table, int64_t keys, float* out) {
  vf acc[N] = {};
  int64_t key = 0;
  for (int64_t block = 0; key < keys; block++) {
    const float* row = values + table[block] * cache.block_stride;
    const int64_t end = key + cache.block_size < keys ? key + cache.block_size : keys;
    for (; key < end; key++, row += cache.row_stride) {
      const vf w = splat(weights[key]);
      for (int i = 0; i < N; i++) acc[i] += w * load(row + i * VL);
    }
  }
  for (int i = 0; i < N; i++) store(out + i * VL, acc[i] * inverse);
}

static void weigh_values_scalar(const float* weights, float inverse, const float* values,
                                const PagedCache& cache, const int32_t* table, int64_t keys, float* out,
                                int64_t size) {
  for (int64_t i = 0; i < size; i++) {
    float total = 0.0f;
    for (int64_t key = 0; key < keys; key++)
      total += weights[key] * values[table[key / cache.block_size] * cache.block_stride +
                                     key % cache.block_size * cache.row_stride + i];
    out[i] = total * inverse;
  }
}

// One query head over the first `keys` positions of its sequence.
static void attend(const float* q, const PagedCache& cache, const int32_t* table, int64_t keys,
                   int64_t head_offset, int64_t head_dim, float scale, float* scores, float* out) {
  int64_t key = 0;
  for (int64_t block = 0; key < keys; block++) {
    const float* row = cache.key + table[block] * cache.block_stride + head_offset;
    const int64_t end = key + cache.block_size < keys ? key + cache.block_size : keys;
    for (; key < end; key++, row += cache.row_stride) scores[key] = dot(q, row, head_dim) * scale;
  }
  const float inverse = 1.0f / exp_normalise(scores, keys);
  const float* values = cache.value + head_offset;
  int64_t i = 0;
  for (; i + 4 * VL <= head_dim; i += 4 * VL)
    weigh_values<4>(scores, inverse, values + i, cache, table, keys, out + i);
  for (; i + VL <= head_dim; i += VL)
    weigh_values<1>(scores, inverse, values + i, cache, table, keys, out + i);
  if (i < head_dim)
    weigh_values_scalar(scores, inverse, values + i, cache, table, keys, out + i, head_dim - i);
}

// The sequence that a token belongs to: the last that starts at or before it and is not empty.
static inline int64_t sequence_of(const int32_t* cu_seqlens, int64_t num_seqs, int64_t token) {
  int64_t found = 0;
  for (int64_t low = 0, high = num_seqs; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (cu_seqlens[middle] <= token) found = middle, low = middle + 1;
    else high = middle;
  }
  return found;
}

static void paged_attention(const PagedAttentionArgs& a) {
  const int64_t group = a.num_heads / a.num_kv_heads;
  int64_t longest = 0, work = 0;
  for (int64_t s = 0; s < a.num_seqs; s++) {
    longest = a.context_lens[s] > longest ? a.context_lens[s] : longest;
    work += static_cast<int64_t>(a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s]) * a.context_lens[s];
  }
  // kv heads innermost, so that a few long sequences spread over the threads as well as many short ones
  const int64_t tasks = a.cu_seqlens_q[a.num_seqs] * a.num_kv_heads;
  const bool worthwhile = work * a.num_heads * a.head_dim > 65536;
  parallel_for(tasks, tasks / 64 + 1, worthwhile, [&](int64_t begin, int64_t end) {
    float* scores = static_cast<float*>(std::malloc(sizeof(float) * longest));
    for (int64_t task = begin; task < end; task++) {
      const int64_t token = task / a.num_kv_heads, kv_head = task % a.num_kv_heads;
      const int64_t seq = sequence_of(a.cu_seqlens_q, a.num_seqs, token);
      const int64_t behind = a.cu_seqlens_q[seq + 1] - 1 - token;  // queries after this one
      const int64_t keys = a.context_lens[seq] - behind;
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        attend(a.q + token * a.ldq + head * a.head_dim, a.cache, a.block_table + seq * a.max_blocks, keys,
               kv_head * a.head_dim, a.head_dim, a.scale, scores,
               a.out + (token * a.num_heads + head) * a.head_dim);
    }
    std::free(scores);
  });
}

// `query`: room for head_dim numbers; `scores`: for the entries of the fullest window
static void fusion_attention_row(const FusionArgs& a, int64_t token, float* query, float* scores) {
  const int64_t width = a.num_heads * a.head_dim;
  const int32_t table[1] = {0};
  const float* angles = a.cos_sin + static_cast<int64_t>(a.positions[token]) * a.head_dim;
  const int64_t row = (a.rows ? a.rows[token] : token) * a.row_stride;
  float* out = a.out + token * width;
  if (a.num_valid[token] == 0) {  // nothing to say yet: no text, no contribution
    std::memset(out, 0, sizeof(float) * width);
    return;
  }
  // the window is a cache of one block
  const PagedCache window = {const_cast<float*>(a.key) + row, const_cast<float*>(a.value) + row, 0,
                             a.entry_stride, a.num_valid[token]};
  for (int64_t h = 0; h < a.num_heads; h++) {
    rotate(a.q + token * width + h * a.head_dim, query, angles, a.head_dim);
    attend(query, window, table, a.num_valid[token], h * a.head_dim, a.head_dim, a.scale, scores,
           out + h * a.head_dim);
  }
}

static void fusion_attention(const FusionArgs& a) {
  int64_t fullest = 0;
  for (int64_t t = 0; t < a.num_tokens; t++) fullest = a.num_valid[t] > fullest ? a.num_valid[t] : fullest;
  parallel_for(a.num_tokens, 1, a.num_tokens * a.num_heads * a.head_dim > 8192, [&](int64_t begin, int64_t end) {
    float* query = static_cast<float*>(std::malloc(sizeof(float) * (a.head_dim + fullest)));
    for (int64_t token = begin; token < end; token++) fusion_attention_row(a, token, query, query + a.head_dim);
    std::free(query);
  });
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
