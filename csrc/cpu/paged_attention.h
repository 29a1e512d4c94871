// Attention over a paged cache, for ragged prefill and decoding alike.
//
// Several queries of one sequence are computed together (prompt_attention.h), others one by one (attention.h).
#pragma once

#include <cstring>

#include "attention.h"
#include "kernels.h"
#include "pool.h"
#include "prompt_attention.h"
#include "scratch.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

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

// T: of the cache's numbers
template <class T>
static void attention_over(const PagedAttentionArgs& a) {
  const int64_t group = a.num_heads / a.num_kv_heads, all = a.cu_seqlens_q[a.num_seqs];
  const int64_t tokens = a.tokens ? a.num_tokens : all;
  if (tokens == 0) return;
  int64_t longest = 0, work = 0;
  for (int64_t s = 0; s < a.num_seqs; s++) {
    longest = a.context_lens[s] > longest ? a.context_lens[s] : longest;
    work += static_cast<int64_t>(a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s]) * a.context_lens[s];
  }
  // Neighbouring rows form one task, within which queries of the same sequence are computed together. If there are few
  // rows, they are also split by kv head, or most threads would have nothing to do.
  const bool has_prompts = !a.tokens && all > a.num_seqs;
  const int64_t stride = has_prompts ? kPromptRows : 1;
  const int64_t parts = has_prompts || tokens < 8 ? a.num_kv_heads : 1;
  const int64_t kv_heads = a.num_kv_heads / parts, ldo = a.num_heads * a.head_dim;
  const int64_t tasks = (tokens + stride - 1) / stride * parts;
  const bool worthwhile = work / all * tokens * a.num_heads * a.head_dim > 32768;
  ShortMemory is_short;
  parallel_for(tasks, tasks / 64 + 1, worthwhile, [&](int64_t begin, int64_t end, bool goes_on) {
    const int64_t size = stride * scores_stride(longest) * kv_heads * group;
    const Scratch<float> memory(size + kKeys * (a.head_dim + 1), std::nothrow);
    if (!memory) return is_short.set();
    float *scores = memory.get(), *packed = scores + size;
    const auto query_of = [&](int64_t row, int64_t part) -> Attention<T> {
      const int64_t token = a.tokens ? a.tokens[row] : row, kv_begin = part * kv_heads, head = kv_begin * group;
      const int64_t seq = sequence_of(a.cu_seqlens_q, a.num_seqs, token);
      const int64_t behind = a.cu_seqlens_q[seq + 1] - 1 - token;
      return {.q = a.q + token * a.ldq + head * a.head_dim,
              .cache = a.cache,
              .table = a.block_table + seq * a.max_blocks,
              .keys = a.context_lens[seq] - behind,
              .kv_begin = kv_begin,
              .kv_end = kv_begin + kv_heads,
              .group = group,
              .head_dim = a.head_dim,
              .scale = a.scale,
              .out = a.out + row * ldo + head * a.head_dim,
              .behind = behind,
              .next_block = nullptr};
    };
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task / parts * stride, last = first + stride < tokens ? first + stride : tokens;
      for (int64_t row = first; row < last;) {
        Attention<T> query = query_of(row, task % parts);
        const int64_t together = (query.behind + 1 < last - row ? query.behind + 1 : last - row) / kQueries * kQueries;
        if (has_prompts && together && query.keys > 0) {
          attend_queries(query, together, a.ldq, ldo, scores, packed);
          row += together;
          continue;
        }
        if (!has_prompts && (goes_on || task + 1 < end)) {
          const Attention<T> next = query_of((task + 1) / parts, (task + 1) % parts);
          if (next.keys > 0) query.next_block = next.block_of(a.cache.key, 0);
        }
        attend(query, scores);
        row++;
      }
    }
  });
  is_short.rethrow();
}

static void paged_attention(const PagedAttentionArgs& a) {
  if (a.cache.key_scales) attention_over<int8_t>(a);
  else attention_over<float>(a);
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
