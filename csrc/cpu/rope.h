// The rotary embedding that comes before attention, and the writing of keys and values to the cache.
#pragma once

#include <cstring>

#include "int8_rows.h"
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

// Writes the nearest whole numbers to x * 127 / max|x|, of equally near ones the even, and returns their scale; NaN,
// with zeros, if a number is NaN or infinity.
static float int8_head(const float* x, int64_t size, int8_t* to) {
  const RowSize of(x, size, __builtin_inff());
  const bool is_finite = of.total <= __FLT_MAX__;
  if (!is_finite || of.largest < kLeastLargest) {
    std::memset(to, 0, static_cast<size_t>(size));
    return is_finite ? 0 : __builtin_nanf("");
  }
  const float factor = kLargestInt8 / of.largest;
  for (int64_t i = 0; i < size; i += kLanes) {
    typedef int8_t bytes __attribute__((vector_size(kLanes)));
    const bytes narrow = __builtin_convertvector(nearest(load_upto_end(x, i, size) * factor), bytes);
    std::memcpy(to + i, &narrow, static_cast<size_t>(size - i < kLanes ? size - i : kLanes));
  }
  return of.largest / kLargestInt8;
}

static void rope_cache_write_row(const RopeCacheArgs& a, int64_t token) {
  const float* angles = a.cos_sin + static_cast<int64_t>(a.positions[token]) * a.head_dim;
  float* row = a.qkv + token * (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
  for (int64_t h = 0; h < a.num_heads; h++) rotate(row + h * a.head_dim, row + h * a.head_dim, angles, a.head_dim);
  const int64_t slot = a.slots[token];
  if (slot < 0) return;
  const int64_t block = slot / a.cache.block_size, offset = slot % a.cache.block_size;
  const int64_t at = block * a.cache.block_stride + offset * a.cache.row_stride;
  const int64_t width = a.num_kv_heads * a.head_dim;
  float *key = row + a.num_heads * a.head_dim, *value = key + width;
  if (a.cache.key_scales) {
    int8_t *keys = static_cast<int8_t*>(a.cache.key) + at, *values = static_cast<int8_t*>(a.cache.value) + at;
    for (int64_t h = 0; h < a.num_kv_heads; h++) {
      const int64_t head = h * a.head_dim, scale = block * a.cache.scale_stride + h * a.cache.block_size + offset;
      rotate(key + head, key + head, angles, a.head_dim);
      a.cache.key_scales[scale] = int8_head(key + head, a.head_dim, keys + head);
      a.cache.value_scales[scale] = int8_head(value + head, a.head_dim, values + head);
    }
    return;
  }
  float *keys = static_cast<float*>(a.cache.key) + at, *values = static_cast<float*>(a.cache.value) + at;
  for (int64_t head = 0; head < width; head += a.head_dim) rotate(key + head, keys + head, angles, a.head_dim);
  std::memcpy(values, value, sizeof(float) * width);
}

static void rope_cache_write(const RopeCacheArgs& a) {
  parallel_for(a.num_tokens, 8, a.num_tokens * a.num_heads * a.head_dim > 65536, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token++) rope_cache_write_row(a, token);
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
