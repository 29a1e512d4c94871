// CTC collapse: a label that equals the label of the frame before is dropped, then blanks are.
//
// Which labels are kept is as good as random, so a branch per label would be mispredicted half the time. Instead a
// vector of labels is compared with the labels one frame earlier. Those that stay are moved to its front, and the whole
// vector is stored; the next store overwrites its unused end.
#pragma once

#include "kernels.h"
#include "pool.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int64_t kParallelLabels = 1 << 17;  // below, waking threads takes longer than the work

// Calls of(frame, bits, size) for `size` labels at a time, one bit for each that stays.
template <class F>
static inline void for_kept_bits(const CtcCollapseArgs& a, int64_t row, const F& of) {
  const int32_t* labels = a.labels + a.cu_seqlens[row];
  const int64_t length = a.cu_seqlens[row + 1] - a.cu_seqlens[row];
  if (length == 0) return;
  const int32_t before = a.prev ? a.prev[row] : -1;
  of(0, static_cast<uint32_t>((labels[0] != before) & (labels[0] != a.blank)), 1);
  int64_t frame = 1;  // 64 bits: one vector past the end may exceed 32
  for (; frame + kLanes <= length; frame += kLanes)
    of(static_cast<int32_t>(frame), kept_bits(labels + frame, a.blank), kLanes);
  for (; frame < length; frame++)
    of(static_cast<int32_t>(frame),
       static_cast<uint32_t>((labels[frame] != labels[frame - 1]) & (labels[frame] != a.blank)), 1);
}

static int32_t count_kept(const CtcCollapseArgs& a, int64_t row) {
  int32_t count = 0;
  for_kept_bits(a, row, [&](int32_t, uint32_t keep, int) { count += __builtin_popcount(keep); });
  return count;
}

// Writes the row's ids and frames from `at` on; returns where they end. The row must not write from `limit` on, so
// where a whole vector does not fit before it, only the kept labels are copied.
static int32_t write_kept(const CtcCollapseArgs& a, int64_t row, int64_t at, int64_t limit) {
  const int32_t* labels = a.labels + a.cu_seqlens[row];
  for_kept_bits(a, row, [&](int32_t frame, uint32_t keep, int size) {
    const int32_t count = __builtin_popcount(keep);
    if (at + size <= limit) {
      if (size == 1) {
        a.ids[at] = labels[frame], a.frames[at] = frame;
      } else {
        compress(labels + frame, frame, keep, a.ids + at, a.frames + at);
      }
    } else if (size > 1) {
      int32_t ids[kLanes], frames[kLanes];
      compress(labels + frame, frame, keep, ids, frames);
      std::memcpy(a.ids + at, ids, sizeof(int32_t) * static_cast<size_t>(count));
      std::memcpy(a.frames + at, frames, sizeof(int32_t) * static_cast<size_t>(count));
    }
    at += count;
  });
  return static_cast<int32_t>(at);
}

static int32_t ctc_collapse(const CtcCollapseArgs& a) {
  if (a.cu_seqlens[0] != 0 || a.cu_seqlens[a.batch] != a.total) return -1;
  for (int64_t r = 0; r < a.batch; r++)
    if (a.cu_seqlens[r + 1] < a.cu_seqlens[r]) return -1;
  for (int64_t r = 0; r < a.batch; r++) {
    const int32_t end = a.cu_seqlens[r + 1];
    a.last[r] = end > a.cu_seqlens[r] ? a.labels[end - 1] : (a.prev ? a.prev[r] : -1);
  }
  a.cu_out[0] = 0;
  if (a.batch < 2 || a.total < kParallelLabels || num_threads() < 2) {
    // no row writes more than has been read, so whole vectors fit
    for (int64_t r = 0; r < a.batch; r++) a.cu_out[r + 1] = write_kept(a, r, a.cu_out[r], a.total);
    return a.cu_out[a.batch];
  }
  // Rows are counted first, so that each knows where to write and all of them can write at the same time.
  const int64_t grain = a.batch / 64 + 1;
  parallel_for(a.batch, grain, true, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) a.cu_out[r + 1] = count_kept(a, r);
  });
  for (int64_t r = 0; r < a.batch; r++) a.cu_out[r + 1] += a.cu_out[r];
  parallel_for(a.batch, grain, true, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) write_kept(a, r, a.cu_out[r], a.cu_out[r + 1]);
  });
  return a.cu_out[a.batch];
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
