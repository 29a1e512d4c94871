// What the tests of the kernels share: random numbers, plain loops to compare with, and what is wrong.
#pragma once

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

using namespace antiphon;
using Floats = std::vector<float>;

inline std::string where;
inline int failures = 0;

inline void check(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s: %s\n", where.c_str(), what);
  failures++;
}

inline std::mt19937 generator(1);

inline Floats randn(int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

inline void check_near(const Floats& found, const Floats& expected, const char* what) {
  check(found.size() == expected.size(), what);
  for (size_t i = 0; i < found.size(); i++)
    if (!(std::fabs(found[i] - expected[i]) <= 1e-4f * (1 + std::fabs(expected[i])))) return check(false, what);
}

inline Floats product(const Floats& x, const Floats& weight, int64_t rows, int64_t in, int64_t out) {
  Floats y(rows * out);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < out; o++) {
      double sum = 0;
      for (int64_t i = 0; i < in; i++) sum += static_cast<double>(x[r * in + i]) * weight[o * in + i];
      y[r * out + o] = static_cast<float>(sum);
    }
  return y;
}

inline Floats packed(const Floats& weight, int64_t in, int64_t out) {
  const int64_t panels = (out + kPanel - 1) / kPanel;
  Floats to(panels * in * kPanel);
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < in; i++) to[(o / kPanel * in + i) * kPanel + o % kPanel] = weight[o * in + i];
  return to;
}

inline PackedWeight in_float32(const Floats& panels) { return {panels.data(), nullptr, Format::kFloat32}; }

// Each is in the file of its name.
void test_hift(const KernelTable& table);
void test_int8(const KernelTable& table, const Int8Kernel& kernel);
void test_unet(const KernelTable& table);
