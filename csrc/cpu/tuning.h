// What differs between instruction sets besides the length of a vector.
#pragma once

#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

struct Tuning {
  int accumulators;   // vectors of sums that fit the registers beside the operands of a product
  int tile_rows;      // rows of a product's tile
  int query_vectors;  // vectors of values that are added up at a time for several queries
  int key_vectors;    // vectors of keys that several queries are multiplied by at a time
};

constexpr Tuning tuning_of(int lanes) {
  switch (lanes) {
    case 16: return {24, 12, 4, 2};
    case 8: return {12, 6, 2, 1};
    default: return {8, 1, 1, 1};
  }
}

constexpr Tuning kTuning = tuning_of(kLanes);

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
