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

// out[0:4] = the dot products of a with four rows of b, each as `dot` has it
static inline void dot4(const float* a, const float* b, int64_t stride, int64_t size, float scale, float* out) {
  vf acc[4] = {};
  int64_t i = 0;
  for (; i + VL <= size; i += VL) {
    const vf x = load(a + i);
    for (int row = 0; row < 4; row++) acc[row] += x * load(b + row * stride + i);
  }
  const vf4 totals = sum4(acc[0], acc[1], acc[2], acc[3]);
  for (int row = 0; row < 4; row++) {
    float total = totals[row];
    for (int64_t j = i; j < size; j++) total += a[j] * b[row * stride + j];
    out[row] = total * scale;
  }
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

// Query heads of one token that share kv heads [kv_begin, kv_end), over its sequence's first `keys`
// positions. Blocks are walked outermost: all heads' keys of a block lie side by side in memory.
struct Attention {
  const float* q;  // of the first of these heads
  PagedCache cache;
  const int32_t* table;
  int64_t keys, kv_begin, kv_end, group, head_dim;
  float scale;
  float* out;
};

// Rows of the block behind the one at hand, on their way into L2 meanwhile. Each head brings its share of the rows
// that its group will read: evenly, since all at once they would fill the line buffers and stop the arithmetic.
struct NextRows {
  const float* from;  // null: there is none
  int64_t stride, size;

  void fetch(int64_t row) const {
    if (!from) return;
    for (int64_t i = 0; i < size; i += 16) __builtin_prefetch(from + row * stride + i, 0, 2);
  }
};

static inline const float* block_of(const Attention& a, const float* cache, int64_t block) {
  return cache + a.table[block] * a.cache.block_stride + a.kv_begin * a.head_dim;
}

// What head number `head` fetches, given the first number of the next block's rows
static inline NextRows share_of(const Attention& a, const float* next, int64_t head) {
  const int64_t size = (a.head_dim + a.group - 1) / a.group;
  return {next ? next + head / a.group * a.head_dim + head % a.group * size : nullptr, a.cache.row_stride, size};
}

// scores[head][key] = q[head] . key * scale
static void attention_scores(const Attention& a, float* scores) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const float* here = block_of(a, a.cache.key, block);
    // behind the last keys come the first values
    const float* next = begin + size < a.keys ? block_of(a, a.cache.key, block + 1) : block_of(a, a.cache.value, 0);
    for (int64_t head = 0; head < num_heads; head++) {
      const float *q = a.q + head * a.head_dim, *keys = here + head / a.group * a.head_dim;
      const NextRows ahead = share_of(a, next, head);
      float* to = scores + head * a.keys + begin;
      int64_t i = 0;
      for (; i + 4 <= size; i += 4) {
        for (int row = 0; row < 4; row++) ahead.fetch(i + row);
        dot4(q, keys + i * a.cache.row_stride, a.cache.row_stride, a.head_dim, a.scale, to + i);
      }
      for (; i < size; i++) to[i] = dot(q, keys + i * a.cache.row_stride, a.head_dim) * a.scale;
    }
  }
}

// out[0:N vectors] += sum over a block's keys of weight * value, keys ascending
template <int N>
static inline void add_values(const float* weights, const float* values, int64_t stride, int64_t size, float* out,
                              const NextRows& ahead) {
  vf acc[N];
  for (int i = 0; i < N; i++) acc[i] = load(out + i * VL);
  for (int64_t key = 0; key < size; key++) {
    ahead.fetch(key);
    const vf w = splat(weights[key]);
    for (int i = 0; i < N; i++) acc[i] += w * load(values + key * stride + i * VL);
  }
  for (int i = 0; i < N; i++) store(out + i * VL, acc[i]);
}

// out[head] = sum over keys of weights[head][key] * value, keys ascending
static void attention_values(const Attention& a, const float* weights) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  std::memset(a.out, 0, sizeof(float) * num_heads * a.head_dim);
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const float* here = block_of(a, a.cache.value, block);
    const float* next = begin + size < a.keys ? block_of(a, a.cache.value, block + 1) : nullptr;
    for (int64_t head = 0; head < num_heads; head++) {
      const float *w = weights + head * a.keys + begin, *values = here + head / a.group * a.head_dim;
      float* out = a.out + head * a.head_dim;
      NextRows ahead = share_of(a, next, head);
      int64_t d = 0;
      for (; d + 4 * VL <= a.head_dim; d += 4 * VL) {
        add_values<4>(w, values + d, a.cache.row_stride, size, out + d, ahead);
        ahead.from = nullptr;
      }
      for (; d + VL <= a.head_dim; d += VL) {
        add_values<1>(w, values + d, a.cache.row_stride, size, out + d, ahead);
        ahead.from = nullptr;
      }
      for (; d < a.head_dim; d++)
        for (int64_t i = 0; i < size; i++) out[d] += w[i] * values[i * a.cache.row_stride + d];
    }
  }
}

static void attend(const Attention& a, float* scores) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  if (a.keys <= 0) {  // a row of no request
    std::memset(a.out, 0, sizeof(float) * num_heads * a.head_dim);
    return;
  }
  attention_scores(a, scores);
  for (int64_t head = 0; head < num_heads; head++) {
    float* row = scores + head * a.keys;
    const float inverse = 1.0f / exp_normalise(row, a.keys);
    for (int64_t key = 0; key < a.keys; key++) row[key] *= inverse;
  }
  attention_values(a, scores);
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
  const int64_t group = a.num_heads / a.num_kv_heads, all = a.cu_seqlens_q[a.num_seqs];
  const int64_t tokens = a.tokens ? a.num_tokens : all;
  if (tokens == 0) return;
  int64_t longest = 0, work = 0;
  for (int64_t s = 0; s < a.num_seqs; s++) {
    longest = a.context_lens[s] > longest ? a.context_lens[s] : longest;
    work += static_cast<int64_t>(a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s]) * a.context_lens[s];
  }
  // few tokens are shared out by kv head, or most threads would have none
  const int64_t parts = tokens < 8 ? a.num_kv_heads : 1;
  const int64_t tasks = tokens * parts, kv_heads = a.num_kv_heads / parts;
  const bool worthwhile = work / all * tokens * a.num_heads * a.head_dim > 32768;
  parallel_for(tasks, tasks / 64 + 1, worthwhile, [&](int64_t begin, int64_t end) {
    float* scores = static_cast<float*>(std::malloc(sizeof(float) * longest * kv_heads * group));
    for (int64_t task = begin; task < end; task++) {
      const int64_t row = task / parts, kv_begin = task % parts * kv_heads;
      const int64_t token = a.tokens ? a.tokens[row] : row;
      const int64_t seq = sequence_of(a.cu_seqlens_q, a.num_seqs, token);
      const int64_t behind = a.cu_seqlens_q[seq + 1] - 1 - token;  // queries after this one
      const int64_t head = kv_begin * group;
      attend({a.q + token * a.ldq + head * a.head_dim, a.cache, a.block_table + seq * a.max_blocks,
              a.context_lens[seq] - behind, kv_begin, kv_begin + kv_heads, group, a.head_dim, a.scale,
              a.out + (row * a.num_heads + head) * a.head_dim},
             scores);
    }
    std::free(scores);
  });
}

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
  // the window is a cache of one block, and every head has keys of its own
  const PagedCache window = {const_cast<float*>(a.key) + row, const_cast<float*>(a.value) + row, 0,
                             a.entry_stride, a.num_valid[token]};
  for (int64_t h = 0; h < a.num_heads; h++)
    rotate(a.q + token * width + h * a.head_dim, query + h * a.head_dim, angles, a.head_dim);
  attend({query, window, table, a.num_valid[token], 0, a.num_heads, 1, a.head_dim, a.scale, out}, scores);
}

static void fusion_attention(const FusionArgs& a) {
  const int64_t width = a.num_heads * a.head_dim;
  int64_t window = 0;
  for (int64_t t = 0; t < a.num_tokens; t++) window = a.num_valid[t] > window ? a.num_valid[t] : window;
  parallel_for(a.num_tokens, 1, a.num_tokens * width > 8192, [&](int64_t begin, int64_t end) {
    float* query = static_cast<float*>(std::malloc(sizeof(float) * (width + a.num_heads * window)));
    for (int64_t token = begin; token < end; token++) fusion_attention_row(a, token, query, query + width);
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
