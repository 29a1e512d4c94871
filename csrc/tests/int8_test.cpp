// Products whose rows are quantized as they come, against plain loops over whole numbers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "testing.h"

namespace {

// What a row becomes, outliers apart.
struct Row {
  std::vector<int32_t> whole;
  Floats outliers;
  float scale = 0;

  Row(const float* x, int64_t size) : whole(size), outliers(size) {
    double total = 0;
    for (int64_t i = 0; i < size; i++) total += std::fabs(x[i]);
    const double limit = 12 * total / static_cast<double>(size);
    float largest = 0;
    for (int64_t i = 0; i < size; i++) {
      if (std::fabs(x[i]) > limit) outliers[i] = x[i];
      else largest = std::max(largest, std::fabs(x[i]));
    }
    if (largest == 0) return;
    scale = largest / 127;
    const float factor = 127 / largest;
    for (int64_t i = 0; i < size; i++) {
      const float scaled = x[i] * factor;
      if (outliers[i] == 0) whole[i] = static_cast<int32_t>(std::nearbyint(scaled));
    }
  }
};

}  // namespace

void test_int8(const KernelTable& table, const Int8Kernel& kernel) {
  for (int64_t rows : {0, 1, 2, 5, 17, 97})
    for (int64_t in : {1, 64, 130, 300})
      for (int64_t out : {1, 33, 160}) {
        Floats x = randn(rows * in), scales((out + kPanel - 1) / kPanel * kPanel, 0.5f);
        if (rows > 1) std::fill(&x[0], &x[in], 0.0f);
        if (rows > 2) x[2 * in - 1] = 1000;
        const int64_t depth = (in + kInt8Depth - 1) / kInt8Depth * kInt8Depth;
        std::vector<uint8_t> panels(scales.size() * depth, 128);
        std::vector<int32_t> weight(out * in);
        for (int64_t o = 0; o < out; o++)
          for (int64_t i = 0; i < in; i++) {
            const auto number = static_cast<int32_t>(generator() % 255) - 127;
            const int64_t group = o / kPanel * (depth / kGroup) + i / kGroup;
            weight[o * in + i] = number;
            panels[(group * kPanel + o % kPanel) * kGroup + i % kGroup] = static_cast<uint8_t>(number + 128);
          }
        Floats y(rows * out), expected(rows * out);
        table.linear({x.data(),
                      {panels.data(), scales.data(), Format::kInt8Both, &kernel},
                      nullptr,
                      y.data(),
                      rows,
                      in,
                      out,
                      in,
                      out});
        for (int64_t r = 0; r < rows; r++) {
          const Row row(&x[r * in], in);
          for (int64_t o = 0; o < out; o++) {
            int64_t sum = 0;
            double apart = 0;
            for (int64_t i = 0; i < in; i++) {
              sum += static_cast<int64_t>(row.whole[i]) * weight[o * in + i];
              apart += static_cast<double>(row.outliers[i]) * weight[o * in + i];
            }
            expected[r * out + o] = static_cast<float>((static_cast<double>(sum) * row.scale + apart) * scales[o]);
          }
        }
        check_near(y, expected, kernel.name);
      }
}
