// Attention of one query over its keys, which lie in the blocks of a paged cache or in the single block of a window.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "reductions.h"
#include "vec.h"
#include "widen.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// out[head][0:4] = the dot products of HEADS rows of q, head_dim apart, with four rows of keys, each summed as in
// `dot`, times scale
template <class T, int HEADS>
static inline void dot4(const float* q, const T* keys, int64_t stride, int64_t head_dim, float scale, float* out,
                        int64_t ldo) {
  struct Sums {
    vf of0, of1, of2, of3;  // an array would live in memory
  } acc[HEADS];
  for (int head = 0; head < HEADS; head++) acc[head] = {vf{}, vf{}, vf{}, vf{}};
  const auto add = [&](int64_t i, auto is_whole) __attribute__((always_inline)) {
    const T* key = keys + i;
    const int64_t rest = head_dim - i;
    vf k0, k1, k2, k3, x;
    if constexpr (is_whole) k0 = widen(key), k1 = widen(key + stride), k2 = widen(key + 2 * stride);
    else k0 = widen_some(key, rest), k1 = widen_some(key + stride, rest), k2 = widen_some(key + 2 * stride, rest);
    if constexpr (is_whole) k3 = widen(key + 3 * stride);
    else k3 = widen_some(key + 3 * stride, rest);
    for (int head = 0; head < HEADS; head++) {
      if constexpr (is_whole) x = load(q + head * head_dim + i);
      else x = load_some(q + head * head_dim + i, rest);
      acc[head].of0 += x * k0, acc[head].of1 += x * k1, acc[head].of2 += x * k2, acc[head].of3 += x * k3;
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) add(i, std::true_type());
  if (i < head_dim) add(i, std::false_type());
  for (int head = 0; head < HEADS; head++) {
    const vf4 totals = sum4(acc[head].of0, acc[head].of1, acc[head].of2, acc[head].of3) * scale;
    std::memcpy(out + head * ldo, &totals, sizeof totals);
  }
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
// positions. The outer loop is over blocks, since all heads' keys of a block lie side by side in memory. T: of the
// cache's numbers.
template <class T>
struct Attention {
  const float* q;  // of the first of these heads
  PagedCache cache;
  const int32_t* table;
  int64_t keys, kv_begin, kv_end, group, head_dim;
  float scale;
  float* out;
  int64_t behind;       // the number of later queries in its sequence
  const T* next_block;  // keys of the query that this thread takes next, or null

  // The kv heads of a block, of the keys or the values
  const T* block_of(const void* numbers, int64_t block) const {
    return static_cast<const T*>(numbers) + table[block] * cache.block_stride + kv_begin * head_dim;
  }
  // The scales of a block's positions for one kv head
  const float* scales_of(const float* scales, int64_t block, int64_t kv_head) const {
    return scales + table[block] * cache.scale_stride + kv_head * cache.block_size;
  }
};

// How many heads of a group are computed together: numbers that must be widened are widened once for them.
template <class T>
constexpr int kHeadsTogether = sizeof(T) == sizeof(float) ? 1
                               : kLanes == 16             ? 4
                                                          : 2;

// Calls step(head, HEADS) for all heads of a group, with HEADS as a constant
template <int HEADS, class Step>
static inline void for_heads(int64_t group, const Step& step) {
  int64_t head = 0;
  for (; head + HEADS <= group; head += HEADS) step(head, std::integral_constant<int, HEADS>());
  if constexpr (HEADS > 1)
    for_heads<HEADS / 2>(group - head, [&](int64_t of_rest, auto heads) { step(head + of_rest, heads); });
}

static inline int64_t num_steps(int64_t group, int heads) {
  return heads == 1 ? group : group / heads + num_steps(group % heads, heads / 2);
}

// Prefetches the next block into L2 during the arithmetic on this one: evenly, since fetching it all at once would fill
// the line buffers and stall the arithmetic; and one line from each of its quarters in turn, since more lines can be in
// flight from several pages than from one.
template <class T>
struct NextBlock {
  static constexpr int64_t kLine = 64 / sizeof(T);
  const T* at;  // null: there is no next block
  int64_t row_stride, row_lines, rows, quarter, turns;
  int64_t line = 0;

  // `num_turns`: how often `fetch` will be called
  NextBlock(const T* at, const PagedCache& cache, int64_t width, int64_t num_turns) : at(at) {
    const bool whole = cache.block_size % 4 != 0;
    row_stride = cache.row_stride, row_lines = (width + kLine - 1) / kLine;
    rows = whole ? cache.block_size : cache.block_size / 4;
    quarter = whole ? 0 : rows * row_stride;
    turns = num_turns > 0 ? (rows * row_lines + num_turns - 1) / num_turns : 0;
  }

  void fetch() {
    for (int64_t turn = 0; turn < turns && at && rows > 0; turn++) {
      for (int i = 0; i < 4; i++) __builtin_prefetch(at + line * kLine + i * quarter, 0, 2);
      if (++line == row_lines) line = 0, at += row_stride, rows--;
    }
  }
};

template <class T>
static inline void fetch_scales(const Attention<T>& a, const float* scales, int64_t block) {
  if constexpr (sizeof(T) < sizeof(float)) {
    const float *from = a.scales_of(scales, block, a.kv_begin), *end = a.scales_of(scales, block, a.kv_end);
    for (; from < end; from += 16) __builtin_prefetch(from, 0, 2);
  }
}

static inline void multiply(float* x, const float* by, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(x + i, load(x + i) * load(by + i));
  for (; i < size; i++) x[i] *= by[i];
}

// scores[head][key] = q[head] . key * scale
template <class T>
static void attention_scores(const Attention<T>& a, float* scores) {
  constexpr int most = kHeadsTogether<T>;
  const int64_t num_kv_heads = a.kv_end - a.kv_begin, steps = num_kv_heads * num_steps(a.group, most);
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const T* here = a.block_of(a.cache.key, block);
    // after the last keys come the first values
    const bool is_last = begin + size >= a.keys;
    const T* next = is_last ? a.block_of(a.cache.value, 0) : a.block_of(a.cache.key, block + 1);
    fetch_scales(a, is_last ? a.cache.value_scales : a.cache.key_scales, is_last ? 0 : block + 1);
    NextBlock<T> ahead(next, a.cache, num_kv_heads * a.head_dim, steps * (size / 4));
    for (int64_t kv_head = 0; kv_head < num_kv_heads; kv_head++) {
      const T* keys = here + kv_head * a.head_dim;
      for_heads<most>(a.group, [&](int64_t head, auto heads) {
        head += kv_head * a.group;
        const float* q = a.q + head * a.head_dim;
        float* to = scores + head * a.keys + begin;
        int64_t i = 0;
        for (; i + 4 <= size; i += 4) {
          ahead.fetch();
          dot4<T, heads>(q, keys + i * a.cache.row_stride, a.cache.row_stride, a.head_dim, a.scale, to + i, a.keys);
        }
        for (int h = 0; h < heads; h++) {
          for (int64_t rest = i; rest < size; rest++)
            to[h * a.keys + rest] = dot(q + h * a.head_dim, keys + rest * a.cache.row_stride, a.head_dim) * a.scale;
          if constexpr (sizeof(T) < sizeof(float))
            multiply(to + h * a.keys, a.scales_of(a.cache.key_scales, block, a.kv_begin + kv_head), size);
        }
      });
    }
  }
}

// out[head][0:N vectors] += sum over a block's keys of weight * value, keys ascending; for HEADS heads, whose weights
// lie ldw apart, and their outs ldo
template <class T, int N, int HEADS>
static inline void add_values(const float* weights, int64_t ldw, const T* values, int64_t stride, int64_t size,
                              float* out, int64_t ldo, NextBlock<T>& ahead) {
  vf acc[HEADS][N];
  for (int head = 0; head < HEADS; head++)
    for (int i = 0; i < N; i++) acc[head][i] = load(out + head * ldo + i * kLanes);
  for (int64_t key = 0; key < size; key++) {
    if (key % 4 == 3) ahead.fetch();
    vf value[N];
    for (int i = 0; i < N; i++) value[i] = widen(values + key * stride + i * kLanes);
    for (int head = 0; head < HEADS; head++) {
      const vf w = splat(weights[head * ldw + key]);
      for (int i = 0; i < N; i++) acc[head][i] += w * value[i];
    }
  }
  for (int head = 0; head < HEADS; head++)
    for (int i = 0; i < N; i++) store(out + head * ldo + i * kLanes, acc[head][i]);
}

// The same for one head and the last `rest` numbers of a row
template <class T>
static inline void add_values_of_rest(const float* weights, const T* values, int64_t stride, int64_t size, float* out,
                                      int64_t rest) {
  vf acc = load_some(out, rest);
  for (int64_t key = 0; key < size; key++) acc += splat(weights[key]) * widen_some(values + key * stride, rest);
  store_some(out, acc, rest);
}

// out[head] = sum over keys of weights[head][key] * value, keys ascending. Weights are multiplied by their values'
// scales first, where there are any.
template <class T>
static void attention_values(const Attention<T>& a, float* weights) {
  constexpr int most = kHeadsTogether<T>;
  const int64_t num_kv_heads = a.kv_end - a.kv_begin, steps = num_kv_heads * num_steps(a.group, most);
  const int64_t dim = a.head_dim, row = a.cache.row_stride;
  std::memset(a.out, 0, sizeof(float) * num_kv_heads * a.group * dim);
  for (int64_t begin = 0, block = 0; begin < a.keys; begin += a.cache.block_size, block++) {
    const int64_t size = a.keys - begin < a.cache.block_size ? a.keys - begin : a.cache.block_size;
    const bool is_last = begin + size >= a.keys;
    const T* here = a.block_of(a.cache.value, block);
    const T* next = is_last ? a.next_block : a.block_of(a.cache.value, block + 1);
    if (!is_last) fetch_scales(a, a.cache.value_scales, block + 1);
    NextBlock<T> ahead(next, a.cache, num_kv_heads * dim, steps * (size / 4));
    for (int64_t kv_head = 0; kv_head < num_kv_heads; kv_head++) {
      const T* values = here + kv_head * dim;
      for_heads<most>(a.group, [&](int64_t head, auto heads) {
        head += kv_head * a.group;
        float *w = weights + head * a.keys + begin, *out = a.out + head * dim;
        if constexpr (sizeof(T) < sizeof(float))
          for (int h = 0; h < heads; h++)
            multiply(w + h * a.keys, a.scales_of(a.cache.value_scales, block, a.kv_begin + kv_head), size);
        int64_t d = 0;
        for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
          add_values<T, 4, heads>(w, a.keys, values + d, row, size, out + d, dim, ahead);
        for (; d + kLanes <= dim; d += kLanes)
          add_values<T, 1, heads>(w, a.keys, values + d, row, size, out + d, dim, ahead);
        if (d < dim)
          for (int h = 0; h < heads; h++)
            add_values_of_rest(w + h * a.keys, values + d, row, size, out + h * dim + d, dim - d);
      });
    }
  }
}

template <class T>
static void attend(const Attention<T>& a, float* scores) {
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
