// Attention over a paged cache, ragged prefill and decode alike.
//
// Several queries of one sequence go together: each key and value is loaded once for all of them. Every sum is taken
// as in attention.h, so that a query's result does not depend on whether others went with it.
#pragma once

#include <cstdlib>
#include <cstring>

#include "attention.h"
#include "kernels.h"
#include "pool.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int QUERIES = 4;
constexpr int QUERY_VECTORS = VL == 16 ? 4 : VL == 8 ? 2 : 1;  // of values: accumulators that fit the registers

// out[query][0:4] = the dot products of a query with four rows of b, each as `dot` has it
static inline void dot4_of_queries(const float* q, int64_t ldq, const float* b, int64_t stride, int64_t size,
                                   float scale, float* out, int64_t ldo) {
  vf acc[QUERIES][4] = {};
  int64_t i = 0;
  for (; i + VL <= size; i += VL) {
    vf rows[4];
    for (int row = 0; row < 4; row++) rows[row] = load(b + row * stride + i);
    for (int n = 0; n < QUERIES; n++) {
      const vf x = load(q + n * ldq + i);
      for (int row = 0; row < 4; row++) acc[n][row] += x * rows[row];
    }
  }
  for (int n = 0; n < QUERIES; n++) {
    const vf4 totals = sum4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
    for (int row = 0; row < 4; row++) {
      float total = totals[row];
      for (int64_t j = i; j < size; j++) total += q[n * ldq + j] * b[row * stride + j];
      out[n * ldo + row] = total * scale;
    }
  }
}

template <int N>
static inline void add_values_of_queries(const float* weights, int64_t ldw, const float* values, int64_t stride,
                                         int64_t size, float* out, int64_t ldo) {
  vf acc[QUERIES][N];
  for (int n = 0; n < QUERIES; n++)
    for (int i = 0; i < N; i++) acc[n][i] = load(out + n * ldo + i * VL);
  for (int64_t key = 0; key < size; key++) {
    vf value[N];
    for (int i = 0; i < N; i++) value[i] = load(values + key * stride + i * VL);
    for (int n = 0; n < QUERIES; n++) {
      const vf w = splat(weights[n * ldw + key]);
      for (int i = 0; i < N; i++) acc[n][i] += w * value[i];
    }
  }
  for (int n = 0; n < QUERIES; n++)
    for (int i = 0; i < N; i++) store(out + n * ldo + i * VL, acc[n][i]);
}

// `attend` for QUERIES queries, of which `a` is the first, `ldq` and `ldo` floats apart: each sees one key more than
// the one before. scores: (heads, QUERIES, a.keys + QUERIES - 1)
static void attend_queries(const Attention& a, int64_t ldq, int64_t ldo, float* scores) {
  const int64_t num_heads = (a.kv_end - a.kv_begin) * a.group, row = a.cache.row_stride;
  const int64_t most = a.keys + QUERIES - 1, block_size = a.cache.block_size;
  for (int64_t n = 0; n < QUERIES; n++) std::memset(a.out + n * ldo, 0, sizeof(float) * num_heads * a.head_dim);

  for (int64_t begin = 0, block = 0; begin < most; begin += block_size, block++) {
    const int64_t size = most - begin < block_size ? most - begin : block_size;
    const float* here = block_of(a, a.cache.key, block);
    for (int64_t head = 0; head < num_heads; head++) {
      const float *q = a.q + head * a.head_dim, *keys = here + head / a.group * a.head_dim;
      float* to = scores + head * QUERIES * most + begin;
      int64_t i = 0;
      for (; i + 4 <= size && begin + i + 4 <= a.keys; i += 4)  // keys that all queries see
        dot4_of_queries(q, ldq, keys + i * row, row, a.head_dim, a.scale, to + i, most);
      for (; i < size; i++)
        for (int64_t n = 0; n < QUERIES; n++)
          if (begin + i < a.keys + n) to[n * most + i] = dot(q + n * ldq, keys + i * row, a.head_dim) * a.scale;
    }
  }
  for (int64_t line = 0; line < num_heads * QUERIES; line++) {
    float* weights = scores + line * most;
    const int64_t keys = a.keys + line % QUERIES;
    const float inverse = 1.0f / exp_normalise(weights, keys);
    for (int64_t key = 0; key < keys; key++) weights[key] *= inverse;
  }
  for (int64_t begin = 0, block = 0; begin < most; begin += block_size, block++) {
    const int64_t size = most - begin < block_size ? most - begin : block_size;
    const int64_t common = a.keys - begin < size ? (a.keys > begin ? a.keys - begin : 0) : size;
    const float* here = block_of(a, a.cache.value, block);
    for (int64_t head = 0; head < num_heads; head++) {
      const float *w = scores + head * QUERIES * most + begin, *values = here + head / a.group * a.head_dim;
      float* out = a.out + head * a.head_dim;
      int64_t d = 0;
      for (; d + QUERY_VECTORS * VL <= a.head_dim; d += QUERY_VECTORS * VL)
        add_values_of_queries<QUERY_VECTORS>(w, most, values + d, row, common, out + d, ldo);
      for (; d + VL <= a.head_dim; d += VL)
        add_values_of_queries<1>(w, most, values + d, row, common, out + d, ldo);
      for (; d < a.head_dim; d++)
        for (int64_t n = 0; n < QUERIES; n++)
          for (int64_t i = 0; i < common; i++) out[n * ldo + d] += w[n * most + i] * values[i * row + d];
      for (int64_t n = 1; n < QUERIES; n++)  // keys that only later queries see
        for (int64_t i = common; i < size && begin + i < a.keys + n; i++) {
          const vf weight = splat(w[n * most + i]);
          float* mine = out + n * ldo;
          const float* value = values + i * row;
          for (d = 0; d + VL <= a.head_dim; d += VL) store(mine + d, load(mine + d) + weight * load(value + d));
          for (; d < a.head_dim; d++) mine[d] += w[n * most + i] * value[d];
        }
    }
  }
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
  const int64_t kv_heads = a.num_kv_heads / parts, ldo = a.num_heads * a.head_dim;
  // neighbouring rows are one task; those of them that are queries of one sequence go together
  const int64_t stride = a.tokens || all == a.num_seqs ? 1 : QUERIES;
  const int64_t tasks = (tokens + stride - 1) / stride * parts;
  const bool worthwhile = work / all * tokens * a.num_heads * a.head_dim > 32768;
  parallel_for(tasks, tasks / 64 + 1, worthwhile, [&](int64_t begin, int64_t end, bool goes_on) {
    const int64_t size = stride * (longest + stride) * kv_heads * group;
    float* scores = static_cast<float*>(std::malloc(sizeof(float) * size));
    const auto query_of = [&](int64_t row, int64_t part) -> Attention {
      const int64_t token = a.tokens ? a.tokens[row] : row, kv_begin = part * kv_heads, head = kv_begin * group;
      const int64_t seq = sequence_of(a.cu_seqlens_q, a.num_seqs, token);
      const int64_t behind = a.cu_seqlens_q[seq + 1] - 1 - token;
      return {a.q + token * a.ldq + head * a.head_dim, a.cache, a.block_table + seq * a.max_blocks,
              a.context_lens[seq] - behind, kv_begin, kv_begin + kv_heads, group, a.head_dim, a.scale,
              a.out + row * ldo + head * a.head_dim, behind, nullptr};
    };
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task / parts * stride, last = first + stride < tokens ? first + stride : tokens;
      for (int64_t row = first; row < last; row++) {
        Attention query = query_of(row, task % parts);
        if (row + QUERIES <= last && query.behind >= QUERIES - 1 && query.keys > 0) {
          attend_queries(query, a.ldq, ldo, scores);
          row += QUERIES - 1;
          continue;
        }
        if (stride == 1 && (goes_on || task + 1 < end)) {
          const Attention next = query_of((task + 1) / parts, (task + 1) % parts);
          if (next.keys > 0) query.next_block = block_of(next, a.cache.key, 0);
        }
        attend(query, scores);
      }
    }
    std::free(scores);
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
