// RMSNorm, SwiGLU's product and argmax, one row at a time.
#pragma once

#include "kernels.h"
#include "pool.h"
#include "reductions.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// out = x / sqrt(mean(x^2) + eps) * weight
static void rms_norm_row(const float* x, const float* weight, float* out, int64_t size, float eps) {
  const float factor = 1.0f / __builtin_sqrtf(dot(x, x, size) / static_cast<float>(size) + eps);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, load(x + i) * factor * load(weight + i));
  for (; i < size; i++) out[i] = x[i] * factor * weight[i];
}

static void rms_norm(const float* x, const float* weight, float* out, int64_t rows, int64_t size, float eps) {
  parallel_for(rows, 8, rows * size > 16384, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) rms_norm_row(x + r * size, weight, out + r * size, size, eps);
  });
}

// total = x + residual, out = its norm; total may be x or residual
static void rms_norm_residual(const float* x, const float* residual, const float* weight, float* out, float* total,
                              int64_t rows, int64_t size, float eps) {
  parallel_for(rows, 8, rows * size > 65536, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *a = x + r * size, *b = residual + r * size;
      float* to = total + r * size;
      int64_t i = 0;
      for (; i + kLanes <= size; i += kLanes) store(to + i, load(a + i) + load(b + i));
      for (; i < size; i++) to[i] = a[i] + b[i];
      rms_norm_row(to, weight, out + r * size, size, eps);
    }
  });
}

constexpr float kLeastGate = -88.37626f;  // below this vexp(-x) saturates, and silu is taken to be zero

static inline vf silu(vf x) { return select(x < splat(kLeastGate), x * 0.0f, x / (1.0f + vexp(-x))); }

// out = silu(gate) * up
static void silu_mul_row(const float* gate, const float* up, float* out, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, silu(load(gate + i)) * load(up + i));
  if (i < size) store_some(out + i, silu(load_some(gate + i, size - i)) * load_some(up + i, size - i), size - i);
}

static void silu_mul(const float* gate_up, float* out, int64_t rows, int64_t size) {
  parallel_for(rows, 2, rows * size > 16384, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      silu_mul_row(gate_up + r * 2 * size, gate_up + (r * 2 + 1) * size, out + r * size, size);
  });
}

// The first of the largest. NaN is never the largest.
static int64_t argmax_row(const float* x, int64_t size) {
  const float top = largest(x, size);
  for (int64_t i = 0; i < size; i++)
    if (x[i] == top) return i;
  return 0;  // all are NaN
}

static void argmax(const float* x, int64_t* out, int64_t rows, int64_t size) {
  parallel_for(rows, 1, rows * size > 65536, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) out[r] = argmax_row(x + r * size, size);
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
