// Sampling by selection: the id at a point of the distribution is found by halving, by the mass of each half, so only
// the last few are sorted. Weights and their sums are float64; of equal logits the lower id comes first.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <optional>

#include "pool.h"
#define ANTIPHON_ISA portable
#include "scratch.h"

namespace antiphon {
namespace {

using portable::Scratch;
using portable::ShortMemory;

constexpr int64_t kNoMemory = -1;
constexpr int64_t kFew = 64;  // up to this many are sorted, and summed in order

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// In [0, 1), by two rounds of SplitMix64 over seed and position.
double uniform(int64_t seed, int64_t position) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15u;
  const uint64_t state = mix(static_cast<uint64_t>(seed) ^ golden);
  const uint64_t bits = mix(state + (static_cast<uint64_t>(position) + 1) * golden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// NaN counts as minus infinity, and -0 as 0.
float ordinary(float logit) { return logit == logit ? logit + 0.0f : -std::numeric_limits<float>::infinity(); }

// A number that grows as the logit falls, and among equal logits as the id rises.
uint64_t key_of(float logit, int64_t id) {
  uint32_t bits;
  std::memcpy(&bits, &logit, sizeof bits);
  const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint32_t>(id);
}
int64_t id_of(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

struct Point {
  int64_t index;  // of the ordered keys
  double before;  // the mass before it
};

struct Row {
  const Scratch<uint64_t> keys;   // ordered only as far as has been needed
  const Scratch<double> weights;  // by id

  // False if there is too little memory, see ShortMemory.
  explicit Row(int64_t vocab) : keys(vocab, std::nothrow), weights(vocab, std::nothrow) {}
  explicit operator bool() const { return keys && weights; }

  double weight(int64_t index) const { return weights[id_of(keys[index])]; }

  double mass(int64_t begin, int64_t end) const {
    double total = 0;
    for (int64_t i = begin; i < end; i++) total += weight(i);
    return total;
  }

  // The first of the `size` likeliest at which the mass so far, its own included, is above `target`; `size` if there is
  // none. The keys before it are then those that precede it in order.
  Point find(int64_t size, double target) const {
    int64_t begin = 0, end = size;
    double before = 0;
    while (end - begin > kFew) {
      const int64_t middle = (begin + end) / 2;
      std::nth_element(keys.get() + begin, keys.get() + middle, keys.get() + end);
      const double half = mass(begin, middle);
      if (before + half > target) {
        end = middle;
      } else {
        before += half;
        begin = middle;
      }
    }
    std::sort(keys.get() + begin, keys.get() + end);
    for (; begin < end; begin++) {
      if (before + weight(begin) > target) break;
      before += weight(begin);
    }
    return {begin, before};
  }
};

// `memory` is allocated by the first row that needs it.
int64_t sample_row(const SampleArgs& a, int64_t r, std::optional<Row>& memory) {
  const float* logits = a.logits + r * a.ldl;
  float top = -std::numeric_limits<float>::infinity();
  int64_t likeliest = 0;
  for (int64_t i = 0; i < a.vocab; i++)
    if (logits[i] > top) top = logits[i], likeliest = i;
  const double temperature = a.temperature[r];
  if (!(temperature > 0) || a.top_k[r] == 1 || std::isinf(top)) return likeliest;

  if (!memory) memory.emplace(a.vocab);
  if (!*memory) return kNoMemory;
  const Row& row = *memory;
  for (int64_t i = 0; i < a.vocab; i++) {
    const float logit = ordinary(logits[i]);
    row.keys[i] = key_of(logit, i);
    // the largest is subtracted first, or a tiny temperature would overflow
    row.weights[i] = std::exp((static_cast<double>(logit) - top) / temperature);
  }
  int64_t kept = a.vocab;
  if (a.top_k[r] > 0 && a.top_k[r] < kept) {
    kept = a.top_k[r];
    std::nth_element(row.keys.get(), row.keys.get() + kept, row.keys.get() + a.vocab);
  }
  // so that a pick among few is the same whether top-k left them or there were no others
  if (kept <= kFew) std::sort(row.keys.get(), row.keys.get() + kept);
  const double total = row.mass(0, kept);
  double left = total;
  if (a.top_p[r] < 1) {
    const double wanted = static_cast<double>(a.top_p[r]) * total;
    const Point cut = row.find(kept, wanted);
    const bool begun = cut.index < kept && (cut.before < wanted || cut.index == 0);
    left = cut.before + (begun ? row.weight(cut.index) : 0);
    kept = cut.index + begun;
  }
  const Point at = row.find(kept, uniform(a.seeds[r], a.positions[r]) * left);
  int64_t index = std::min(at.index, kept - 1);
  // rounding can put the point past the last id that may be picked
  while (index > 0 && row.weight(index) == 0) index--;
  return id_of(row.keys[index]);
}

}  // namespace

void sample(const SampleArgs& a) {
  ShortMemory is_short;
  parallel_for(a.rows, 1, a.rows * a.vocab > 8192, [&](int64_t begin, int64_t end) {
    std::optional<Row> memory;
    for (int64_t r = begin; r < end; r++)
      if ((a.ids[r] = sample_row(a, r, memory)) == kNoMemory) is_short.set();
  });
  is_short.rethrow();
}

}  // namespace antiphon
