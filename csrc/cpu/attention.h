// Attention of one query over its keys, which lie in the blocks of a paged cache or in the single block of a window.
#pragma once

#include <cstring>

#include "kernels.h"
#include "reductions.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// out[0:4] = the dot products of a with four rows of b, each summed as in `dot`, times scale
static inline void dot4(const float* a, const float* b, int64_t stride, int64_t size, float scale, float* out) {
  vf acc[4] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const vf x = load(a + i);
    for (int row = 0; row < 4; row++) acc[row] += x * load(b + row * stride + i);
  }
  if (i < size) {
    const vf x = load_some(a + i, size - i);
    for (int row = 0; row < 4; row++) acc[row] += x * load_some(b + row * stride + i, size - i);
  }
  const vf4 totals = sum4(acc[0], acc[1], acc[2], acc[3]) * scale;
  std::memcpy(out, &totals, sizeof totals);
}

// x[0:size] = exp(x - max x); returns the sum
static inline float exp_normalise(float* x, int64_t size) {
  const float top = largest(x, size);
  vf acc = {};
  const vf shift = splat(top);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const vf e = vexp(load(x + i) - shift);
    store(x + i, e);
    acc += e;
  }
  float total = sum(acc);
  for (; i < size; i++) total += x[i] = sexp(x[i] - top);
  return total;
}

// Query heads of one token that share kv heads [kv_begin, kv_end), over its sequence's first `keys`
// positions. The outer loop is over blocks, since all heads' keys of a block lie side by side in memory.
struct Attention {
  const float* q;  // of the first of these heads
  PagedCache cache;
  const int32_t* table;
  int64_t keys, kv_begin, kv_end, group, head_dim;
  float scale;
  float* out;
  int64_t behind;           // the number of later queries in its sequence
  const float* next_block;  // keys of the query that this thread takes next, or null
};

// Prefetches the next block into L2 during the arithmetic on this one: evenly, since fetching it all at once would fill
// the line buffers and stall the arithmetic; and one line from each of its quarters in turn, since more lines can be in
// flight from several pages than from one.
struct NextBlock {
  const float* at;  // null: there is no next block
  int64_t row_stride, row_lines, rows, quarter, turns;
  int64_t line = 0;

  // `num_turns`: how often `fetch` will be called
  NextBlock(const float* at, const PagedCache& cache, int64_t width, int64_t num_turns) : at(at) {
    const bool whole = cache.block_size % 4 != 0;
    row_stride = cache.row_stride, row_lines = (width + 15) / 16;
    rows = whole ? cache.block_size : cache.block_size / 4;
    quarter = whole ? 0 : rows * row_stride;
    turns = num_turns > 0 ? (rows * row_lines + num_turns - 1) / num_turns : 0;
  }

  void fetch() {
    for (int64_t turn = 0; turn < turns && at && rows > 0; turn++) {
      for (int i = 0; i < 4; i++) __builtin_prefetch(at + line * 16 + i * quarter, 0, 2);
      if (++line == row_lines) line = 0, at += row_stride, rows--;
    }
  }
};

static inline const float* block_of(const Attention& a, const float* cache, int64_t block) {
  return cache + a.table[block] * a.cache.block_stride + a.kv_begin * a.head_dim;
}

// scores[head][key] = q[head] . key * scale
static void attention_scores(const Attention& a, float* scores) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const float* here = block_of(a, a.cache.key, block);
    // after the last keys come the first values
    const float* next = begin + size < a.keys ? block_of(a, a.cache.key, block + 1) : block_of(a, a.cache.value, 0);
    NextBlock ahead(next, a.cache, (a.kv_end - a.kv_begin) * a.head_dim, num_heads * (size / 4));
    for (int64_t head = 0; head < num_heads; head++) {
      const float *q = a.q + head * a.head_dim, *keys = here + head / a.group * a.head_dim;
      float* to = scores + head * a.keys + begin;
      int64_t i = 0;
      for (; i + 4 <= size; i += 4) {
        ahead.fetch();
        dot4(q, keys + i * a.cache.row_stride, a.cache.row_stride, a.head_dim, a.scale, to + i);
      }
      for (; i < size; i++) to[i] = dot(q, keys + i * a.cache.row_stride, a.head_dim) * a.scale;
    }
  }
}

// out[0:N vectors] += sum over a block's keys of weight * value, keys ascending
template <int N>
static inline void add_values(const float* weights, const float* values, int64_t stride, int64_t size, float* out,
                              NextBlock& ahead) {
  vf acc[N];
  for (int i = 0; i < N; i++) acc[i] = load(out + i * kLanes);
  for (int64_t key = 0; key < size; key++) {
    if (key % 4 == 3) ahead.fetch();
    const vf w = splat(weights[key]);
    for (int i = 0; i < N; i++) acc[i] += w * load(values + key * stride + i * kLanes);
  }
  for (int i = 0; i < N; i++) store(out + i * kLanes, acc[i]);
}

// The same for the last `rest` numbers of a row
static inline void add_values_of_rest(const float* weights, const float* values, int64_t stride, int64_t size,
                                      float* out, int64_t rest) {
  vf acc = load_some(out, rest);
  for (int64_t key = 0; key < size; key++) acc += splat(weights[key]) * load_some(values + key * stride, rest);
  store_some(out, acc, rest);
}

// out[head] = sum over keys of weights[head][key] * value, keys ascending
static void attention_values(const Attention& a, const float* weights) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  std::memset(a.out, 0, sizeof(float) * num_heads * a.head_dim);
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const float* here = block_of(a, a.cache.value, block);
    const float* next = begin + size < a.keys ? block_of(a, a.cache.value, block + 1) : a.next_block;
    NextBlock ahead(next, a.cache, (a.kv_end - a.kv_begin) * a.head_dim, num_heads * (size / 4));
    for (int64_t head = 0; head < num_heads; head++) {
      const float *w = weights + head * a.keys + begin, *values = here + head / a.group * a.head_dim;
      float* out = a.out + head * a.head_dim;
      int64_t d = 0;
      for (; d + 4 * kLanes <= a.head_dim; d += 4 * kLanes) {
        add_values<4>(w, values + d, a.cache.row_stride, size, out + d, ahead);
      }
      for (; d + kLanes <= a.head_dim; d += kLanes) {
        add_values<1>(w, values + d, a.cache.row_stride, size, out + d, ahead);
      }
      if (d < a.head_dim) add_values_of_rest(w, values + d, a.cache.row_stride, size, out + d, a.head_dim - d);
    }
  }
}

static void attend(const Attention& a, float* scores) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group;
  if (a.keys <= 0) {  // a row that belongs to no request
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

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
