// Attention of all frames of a sequence to all of them, for several sequences.
#pragma once

#include "frames.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int64_t kQueryFrames = 24;  // queries whose scores are in L1 or L2 at a time

// qkv (rows, 3, heads, head_dim) to out (rows, heads, head_dim). `scratch` of `size` numbers is for one sequence and
// head.
struct FrameAttention {
  const Frames& frames;
  const float* qkv;
  float* out;
  int64_t num_heads, head_dim;

  int64_t width() const { return num_heads * head_dim; }
  static int64_t whole_panels(int64_t count) { return (count + kPanel - 1) / kPanel * kPanel; }
  int64_t size() const {
    const int64_t keys = whole_panels(frames.longest);
    return keys * head_dim + frames.longest * whole_panels(head_dim) + kQueryFrames * keys;
  }

  // Keys and values as the weights of products: panels of kPanel keys (head_dim, kPanel), and of kPanel numbers of a
  // value (length, kPanel)
  void pack(const float* first, int64_t length, float* keys, float* values) const {
    const int64_t ld = 3 * width(), padded = whole_panels(length);
    for (int64_t t = 0; t < padded; t++) {
      float* to = keys + t / kPanel * kPanel * head_dim + t % kPanel;
      const float* key = first + t * ld + width();
      for (int64_t d = 0; d < head_dim; d++) to[d * kPanel] = t < length ? key[d] : 0.0f;
    }
    for (int64_t d = 0; d < head_dim; d += kPanel) {
      const int64_t count = head_dim - d < kPanel ? head_dim - d : kPanel;
      for (int64_t t = 0; t < length; t++, values += kPanel) {
        std::memcpy(values, first + t * ld + 2 * width() + d, sizeof(float) * count);
        if (count < kPanel) std::memset(values + count, 0, sizeof(float) * (kPanel - count));
      }
    }
  }

  // row[0:padded] = e^(scale * (score - the largest)), zeros from `length` on; returns one by their sum
  static float soften(float* row, int64_t length, int64_t padded, float scale) {
    const vf top = splat(largest(row, length));
    for (int64_t t = length; t < padded; t++) row[t] = -__builtin_inff();
    vf total = {};
    for (int64_t t = 0; t < padded; t += kLanes) {
      const vf e = vexp((load(row + t) - top) * scale);
      store(row + t, e);
      total += e;
    }
    return 1.0f / sum(total);
  }

  void attend(int64_t sequence, int64_t head, float* scratch) const {
    const int64_t ld = 3 * width(), length = frames.lengths[sequence], padded = whole_panels(length);
    const float* first = qkv + frames.first[sequence] * ld + head * head_dim;
    float* to = out + frames.first[sequence] * width() + head * head_dim;
    float *keys = scratch, *values = keys + padded * head_dim, *scores = values + length * whole_panels(head_dim);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
    const Prefetch none = {};
    pack(first, length, keys, values);
    for (int64_t begin = 0; begin < length; begin += kQueryFrames) {
      const int64_t end = begin + kQueryFrames < length ? begin + kQueryFrames : length;
      float inverse[kQueryFrames];
      for (int64_t key = 0; key < padded; key += kPanel)
        for (int64_t m = begin; m < end;) {
          const int rows = rows_of_block(end - m);
          tile_rows<float>(rows, first + m * ld, ld, keys + key * head_dim, kPanel, head_dim,
                           scores + (m - begin) * padded + key, padded, true, none);
          m += rows;
        }
      for (int64_t m = begin; m < end; m++)
        inverse[m - begin] = soften(scores + (m - begin) * padded, length, padded, scale);
      for (int64_t d = 0; d < head_dim; d += kPanel) {
        float sums[kQueryFrames * kPanel];
        for (int64_t k = 0; k < length; k += kDepth)
          for (int64_t m = begin; m < end;) {
            const int rows = rows_of_block(end - m);
            const int64_t depth = length - k < kDepth ? length - k : kDepth;
            tile_rows<float>(rows, scores + (m - begin) * padded + k, padded, values + d * length + k * kPanel, kPanel,
                             depth, sums + (m - begin) * kPanel, kPanel, k == 0, none);
            m += rows;
          }
        const int64_t count = head_dim - d < kPanel ? head_dim - d : kPanel;
        for (int64_t m = begin; m < end; m++)
          for (int64_t v = 0; v < count; v += kLanes)
            store_upto(to + m * width() + d + v, load(sums + (m - begin) * kPanel + v) * inverse[m - begin], count - v);
      }
    }
  }

  void run() const {
    ShortMemory short_memory;
    parallel_for(frames.batch * num_heads, 1, frames.rows * width() > 2048, [&](int64_t begin, int64_t end) {
      const Scratch<float> scratch(size(), std::nothrow);
      if (!scratch) return short_memory.set();
      for (int64_t task = begin; task < end; task++) attend(task / num_heads, task % num_heads, scratch.get());
    });
    short_memory.rethrow();
  }
};

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
