// Frames and convolutions over them by plain loops, to compare with.
#pragma once

#include <cmath>

#include "testing.h"

// Frames as rows of channels
struct Rows {
  int64_t count, width;
  Floats values;

  Rows(int64_t count, int64_t width) : count(count), width(width), values(count * width) {}
  float* operator[](int64_t i) { return values.data() + i * width; }
  float at(int64_t i, int64_t c) const { return i < 0 || i >= count ? 0.0f : values[i * width + c]; }
};

struct Layer {
  int64_t in, out, taps;
  Floats weight, bias, panels;

  Layer(int64_t in, int64_t out, int64_t taps = 1, bool has_bias = true)
      : in(in),
        out(out),
        taps(taps),
        weight(randn(out * taps * in, 0.5f / std::sqrt(static_cast<float>(taps * in)))),
        bias(has_bias ? randn(out, 0.3f) : Floats()),
        panels(packed(weight, taps * in, out)) {}
  FrameProduct args() const { return {in_float32(panels), bias.empty() ? nullptr : bias.data()}; }
  // The result for a frame that begins `taps` frames, the first of them at `first`
  void apply(const Rows& x, int64_t first, float* to) const {
    for (int64_t o = 0; o < out; o++) {
      double sum = bias.empty() ? 0 : bias[o];
      for (int64_t k = 0; k < taps; k++)
        for (int64_t c = 0; c < in; c++)
          sum += static_cast<double>(weight[(o * taps + k) * in + c]) * x.at(first + k, c);
      to[o] = static_cast<float>(sum);
    }
  }
  Rows over(const Rows& x) const {
    Rows y(x.count, out);
    for (int64_t t = 0; t < x.count; t++) apply(x, t - taps / 2, y[t]);
    return y;
  }
};
