// Attention of many queries of one sequence: each key and value is loaded for several queries at a time.
//
// Every sum is taken as in attention.h, so a query's result does not depend on whether others are computed with it. The
// lanes of `dot` are separate sums, added up by halves at the end. Here a vector holds the same lane for kLanes keys,
// which are packed transposed, so the halves are added up without shuffles.
#pragma once

#include "attention.h"
#include "tuning.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int kQueries = 4;
constexpr int kQueryVectors = kTuning.query_vectors, kKeyVectors = kTuning.key_vectors;
constexpr int kKeys = kKeyVectors * kLanes;
constexpr int64_t kPromptRows = 64;  // queries for which keys are packed once

struct Scores {
  vf of[kQueries][kKeyVectors];
};

// The sum that `dot` takes over its lanes LANE, LANE + STEP, LANE + 2 * STEP ..., for kQueries queries, `ldq` apart,
// and kKeys keys, packed (size, kKeys).
template <int LANE, int STEP>
__attribute__((always_inline)) static inline void lane_sums(const float* q, int64_t ldq, const float* packed,
                                                            int64_t size, Scores& out) {
  constexpr int half = kLanes / 2;
  if constexpr (STEP == half) {
    vf low[kQueries][kKeyVectors], high[kQueries][kKeyVectors];
    for (int n = 0; n < kQueries; n++)
      for (int v = 0; v < kKeyVectors; v++) low[n][v] = high[n][v] = vf{};
    int64_t d = LANE;
    for (; d + half < size; d += kLanes)
      for (int v = 0; v < kKeyVectors; v++) {
        const vf a = load(packed + d * kKeys + v * kLanes), b = load(packed + (d + half) * kKeys + v * kLanes);
        for (int n = 0; n < kQueries; n++) {
          low[n][v] += splat(q[n * ldq + d]) * a;
          high[n][v] += splat(q[n * ldq + d + half]) * b;
        }
      }
    if (d < size)
      for (int v = 0; v < kKeyVectors; v++)
        for (int n = 0; n < kQueries; n++) low[n][v] += splat(q[n * ldq + d]) * load(packed + d * kKeys + v * kLanes);
    for (int n = 0; n < kQueries; n++)
      for (int v = 0; v < kKeyVectors; v++) out.of[n][v] = low[n][v] + high[n][v];
  } else {
    Scores other;
    lane_sums<LANE, STEP * 2>(q, ldq, packed, size, out);
    lane_sums<LANE + STEP, STEP * 2>(q, ldq, packed, size, other);
    for (int n = 0; n < kQueries; n++)
      for (int v = 0; v < kKeyVectors; v++) out.of[n][v] += other.of[n][v];
  }
}

// out[query][0:kKeys] = q . key * scale, times the keys' scales if there are any. One copy serves caches of all kinds:
// inlined twice, its accumulators would be left in memory.
__attribute__((noinline)) static void scores_of_queries(const float* q, int64_t ldq, const float* packed, int64_t size,
                                                        float scale, const float* scales, float* out, int64_t ldo) {
  Scores scores;
  lane_sums<0, 1>(q, ldq, packed, size, scores);
  for (int n = 0; n < kQueries; n++)
    for (int v = 0; v < kKeyVectors; v++) {
      const vf score = scores.of[n][v] * scale;
      store(out + n * ldo + v * kLanes, scales ? score * load(scales + v * kLanes) : score);
    }
}

static inline vf4 four(const float* p) {
  vf4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline vf4 four(const int8_t* p) {
  return vf4{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
}

// packed[0:head_dim][0:kKeys] = the keys of one kv head from position `begin` on, transposed; and after them their
// scales, if they have any. From `end` on, the last key before it is repeated, to be ignored.
template <class T>
static void pack_keys(const Attention<T>& a, int64_t begin, int64_t end, float* packed) {
  const auto key_at = [&](int64_t position, float* scale) {
    if (position >= end) position = end - 1;
    const int64_t block = position / a.cache.block_size, offset = position % a.cache.block_size;
    if constexpr (sizeof(T) < sizeof(float)) *scale = a.scales_of(a.cache.key_scales, block, a.kv_begin)[offset];
    return a.block_of(a.cache.key, block) + offset * a.cache.row_stride;
  };
  for (int key = 0; key < kKeys; key += 4) {
    const T* rows[4];
    for (int i = 0; i < 4; i++) rows[i] = key_at(begin + key + i, packed + a.head_dim * kKeys + key + i);
    float* to = packed + key;
    int64_t d = 0;
    for (; d + 4 <= a.head_dim; d += 4) {
      vf4 r[4];
      for (int i = 0; i < 4; i++) r[i] = four(rows[i] + d);
      for (int i = 0; i < 4; i++) {
        const vf4 column = {r[0][i], r[1][i], r[2][i], r[3][i]};
        std::memcpy(to + (d + i) * kKeys, &column, sizeof(vf4));
      }
    }
    for (; d < a.head_dim; d++)
      for (int i = 0; i < 4; i++) to[d * kKeys + i] = rows[i][d];
  }
}

template <class T, int N>
static inline void add_values_of_queries(const float* weights, int64_t ldw, const T* values, int64_t stride,
                                         int64_t size, float* out, int64_t ldo) {
  vf acc[kQueries][N];
  for (int n = 0; n < kQueries; n++)
    for (int i = 0; i < N; i++) acc[n][i] = load(out + n * ldo + i * kLanes);
  for (int64_t key = 0; key < size; key++) {
    vf value[N];
    for (int i = 0; i < N; i++) value[i] = widen(values + key * stride + i * kLanes);
    for (int n = 0; n < kQueries; n++) {
      const vf w = splat(weights[n * ldw + key]);
      for (int i = 0; i < N; i++) acc[n][i] += w * value[i];
    }
  }
  for (int n = 0; n < kQueries; n++)
    for (int i = 0; i < N; i++) store(out + n * ldo + i * kLanes, acc[n][i]);
}

// out[query] = sum over keys of weights[query][key] * value, for one head; the first of kQueries queries sees `keys`
// keys, and each of the others one key more than the query before.
template <class T>
static void values_of_queries(const Attention<T>& a, int64_t keys, const float* weights, int64_t ldw, float* out,
                              int64_t ldo) {
  const int64_t row = a.cache.row_stride, most = keys + kQueries - 1, block_size = a.cache.block_size;
  for (int n = 0; n < kQueries; n++) std::memset(out + n * ldo, 0, sizeof(float) * a.head_dim);
  for (int64_t begin = 0, block = 0; begin < most; begin += block_size, block++) {
    const int64_t size = most - begin < block_size ? most - begin : block_size;
    const int64_t common = keys - begin < size ? (keys > begin ? keys - begin : 0) : size;
    const T* values = a.block_of(a.cache.value, block);
    const float* w = weights + begin;
    int64_t d = 0;
    for (; d + kQueryVectors * kLanes <= a.head_dim; d += kQueryVectors * kLanes)
      add_values_of_queries<T, kQueryVectors>(w, ldw, values + d, row, common, out + d, ldo);
    for (; d + kLanes <= a.head_dim; d += kLanes)
      add_values_of_queries<T, 1>(w, ldw, values + d, row, common, out + d, ldo);
    const int64_t rest = a.head_dim - d;
    for (int n = 0; n < kQueries && rest; n++)
      add_values_of_rest(w + n * ldw, values + d, row, common, out + n * ldo + d, rest);
    for (int n = 1; n < kQueries; n++)  // keys that only later queries see
      for (int64_t i = common; i < size && begin + i < keys + n; i++) {
        const vf weight = splat(w[n * ldw + i]);
        float* mine = out + n * ldo;
        const T* value = values + i * row;
        for (d = 0; d + kLanes <= a.head_dim; d += kLanes) store(mine + d, load(mine + d) + weight * widen(value + d));
        if (rest) store_some(mine + d, load_some(mine + d, rest) + weight * widen_some(value + d, rest), rest);
      }
  }
}

static inline int64_t scores_stride(int64_t keys) { return (keys + kKeys - 1) / kKeys * kKeys; }

// `attend` for `count` queries of one kv head, a multiple of kQueries, of which `a` is the first; they lie `ldq` floats
// apart, their results `ldo`, and each sees one key more than the query before.
//   scores: (group, count, scores_stride(a.keys + count - 1)); packed: (head_dim + 1, kKeys)
template <class T>
static void attend_queries(const Attention<T>& a, int64_t count, int64_t ldq, int64_t ldo, float* scores,
                           float* packed) {
  const int64_t end = a.keys + count - 1, stride = scores_stride(end);
  const float* scales = sizeof(T) < sizeof(float) ? packed + a.head_dim * kKeys : nullptr;
  for (int64_t begin = 0; begin < end; begin += kKeys) {
    pack_keys(a, begin, end, packed);
    for (int64_t head = 0; head < a.group; head++)
      for (int64_t n = 0; n < count; n += kQueries)
        if (begin < a.keys + n + kQueries - 1)
          scores_of_queries(a.q + n * ldq + head * a.head_dim, ldq, packed, a.head_dim, a.scale, scales,
                            scores + (head * count + n) * stride + begin, stride);
  }
  for (int64_t head = 0; head < a.group; head++)
    for (int64_t n = 0; n < count; n += kQueries) {
      float* weights = scores + (head * count + n) * stride;
      for (int64_t i = 0; i < kQueries; i++) {
        const int64_t keys = a.keys + n + i;
        float* line = weights + i * stride;
        const float inverse = 1.0f / exp_normalise(line, keys);
        for (int64_t key = 0; key < keys; key++) line[key] *= inverse;
        if constexpr (sizeof(T) < sizeof(float))
          for (int64_t begin = 0, block = 0; begin < keys; begin += a.cache.block_size, block++)
            multiply(line + begin, a.scales_of(a.cache.value_scales, block, a.kv_begin),
                     keys - begin < a.cache.block_size ? keys - begin : a.cache.block_size);
      }
      values_of_queries(a, a.keys + n, weights, stride, a.out + n * ldo + head * a.head_dim, ldo);
    }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
