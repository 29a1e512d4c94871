#include "ctc_collapse.h"

#include "pool.h"

namespace antiphon {
namespace {

// Below this many labels, waking threads takes longer than the work.
constexpr std::int32_t kParallelLabels = 1 << 15;
constexpr std::int32_t kNoLabel = -1;

struct Row {
  const std::int32_t* labels;
  std::int32_t length;
  std::int32_t prev;
};

// Calls emit(label, frame) for every label that stays.
template <typename Emit>
inline void for_each_kept(const Row& row, std::int32_t blank, Emit emit) {
  std::int32_t before = row.prev;
  for (std::int32_t frame = 0; frame < row.length; ++frame) {
    const std::int32_t label = row.labels[frame];
    if (label != before && label != blank) emit(label, frame);
    before = label;
  }
}

}  // namespace

std::int32_t ctc_collapse(const std::int32_t* labels, const std::int32_t* cu_seqlens, std::int32_t batch,
                          std::int32_t blank, const std::int32_t* prev, std::int32_t* ids, std::int32_t* cu_out,
                          std::int32_t* frames, std::int32_t* last) {
  const auto row_at = [=](std::int64_t r) {
    return Row{labels + cu_seqlens[r], cu_seqlens[r + 1] - cu_seqlens[r], prev ? prev[r] : kNoLabel};
  };
  const bool parallel = batch > 1 && cu_seqlens[batch] >= kParallelLabels;

  // Rows are counted first, so that each knows where it writes and all of them can write at a time.
  parallel_for(batch, 1, parallel, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const Row row = row_at(r);
      std::int32_t count = 0;
      for_each_kept(row, blank, [&](std::int32_t, std::int32_t) { ++count; });
      cu_out[r + 1] = count;
      last[r] = row.length ? row.labels[row.length - 1] : row.prev;
    }
  });
  cu_out[0] = 0;
  for (std::int32_t r = 0; r < batch; ++r) cu_out[r + 1] += cu_out[r];

  parallel_for(batch, 1, parallel, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::int32_t at = cu_out[r];
      for_each_kept(row_at(r), blank, [&](std::int32_t label, std::int32_t frame) {
        ids[at] = label;
        frames[at++] = frame;
      });
    }
  });
  return cu_out[batch];
}

}  // namespace antiphon
