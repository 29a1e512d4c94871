// Rows of a table, widened to float32.
#pragma once

#include <cstring>

#include "kernels.h"
#include "widen.h"

namespace antiphon {
namespace ANTIPHON_ISA {

template <class W>
static void embed_row(const W* from, const float* scale, int64_t width, float* to) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int64_t count = width - i < kLanes ? width - i : kLanes;
    W some[kLanes] = {};
    std::memcpy(some, from + i, sizeof(W) * static_cast<size_t>(count));
    vf row = widen(some);
    if (scale) row *= splat(*scale);
    std::memcpy(to + i, &row, sizeof(float) * static_cast<size_t>(count));
  }
}

static void embed(const EmbedArgs& a) {
  for (int64_t i = 0; i < a.rows; i++) {
    const int64_t first = a.ids[i] * a.width;
    float* to = a.out + i * a.width;
    switch (a.format) {
      case Format::kBfloat16: embed_row(static_cast<const Bfloat16*>(a.table) + first, nullptr, a.width, to); break;
      case Format::kFloat16: embed_row(static_cast<const Float16*>(a.table) + first, nullptr, a.width, to); break;
      case Format::kInt8:
        embed_row(static_cast<const int8_t*>(a.table) + first, a.scales + a.ids[i], a.width, to);
        break;
      default:
        std::memcpy(to, static_cast<const float*>(a.table) + first, sizeof(float) * static_cast<size_t>(a.width));
    }
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
