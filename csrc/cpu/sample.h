#pragma once

#include <cstdint>

namespace antiphon {

// One id for each row of `logits` (rows, vocab, row stride ldl), each by its own settings; see kernels/sample.py.
struct SampleArgs {
  const float* logits;
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const int64_t* seeds;
  const int64_t* positions;
  int64_t* ids;
  int64_t rows, vocab, ldl;
};

void sample(const SampleArgs& args);

}  // namespace antiphon
