// Frames of several sequences, one row of channels each, and what a network does with them row by row.
//
// The sequences lie one after the other, with an empty frame before, between and after them. So a convolution over
// three frames is a product whose rows overlap in memory: the row of a frame begins with the frame before it. No
// sequence is padded, and none sees another.
#pragma once

#include <cstring>

#include "kernels.h"
#include "linear.h"
#include "pool.h"
#include "reductions.h"
#include "scratch.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

struct Frames {
  Scratch<int64_t> first, lengths;  // of each sequence: the row of its first frame, and how many it has
  int64_t batch, rows = 1, longest = 0;

  // Each of `lengths`, divided by `factor` and rounded up
  Frames(const int64_t* lengths_before, int64_t batch, int64_t factor) : first(batch), lengths(batch), batch(batch) {
    for (int64_t b = 0; b < batch; b++) {
      lengths[b] = (lengths_before[b] + factor - 1) / factor;
      first[b] = rows;
      rows += lengths[b] + 1;
      if (lengths[b] > longest) longest = lengths[b];
    }
  }
  // All rows but the first and the last, which no product writes
  int64_t inner_rows() const { return rows - 2; }
};

// x of the empty frames = 0
static void clear_empty(const Frames& frames, float* x, int64_t channels) {
  const size_t size = sizeof(float) * static_cast<size_t>(channels);
  std::memset(x, 0, size);
  for (int64_t b = 0; b < frames.batch; b++) std::memset(x + (frames.first[b] + frames.lengths[b]) * channels, 0, size);
}

// From (channels, ld) to rows of frames, kLanes frames at a time so that each line of memory is read once
static void to_rows(const float* from, int64_t ld, int64_t channels, int64_t frames, float* to) {
  for (int64_t t0 = 0; t0 < frames; t0 += kLanes) {
    const int64_t t1 = t0 + kLanes < frames ? t0 + kLanes : frames;
    for (int64_t c = 0; c < channels; c++)
      for (int64_t t = t0; t < t1; t++) to[t * channels + c] = from[c * ld + t];
  }
}

static inline vf load_upto(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_some(p, count); }
static inline void store_upto(float* p, vf v, int64_t count) {
  if (count >= kLanes) store(p, v);
  else store_some(p, v, count);
}
// v with zeros after the first `count` numbers
static inline vf keep_some(vf v, int64_t count) {
  if (count >= kLanes) return v;
  float all[kLanes];
  store(all, v);
  return load_some(all, count);
}

// x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2); beyond 20 the quotient is 1 in float32
static inline vf mish(vf x) {
  const vf power = vexp(select(x > 20.0f, splat(20.0f), x)), n = power * (power + 2.0f);
  return x * (n / (n + 2.0f));
}

// The error function. Up to 1, z times a polynomial of z^2; beyond, 1 - e^p with a polynomial p of z - 1; both fitted
// to its values at Chebyshev's points. The error is below 2e-7 of the value, and of 1e-7 beyond 1.
static inline vf verf(vf z) {
  const vf size = select(z < 0.0f, -z, z), square = z * z;
  vf near = splat(7.88249711e-5f);
  near = near * square - 8.01885499e-4f;
  near = near * square + 5.18931194e-3f;
  near = near * square - 2.68543288e-2f;
  near = near * square + 1.12835975e-1f;
  near = near * square - 3.76126269e-1f;
  near = near * square + 1.12837917f;
  const vf d = select(size > 4.0f, splat(4.0f), size) - 1.0f;
  vf log = splat(-1.82845082e-5f);
  log = log * d + 2.68620906e-4f;
  log = log * d - 1.96331778e-3f;
  log = log * d + 9.99259976e-3f;
  log = log * d - 4.15342877e-2f;
  log = log * d - 8.43114221e-1f;
  log = log * d - 2.63896690f;
  log = log * d - 1.84960552f;
  const vf far = 1.0f - vexp(log);
  return select(size <= 1.0f, near * z, select(z < 0.0f, -far, far));
}

// The exact GELU: x/2 (1 + erf(x / sqrt 2))
static inline vf gelu(vf x) { return 0.5f * x * (1.0f + verf(x * 0.70710678f)); }

// out[m][0:width] = f(x[m] W^T + bias, column, row) for rows whose first numbers are ldx apart
template <class F>
static void frame_product(const float* x, int64_t ldx, int64_t rows, int64_t in, const FrameProduct& product,
                          int64_t width, float* out, int64_t ldo, const F& f) {
  const LinearArgs a = {.x = x,
                        .weight = product.weight,
                        .residual = nullptr,
                        .out = out,
                        .rows = rows,
                        .in = in,
                        .out_features = width,
                        .ldx = ldx,
                        .ldo = ldo};
  linear_with(a, [&](int64_t column, int64_t count, int64_t row0, int64_t row1, const float* sums) {
    for (int64_t v = 0; v < count; v += kLanes) {
      const int64_t left = count - v;
      const vf bias = product.bias ? load_upto(product.bias + column + v, left) : vf{};
      for (int64_t m = row0; m < row1; m++) {
        float* to = out + m * ldo + column + v;
        store_upto(to, f(load(sums + (m - row0) * kPanel + v) + bias, to, left), left);
      }
    }
  });
}

// The f of frame_product: the sum as it is, through GELU, or added to what is there. Classes and not functions, so that
// they are compiled into it.
struct AsItIs {
  vf operator()(vf sum, const float*, int64_t) const { return sum; }
};
struct ThroughGelu {
  vf operator()(vf sum, const float*, int64_t) const { return gelu(sum); }
};
struct Added {
  vf operator()(vf sum, const float* there, int64_t count) const { return sum + load_upto(there, count); }
};

// out = (x - mean) / sqrt(variance + eps) * weight + bias, row by row; the variance is that around the mean.
static void layer_norm(const float* x, const Affine& norm, float* out, int64_t rows, int64_t size, float eps) {
  parallel_for(rows, 8, rows * size > 16384, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* from = x + r * size;
      float* to = out + r * size;
      vf total = {}, squares = {};
      for (int64_t i = 0; i < size; i += kLanes) total += load_upto(from + i, size - i);
      const float mean = sum(total) / static_cast<float>(size);
      for (int64_t i = 0; i < size; i += kLanes) {
        const vf d = keep_some(load_upto(from + i, size - i) - mean, size - i);
        squares += d * d;
      }
      const float factor = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(size) + eps);
      for (int64_t i = 0; i < size; i += kLanes) {
        const int64_t left = size - i;
        const vf y = (load_upto(from + i, left) - mean) * factor;
        store_upto(to + i, y * load_upto(norm.weight + i, left) + load_upto(norm.bias + i, left), left);
      }
    }
  });
}

// The sum over a sequence's frames and channels [c0, c1), of the numbers, or of their squared distances from `mean`.
template <bool SQUARES>
static double sum_of_group(const float* x, int64_t channels, int64_t length, int64_t c0, int64_t c1, float mean) {
  double total = 0;
  for (int64_t c = c0; c < c1; c += kLanes) {
    const int64_t left = c1 - c;
    vf sums[4] = {};  // of every fourth frame, so that no addition waits for the one before
    for (int64_t t = 0; t < length; t++) {
      vf v = load_upto(x + t * channels + c, left);
      if constexpr (SQUARES) {
        v = keep_some(v - mean, left);
        v *= v;
      }
      sums[t % 4] += v;
    }
    total += static_cast<double>(sum((sums[0] + sums[1]) + (sums[2] + sums[3])));
  }
  return total;
}

// x = mish(group_norm(x)) + shift, where mean and variance are of a sequence's frames in a group of channels.
//   shift: (channels), or null
static void group_norm_mish(const Frames& frames, float* x, int64_t channels, const Affine& norm, int64_t groups,
                            float eps, const float* shift) {
  const int64_t width = channels / groups;
  parallel_for(frames.batch * groups, 1, frames.rows * channels > 8192, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t b = task / groups, c0 = task % groups * width, c1 = c0 + width, length = frames.lengths[b];
      float* mine = x + frames.first[b] * channels;
      const double count = static_cast<double>(width * length);
      const float mean = static_cast<float>(sum_of_group<false>(mine, channels, length, c0, c1, 0) / count);
      const double squares = sum_of_group<true>(mine, channels, length, c0, c1, mean);
      const float factor = 1.0f / __builtin_sqrtf(static_cast<float>(squares / count) + eps);
      for (int64_t c = c0; c < c1; c += kLanes) {
        const int64_t left = c1 - c;
        const vf weight = load_upto(norm.weight + c, left) * factor, bias = load_upto(norm.bias + c, left);
        const vf after = shift ? load_upto(shift + c, left) : vf{};
        for (int64_t t = 0; t < length; t++) {
          float* at = mine + t * channels + c;
          store_upto(at, mish((load_upto(at, left) - mean) * weight + bias) + after, left);
        }
      }
    }
  });
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
