// Reductions of one row, or of two, to a number.
#pragma once

#include "vec.h"
#include "widen.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// b: of numbers that are widened
template <class T>
static inline float dot(const float* a, const T* b, int64_t size) {
  vf acc = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) acc += load(a + i) * widen(b + i);
  if (i < size) acc += load_some(a + i, size - i) * widen_some(b + i, size - i);
  return sum(acc);
}

// The largest of the row, ignoring NaN; minus infinity if all are NaN.
static inline float largest(const float* x, int64_t size) {
  float top = -__builtin_inff();
  int64_t i = 0;
  if (size >= kLanes) {
    vf most = splat(top);
    for (; i + kLanes <= size; i += kLanes) {
      const vf v = load(x + i);
      most = select(v > most, v, most);
    }
    top = maximum(most);
  }
  for (; i < size; i++) top = x[i] > top ? x[i] : top;
  return top;
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
