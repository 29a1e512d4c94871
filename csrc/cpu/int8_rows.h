// Rows of x in 8 bits, each with a scale of its own: the nearest whole numbers to x * 127 / max|x|, of equally near
// ones the even.
//
// A few numbers may be so much larger than the others that next to nothing would be left of those. They stay apart, and
// are multiplied in float32 (Dettmers et al. 2022, arXiv 2208.07339; there, by channel).
#pragma once

#include "int8_kernel.h"
#include "kernels.h"
#include "pool.h"
#include "scratch.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr float kLargestInt8 = 127;
constexpr float kLeastLargest = 1e-30f;  // a row of smaller numbers is taken to be zero: 127 / max|x| must be finite
constexpr int64_t kOutlier = 12;         // an outlier is more than as many times the mean of |x|
constexpr int32_t kWeightOffset = 128;   // how much larger weights are in memory

static inline vf magnitude(vf x) { return (vf)((vi)x & 0x7fffffff); }

// The nearest whole numbers, up to 2^22; of equally near ones the even
static inline vi nearest(vf x) {
#if ANTIPHON_VL == 16
  return (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)x);
#elif ANTIPHON_VL == 8
  return (vi)_mm256_cvtps_epi32((__m256)x);
#else
  asm("" : "+m"(x));  // or the compiler would fuse the product that x is with the addition, and round once
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23, whose last bit is worth 1
  return (vi)(x + magic) - (vi)magic;
#endif
}

static inline vf load_upto_end(const float* x, int64_t i, int64_t size) {
  return i + kLanes <= size ? load(x + i) : i < size ? load_some(x + i, size - i) : vf{};
}

// The sum of |x|, which is NaN or infinity if a number is; and the largest |x| up to `limit`
struct RowSize {
  float total, largest;

  RowSize(const float* x, int64_t size, float limit) {
    vf sums[2] = {}, most = {};
    for (int64_t i = 0; i < size; i += kLanes) {
      const vf v = magnitude(load_upto_end(x, i, size));
      sums[i / kLanes % 2] += v;
      const vf counted = select(v > splat(limit), vf{}, v);
      most = select(counted > most, counted, most);
    }
    total = sum(sums[0] + sums[1]), largest = maximum(most);
  }
};

struct Outlier {
  int32_t input;
  float value;
};

// Writes `depth` numbers, zeros for outliers and after the first `size`, and returns their sum. TAKES_INT16: see
// Int8Kernel.
template <bool TAKES_INT16>
static int32_t int8_row(const float* x, int64_t size, int64_t depth, float factor, float limit, char* to) {
  vi total = {};
  for (int64_t i = 0; i < depth; i += kLanes) {
    const vf v = load_upto_end(x, i, size);
    const vi whole = nearest(select(magnitude(v) > splat(limit), vf{}, v) * factor);
    total += whole;
    if constexpr (TAKES_INT16) {
      int32_t lanes[kLanes];
      std::memcpy(lanes, &whole, sizeof lanes);
      int16_t ordered[kLanes];
      for (int g = 0; g < kLanes; g += kGroup)
        for (int n = 0; n < kGroup; n++) ordered[g + n] = static_cast<int16_t>(lanes[g + (n % 2 * 2 + n / 2)]);
      std::memcpy(to + 2 * i, ordered, sizeof ordered);
    } else {
      typedef int8_t bytes __attribute__((vector_size(kLanes)));
      const bytes narrow = __builtin_convertvector(whole, bytes);
      std::memcpy(to + i, &narrow, sizeof narrow);
    }
  }
  int32_t lanes[kLanes], sum = 0;
  std::memcpy(lanes, &total, sizeof lanes);
  for (int lane = 0; lane < kLanes; lane++) sum += lanes[lane];
  return sum;
}

// The rows of a product whose weight is multiplied as whole numbers; of others, nothing.
class Int8Rows {
  static constexpr int64_t kAlignment = 64;

  struct Row {
    float scale;
    int32_t offset;  // how much too large the sums are
    int64_t num_outliers;
  };

 public:
  Int8Rows(const float* x, int64_t ldx, int64_t rows, int64_t size, const PackedWeight& weight)
      : stride_(row_bytes(size, weight)),
        most_outliers_(size / kOutlier + 1),
        memory_(stride_ ? kAlignment + (rows + kInt8Rows) * stride_ : 0),  // with room for whole tiles of rows
        rows_(stride_ ? rows : 0),
        outliers_(stride_ ? rows * most_outliers_ : 0) {
    if (!stride_) return;
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    first_ = memory_.get() + (kAlignment - address % kAlignment) % kAlignment;
    parallel_for(rows, 1, rows * size > 16384, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; m++) quantize(x + m * ldx, size, m, *weight.int8);
    });
  }

  static int64_t depth_of(int64_t size) { return (size + kInt8Depth - 1) / kInt8Depth * kInt8Depth; }

  const char* row(int64_t m) const { return first_ + m * stride_; }
  int64_t stride() const { return stride_; }

  // to[0:kPanel] = row m of x times a panel, of which the whole numbers' sums are given
  void finish(int64_t m, const int32_t* sums, const uint8_t* w, float* to) const {
    const Row& row = rows_[m];
    for (int v = 0; v < kPanel; v += kLanes) {
      vi exact;
      std::memcpy(&exact, sums + v, sizeof exact);
      store(to + v, __builtin_convertvector(exact - row.offset, vf) * row.scale);
    }
    const Outlier* outlier = outliers_.get() + m * most_outliers_;
    for (const Outlier* end = outlier + row.num_outliers; outlier < end; outlier++) {
      const uint8_t* group = w + outlier->input / kGroup * kGroup * kPanel;
      const int shift = outlier->input % kGroup * 8;
      for (int v = 0; v < kPanel; v += kLanes) {
        vi bytes;
        std::memcpy(&bytes, group + v * kGroup, sizeof bytes);
        const vi weight = (bytes >> shift & 0xff) - kWeightOffset;
        store(to + v, load(to + v) + __builtin_convertvector(weight, vf) * outlier->value);
      }
    }
  }

 private:
  static int64_t row_bytes(int64_t size, const PackedWeight& weight) {
    if (weight.format != Format::kInt8Both) return 0;
    return depth_of(size) * (weight.int8->takes_int16 ? 2 : 1);
  }

  void quantize(const float* x, int64_t size, int64_t m, const Int8Kernel& kernel) {
    Row& row = rows_[m];
    row = {0, 0, 0};
    char* to = first_ + m * stride_;
    RowSize of(x, size, __builtin_inff());
    const float limit = of.total / static_cast<float>(size) * kOutlier;
    if (of.largest > limit) {
      Outlier* found = outliers_.get() + m * most_outliers_;
      for (int64_t k = 0; k < size && row.num_outliers < most_outliers_; k++)
        if (__builtin_fabsf(x[k]) > limit) found[row.num_outliers++] = {static_cast<int32_t>(k), x[k]};
      of = RowSize(x, size, limit);
    }
    if (!(of.total <= __FLT_MAX__)) {
      row = {__builtin_nanf(""), 0, 0};  // and so is all that is made of it
      std::memset(to, 0, static_cast<size_t>(stride_));
    } else if (of.largest < kLeastLargest) {
      std::memset(to, 0, static_cast<size_t>(stride_));
    } else {
      const int64_t depth = depth_of(size);
      const float factor = kLargestInt8 / of.largest;
      const int32_t sum = kernel.takes_int16 ? int8_row<true>(x, size, depth, factor, limit, to)
                                             : int8_row<false>(x, size, depth, factor, limit, to);
      row.scale = of.largest / kLargestInt8, row.offset = kWeightOffset * sum;
    }
  }

  int64_t stride_, most_outliers_;
  Scratch<char> memory_;
  char* first_ = nullptr;
  Scratch<Row> rows_;
  Scratch<Outlier> outliers_;
};

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
