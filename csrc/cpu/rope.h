// The rotary embedding that comes before attention, and the writing of keys and values to the cache.
#pragma once

#include <cstring>

#include "kernels.h"
#include "pool.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// dst = src rotated by the angles of one position (rotate-half form); dst may be src
static inline void rotate(const float* src, float* dst, const float* cos_sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const float *cosine = cos_sin, *sine = cos_sin + half;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
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
  for (int64_t h = 0; h < a.num_heads; h++) rotate(row + h * a.head_dim, row + h * a.head_dim, angles, a.head_dim);
  const int64_t slot = a.slots[token];
  if (slot < 0) return;
  const int64_t at = slot / a.cache.block_size * a.cache.block_stride + slot % a.cache.block_size * a.cache.row_stride;
  const float* key = row + a.num_heads * a.head_dim;
  for (int64_t h = 0; h < a.num_kv_heads; h++)
    rotate(key + h * a.head_dim, a.cache.key + at + h * a.head_dim, angles, a.head_dim);
  std::memcpy(a.cache.value + at, key + a.num_kv_heads * a.head_dim, sizeof(float) * a.num_kv_heads * a.head_dim);
}

static void rope_cache_write(const RopeCacheArgs& a) {
  parallel_for(a.num_tokens, 8, a.num_tokens * a.num_heads * a.head_dim > 65536, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token++) rope_cache_write_row(a, token);
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
